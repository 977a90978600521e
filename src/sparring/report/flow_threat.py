"""The section on what the attacker may do: which columns, how far, and what has to hold, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, flow_facts, words
from sparring.report.blocks import Block, Bullets, Cell, Heading, Table, Text
from sparring.report.read import Run, find, mapping, number, text

CHANGES = (
    ("up", "May be raised, not lowered"),
    ("down", "May be lowered, not raised"),
    ("free", "May be raised and lowered"),
    ("fixed", "May not change"),
)


def threat_model(runs: Sequence[Run]) -> list[Block]:
    """Each threat model once, with the runs that were attacked in it."""
    blocks: list[Block] = []
    groups: dict[str, list[Run]] = {}
    for run in flow_facts.evaluated(runs):
        groups.setdefault(repr(facts.threat_key(facts.threat(run))), []).append(run)
    for members in groups.values():
        threat = facts.threat(members[0])
        if len(groups) > 1:
            blocks.append(Heading(f"{flow_facts.threat_name(members[0])} of the schema {text(threat, 'schema')}"))
        blocks += _described(threat)
    return blocks + facts.lacking(runs, lambda run: bool(flow_facts.evaluation(run)), "no threat model")


def _described(threat: Mapping[str, Any]) -> list[Block]:
    eps, relations = number(threat, "eps"), find(threat, "relations")
    reach = "" if eps is None else f" Each column may move by up to {eps:g} of its range over the training rows."
    lead = (
        "Only malicious flows are the attacker’s; a benign flow is nobody’s to change. What may become of a malicious "
        f"one is what its sender could send.{reach} Counts stay whole, rates multiples of their step, and every "
        "relation that the flow satisfied goes on holding. Whatever an attack returned was held to a second check, "
        "which shares no code with it; a flow that fails it counts as it came."
    )
    return [Text(lead), _fields(mapping(threat, "fields")), *_relations(relations)]


def _fields(fields: Mapping[str, Any]) -> Table:
    rows = []
    for change, title in CHANGES:
        names = fields.get(change)
        names = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        if names:
            rows.append([Cell(title), Cell(str(len(names))), Cell(words.listing(names))])
    return Table("What an attacker may do to each column.", [Cell(c) for c in ("Change", "Columns", "Names")], rows)


def _relations(relations: Any) -> list[Block]:
    lines = [line for line in relations if isinstance(line, str)] if isinstance(relations, list) else []
    if not lines:
        return [Text("The schema declares no relations between columns.", note=True)]
    return [Text(f"{len(lines)} relations hold between the columns, before and after:"), Bullets(lines)]
