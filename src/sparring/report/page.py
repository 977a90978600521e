"""The page's content: headline, comparison, and the sections in the order in which a reader asks for them."""

from collections.abc import Sequence

from sparring.report import (
    account,
    accuracy,
    behaviour,
    facts,
    paired,
    sweeps,
    verdicts,
    words,
)
from sparring.report.beyond import beyond
from sparring.report.blocks import Block, Card, Page, Section
from sparring.report.calibration import calibration
from sparring.report.cards import card
from sparring.report.checks import checks
from sparring.report.comparison import comparison
from sparring.report.cost import cost
from sparring.report.explained import explanations
from sparring.report.facts import Group
from sparring.report.read import FORMAT, Run, mapping
from sparring.report.unmeasured import unmeasured


def assemble(runs: Sequence[Run], *, seed: int) -> Page:
    """The report about these runs. `seed` draws the examples that are shown."""
    groups = facts.groups(runs)
    missing = unmeasured(runs)
    plan: list[tuple[str, str, list[Block]]] = [
        ("comparison", "Comparison", comparison(groups)),
        ("attacks", "Accuracy under every attack", accuracy.attacks(runs)),
        ("budget", "Accuracy as the attacker’s budget grows", sweeps.budget(runs)),
        ("beyond", "Beyond the ball", beyond(runs)),
        ("training", "Training", behaviour.training(runs)),
        ("calibration", "Calibration", calibration(runs)),
        ("examples", "Adversarial examples", behaviour.gallery(runs, seed)),
        ("explanations", "Explanations", explanations(runs)),
        ("cost", "Cost", cost(runs)),
        ("checks", "Checks on the evaluation", checks(runs)),
        ("configuration", "Configuration and reproduction", account.configuration(runs)),
        ("unmeasured", "What was not measured", account.unmeasured(missing)),
    ]
    cards = [card(run) for run in runs]
    differences = [each for group in groups if len(group.runs) > 1 for each in paired.differences(group)[0]]
    return Page(
        title="Robustness report",
        subtitle=_subtitle(runs, groups),
        cards=cards,
        sections=[Section(*part) for part in plan],
        summary={
            "format": FORMAT,
            "runs": [_summary(run, card) for run, card in zip(runs, cards, strict=True)],
            "groups": [{"title": group.title, "runs": [run.letter for run in group.runs]} for group in groups],
            "differences": [each.summary() for each in differences],
            "verdicts": [each.summary() for each in verdicts.verdicts(runs)],
            "not_measured": missing,
        },
    )


def _subtitle(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    many = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    if len(groups) == 1:
        return f"{many} on {groups[0].title}"
    return f"{many} in {len(groups)} groups that do not compare: {'; '.join(group.title for group in groups)}"


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
