"""The section on doubt: every check of the evaluation, those that failed first."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text, Tone
from sparring.report.read import Run, text

QUESTIONS = {
    "verified": "Is every adversarial input allowed?",
    "crosses-the-ball": "Are the steps long enough?",
    "loss-rose": "Does the loss rise under attack?",
    "eps-monotone": "Does a larger eps never help the model?",
    "steps-monotone": "Do more steps never help the model?",
    "large-eps": "Does a huge eps win?",
    "logits": "Does the model answer with logits?",
    "deterministic": "Is the same input answered alike?",
    "gradient-alive": "Is there a gradient to follow?",
    "finite-differences": "Is the gradient the model’s slope?",
    "random-noise": "Is noise weaker than the attacks?",
    "restarts": "Do restarts add little?",
    "losses-agree": "Do both losses find the same?",
    "attacks-agree": "Does one attack find most of it?",
    "labels": "Is every output a label?",
    "black-box": "Do gradients find more than none?",
    "transfer": "Does another model’s attack find less?",
    "feasible": "Could every changed flow have been sent?",
    "white-box": "Is knowing the detector worth more than a copy?",
    "queries-monotone": "Do more queries never help the detector?",
}
"""What each check asks; the answer of a model that hides nothing is yes."""


def checks(runs: Sequence[Run]) -> list[Block]:
    """Is there reason to doubt the numbers above?"""
    blocks: list[Block] = [
        Text(
            "Each check looks for a way in which an evaluation fools itself, such as gradients that lead the attack "
            "nowhere. A failed check means that the accuracy under attack may be too high."
        )
    ]
    for run in runs:
        views = facts.views(run)
        if not any(facts.checks(view) for view in views):
            continue
        blocks.append(Heading("", facts.mark(run)))
        for i, view in enumerate(views):
            if facts.checks(view):
                under = f" under {words.threat_name(facts.threat(view))}" if len(views) > 1 else ""
                blocks += _of(view, under, folded=i > 0)
    return blocks + facts.lacking(runs, lambda run: facts.all_checks(run)[1] > 0, "no checks")


def _of(run: Run, under: str, *, folded: bool) -> list[Block]:
    """Failed checks with what to do, then those that passed, which may be folded away."""
    failed = facts.failed(run)
    passed = [check for check in facts.checks(run) if text(check, "verdict") == "pass"]
    total = len(failed) + len(passed)
    blocks: list[Block] = []
    if failed:
        title = f"{len(failed)} of {total} checks on the evaluation of {run.name}{under} failed."
        head = [Cell(each) for each in ("Check", "Verdict", "Figure, and what to do")]
        blocks.append(Table(title, head, [_cells(check, text(check, "advice")) for check in failed]))
    if passed:
        number = f"{len(passed)} of {total}" if failed else f"All {total}"
        title = f"{number} checks on the evaluation of {run.name}{under} passed{'' if folded else '.'}"
        head = [Cell(each) for each in ("Check", "Verdict", "Figure")]
        blocks.append(Table(title, head, [_cells(check, "") for check in passed], folded=folded))
    return blocks


def _cells(check: Mapping[str, Any], advice: str) -> list[Cell]:
    name, verdict = text(check, "name"), text(check, "verdict") or "unknown"
    question = QUESTIONS.get(name)
    first = Cell(question, detail=name) if question else Cell(name or "unnamed")
    tone: Tone = "good" if verdict == "pass" else "bad"
    return [first, Cell(verdict, tone), Cell(text(check, "figure") or "–", detail=advice)]
