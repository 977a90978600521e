"""Accuracy under corruptions that nobody chose to do harm: noise, blur, weather, a bad encoder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparring.report import facts, words
from sparring.report.blocks import Block, Cell, Heading, Table, Text
from sparring.report.facts import Group
from sparring.report.read import Estimate, Run, count, estimate, find, items, mapping, number, text

NAMES = {"jpeg": "JPEG"}
"""What a corruption is called where its key does not say it."""


def blocks(group: Group) -> list[Block]:
    """The runs of a group side by side, then each corruption and severity of each run as a heat table."""
    runs = [run for run in group.runs if mean(run) is not None]
    if not runs:
        return []
    lead = Text(
        "Corruptions are not chosen to do harm; a camera, the weather or a bad encoder makes them. The mean takes "
        "every corruption and severity alike."
        + (
            " The mean corruption error (mCE) is the error in units of a reference run’s: 1 is as good as the "
            "reference, less is better. It has no interval."
            if any(number(_part(run), "mce") is not None for run in runs)
            else ""
        )
    )
    found: list[Block] = [Heading(f"Corruptions on {group.title}"), lead, _means(group, runs)]
    for run in runs:
        if table := _heat(run):
            found += [Heading("corruption by corruption", facts.mark(run)), table, _intervals(run)]
    return found


def mean(run: Run) -> Estimate | None:
    """Accuracy over all corruptions and severities."""
    return estimate(_part(run))


def _part(run: Run) -> Mapping[str, Any]:
    return mapping(run.record, "evaluation", "shift")


def _means(group: Group, runs: Sequence[Run]) -> Table:
    head = ["Run", "Clean accuracy", "Corrupted, mean", "ECE, clean", "ECE, mean", "mCE", "n"]
    rows = []
    for run in runs:
        part, e = _part(run), mean(run)
        clean, ece, mce = estimate(find(part, "clean")), number(part, "ece"), number(part, "mce")
        rows.append(
            [
                Cell(run.name, mark=facts.mark(run)),
                Cell(words.share(clean), share=clean),
                Cell(words.share(e), share=e),
                Cell(words.error(estimate(find(part, "clean", "ece"), "ece"))),
                Cell("–" if ece is None else f"{ece:.3f}"),
                Cell("–" if mce is None else f"{mce:.2f}", detail="" if mce is None else _reference(group, run)),
                Cell(words.whole(e.n if e else None)),
            ]
        )
    caption = f"Corruptions on {group.title}: means, with 95 % intervals where there are any."
    return Table(caption, [Cell(title) for title in head], rows)


def _reference(group: Group, run: Run) -> str:
    """In whose errors the mCE is measured: a run of this report by its label, another by its folder's name."""
    recorded = text(_part(run), "reference")
    if not recorded:
        return "reference not recorded"
    for other in group.runs:
        if str(other.folder.resolve()) == os.path.abspath(recorded):
            return f"of {facts.label(other)}"
    return f"of {Path(recorded).name}"


def _named(run: Run) -> list[tuple[str, Mapping[str, Any]]]:
    """Corruptions in the order of the record, those that have severities."""
    found = mapping(_part(run), "corruptions")
    return [(name, mapping(part)) for name, part in found.items() if items(part, "severities")]


def _title(name: str) -> str:
    plain = name.replace("_", " ")
    return NAMES.get(name, plain[:1].upper() + plain[1:])


def _severities(run: Run) -> list[float]:
    rows = [row for _, part in _named(run) for row in items(part, "severities")]
    return sorted({severity for row in rows if (severity := number(row, "severity")) is not None})


def _at(part: Mapping[str, Any], severity: float) -> Estimate | None:
    return next((estimate(row) for row in items(part, "severities") if number(row, "severity") == severity), None)


def _heat(run: Run) -> Table | None:
    named, severities = _named(run), _severities(run)
    if not named or not severities:
        return None
    ratios = mapping(_part(run), "ce")
    head = [Cell("Corruption"), *(Cell(f"{severity:g}", heat=0) for severity in severities)]
    head += [Cell(title) for title in ("Mean (95 % interval)", "ECE, mean", *(["CE"] if ratios else []))]
    rows = []
    for name, part in named:
        row = [Cell(_title(name))]
        for severity in severities:
            e = _at(part, severity)
            row.append(Cell("–" if e is None else f"{100 * e.value:.0f}", heat=None if e is None else _lost(e)))
        ece = number(part, "ece")
        row += [Cell(words.share(estimate(part))), Cell("–" if ece is None else f"{ece:.3f}")]
        if ratios:
            ratio = number(ratios, name)
            row.append(Cell("–" if ratio is None else f"{ratio:.2f}"))
        rows.append(row)
    n = count(_part(run), "n")
    counted = f", n = {words.whole(n)}" if n is not None else ""
    caption = f"Accuracy of {run.name} in % at each severity{counted}. The stronger the colour, the more is lost."
    caption += " CE: errors in units of the reference’s." if ratios else ""
    return Table(caption, head, rows)


def _lost(e: Estimate) -> float:
    return min(1.0, max(0.0, 1 - e.value))


def _intervals(run: Run) -> Table:
    severities = _severities(run)
    head = [Cell("Corruption"), *(Cell(f"Severity {severity:g}") for severity in severities)]
    rows = [
        [Cell(_title(name)), *(Cell(words.share(_at(part, severity))) for severity in severities)]
        for name, part in _named(run)
    ]
    return Table(f"The same with 95 % intervals: {run.name}", head, rows, folded=True)
