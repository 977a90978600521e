"""The page's content: headline, comparison, and the sections in the order in which a reader asks for them.

Runs on flows have sections of their own, and so do all others; what any run has (training, cost, checks,
configuration) is shown together.
"""

from collections.abc import Sequence

from sparring.report import (
    account,
    accuracy,
    behaviour,
    facts,
    flow_account,
    flow_cards,
    flow_comparison,
    flow_detection,
    flow_facts,
    flow_threat,
    paired,
    sweeps,
    text_diffs,
    texts,
    verdicts,
    words,
)
from sparring.report.beyond import beyond
from sparring.report.blocks import Block, Card, Page, Section, Text
from sparring.report.calibration import calibration
from sparring.report.cards import card
from sparring.report.checks import checks
from sparring.report.comparison import comparison
from sparring.report.cost import cost
from sparring.report.explained import explanations
from sparring.report.facts import Group
from sparring.report.injections import injections
from sparring.report.read import FORMAT, Run, mapping
from sparring.report.unmeasured import unmeasured


def assemble(runs: Sequence[Run], *, seed: int) -> Page:
    """The report about these runs. `seed` draws the examples that are shown."""
    flows = [run for run in runs if flow_facts.is_flow(run)]
    others = [run for run in runs if run not in flows]
    groups = facts.groups(runs)
    missing = (unmeasured(others) if others else []) + (flow_account.unmeasured(flows) if flows else [])
    plan: list[tuple[str, str, list[Block]]] = []
    if others:
        plan += _accuracy(others, apart=bool(flows))
    if flows:
        plan += _detection(flows, apart=bool(others))
    plan.append(("training", "Training", behaviour.training(runs)))
    if others:
        plan += _closer(others, seed)
    plan += [
        ("cost", "Cost", cost(runs)),
        ("checks", "Checks on the evaluation", checks(runs)),
        ("configuration", "Configuration and reproduction", account.configuration(runs)),
        ("unmeasured", "What was not measured", account.unmeasured(missing)),
    ]
    cards = [flow_cards.card(run) if run in flows else card(run) for run in runs]
    differences = [each for group in groups if len(group.runs) > 1 for each in paired.differences(group)[0]]
    return Page(
        title="Robustness report",
        subtitle=_subtitle(runs, groups),
        cards=cards,
        sections=[Section(*part) for part in plan],
        summary={
            "format": FORMAT,
            "runs": [_summary(run, card) for run, card in zip(runs, cards, strict=True)],
            "groups": [{"title": _title(group), "runs": [run.letter for run in group.runs]} for group in groups],
            "differences": [each.summary() for each in differences],
            "verdicts": [each.summary() for each in verdicts.verdicts(others)],
            "not_measured": missing,
        },
    )


def _accuracy(runs: Sequence[Run], *, apart: bool) -> list[tuple[str, str, list[Block]]]:
    """The sections on accuracy. `apart`: the page has runs on flows too."""
    injected, written = injections(runs), texts.attacks(runs)
    return [
        ("comparison", "Comparison", [*_apart(apart), *comparison(facts.groups(runs))]),
        *([("injections", "Instructions in the data", injected)] if injected else []),
        *([("texts", "Attacks on the text", written)] if written else []),
        ("attacks", "Accuracy under every attack", accuracy.attacks(runs)),
        ("budget", "Accuracy as the attacker’s budget grows", sweeps.budget(runs)),
        ("beyond", "Beyond the ball", beyond(runs)),
    ]


def _closer(runs: Sequence[Run], seed: int) -> list[tuple[str, str, list[Block]]]:
    """The sections on the models behind those accuracies. `seed` draws the examples that are shown."""
    return [
        ("calibration", "Calibration", calibration(runs)),
        ("examples", "Adversarial examples", [*behaviour.gallery(runs, seed), *text_diffs.examples(runs, seed)]),
        ("explanations", "Explanations", explanations(runs)),
    ]


def _detection(runs: Sequence[Run], *, apart: bool) -> list[tuple[str, str, list[Block]]]:
    """The sections on flows. `apart`: the page has other runs too."""
    return [
        ("detectors", "Detectors of flows", [*_apart(apart), *flow_comparison.comparison(runs)]),
        ("rates", "Detection and false alarms", flow_detection.curves(runs)),
        ("flow-attacks", "Detection under every attack", flow_detection.attacks(runs)),
        ("types", "Detection by type of attack", flow_detection.types(runs)),
        ("threat", "What the attacker may do", flow_threat.threat_model(runs)),
        ("method", "Method and citation", flow_account.method(runs)),
    ]


def _apart(apart: bool) -> list[Block]:
    said = (
        "This page shows runs on flows and runs on other data. Detection of flows is the share of malicious ones that "
        "raise an alarm, accuracy the share of all examples that are right: the two must not be compared."
    )
    return [Text(said, note=True)] if apart else []


def _title(group: Group) -> str:
    return flow_facts.title(group) if flow_facts.is_flow(group.runs[0]) else group.title


def _subtitle(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    many = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    if len(groups) == 1:
        return f"{many} on {_title(groups[0])}"
    return f"{many} in {len(groups)} groups that do not compare: {'; '.join(_title(group) for group in groups)}"


def _summary(run: Run, card: Card) -> dict[str, object]:
    """The run for machines: what the record says, less the long lists, with the report's own findings."""
    record = run.record
    kept = ("system", "status", "seed", "config", "training", "data", "model", "best", "timing", "command", "commit")
    summary: dict[str, object] = {"letter": run.letter, "name": run.name, "folder": run.folder.name}
    summary |= {key: record.get(key) for key in (*kept, "versions", "hardware")}
    evaluation = mapping(record, "evaluation")
    summary["evaluation"] = dict(evaluation) if evaluation else None
    summary["sentence"] = card.sentence
    summary["warnings"] = list(card.warnings)
    return {key: words.finite(value) for key, value in summary.items()}
