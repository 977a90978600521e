"""The sections on flows that let a reader repeat and doubt the work: method and citation, and what was not measured."""

from collections.abc import Sequence
from textwrap import dedent

from sparring.report import facts, flow_facts, words
from sparring.report.blocks import Block, Cell, Code, Heading, Table, Text
from sparring.report.read import Run, count, text


def method(runs: Sequence[Run]) -> list[Block]:
    """The card of each method once, and what to cite."""
    blocks: list[Block] = []
    shown: set[str] = set()
    for run in runs:
        card, citation = text(run.record, "method", "card"), text(run.record, "method", "citation")
        name = text(run.record, "system")
        if card and name not in shown:
            shown.add(name)
            blocks += [Heading(name), *_card(card)]
            blocks += [Code("To cite", citation.strip())] if citation else []
    return blocks + facts.lacking(runs, lambda run: bool(text(run.record, "method", "card")), "no card of its method")


def _card(card: str) -> list[Block]:
    """The summary, the formula, and a row for each part: a line that is not indented begins one."""
    summary, _, rest = card.strip().partition("\n\n")
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            parts.append((line.strip(), []))
        else:
            parts[-1][1].append(line)
    blocks: list[Block] = [Text(" ".join(summary.split()))]
    if formula := "\n".join(parts[0][1]).strip("\n"):
        blocks.append(Code("What is played", dedent(formula)))
    rows = [[Cell(title), Cell(" ".join(" ".join(lines).split()))] for title, lines in parts[1:]]
    return [*blocks, Table("The method’s card.", [Cell("Part"), Cell("In words")], rows)] if rows else blocks


def unmeasured(runs: Sequence[Run]) -> list[str]:
    """Sentences on what no number here speaks about."""
    some = flow_facts.evaluated(runs)
    found = []
    if nothing := [facts.label(run) for run in runs if run not in some]:
        found.append(f"Anything about the detection of {words.listing(nothing)}: not evaluated.")
    for run in some:
        n, every = count(flow_facts.evaluation(run), "n"), count(flow_facts.evaluation(run), "detection", "n")
        if n is not None and every is not None and n < every:
            said = f"{words.whole(n)} of {words.whole(every)} were attacked"
            found.append(f"All malicious test flows for {facts.label(run)}: {said}.")
    if not some:
        return found
    systems: dict[str, set[str]] = {}
    for run in some:
        systems.setdefault(text(run.record, "system"), set()).add(words.plain(run.record.get("seed")))
    if once := sorted(name for name, seeds in systems.items() if len(seeds) == 1):
        found.append(f"Other seeds of {words.listing(once)}, and so the spread between trainings.")
    found += [
        "Another network: the flows are those of one data set, and what is benign on one network is not on another.",
        "Whether what the schema lets an attacker change is all that they can change: that is declared, not measured.",
        "Attacks at the network itself, such as packets that lead to such flows: rows were changed, not traffic.",
        "A guarantee: detection in the worst case is an upper bound, which a better attack can only lower.",
    ]
    return found
