"""The section on confidence: does it mean anything, without and with an attack, and what would a temperature do?"""

from collections.abc import Mapping, Sequence
from typing import Any

from sparring.report import facts, model_plots, words
from sparring.report.blocks import Block, Cell, Figure, Figures, Heading, Table, Text
from sparring.report.read import Estimate, Run, count, estimate, find, items, mapping, number

STATES = (("clean", "without an attack"), ("attacked", "under attack"))

FIGURES = (
    ("adaptive_ece", "Adaptive ECE", "takes bins that hold equally many examples each"),
    ("brier", "Brier score", "is the mean squared distance of the predicted probabilities from the truth, from 0 to 2"),
    ("nll", "NLL", "is the mean negative log-likelihood of the true class, in nats"),
)
"""Figures beside the expected calibration error: key, name, what it is."""

PROPER = FIGURES[1:]
"""Those that are proper scores, which temperature scaling is judged by."""


def calibration(runs: Sequence[Run]) -> list[Block]:
    """Every figure of calibration, the reliability diagrams, and temperature scaling apart from them."""
    rows, present = _rows(runs)
    lead = (
        "A calibrated model that is 80 % sure is right 80 % of the time: its points lie on the diagonal. The "
        "expected calibration error (ECE) is the mean distance from it over all examples, bin by bin."
    )
    lead += "".join(f" {name} {what}." for key, name, what in FIGURES if key in present)
    blocks: list[Block] = [Text(lead + " For each of them lower is better." if present else lead)]
    if rows:
        names = [name for key, name, _ in FIGURES if key in present]
        head = ["Run", "Inputs", "ECE", *names, "n"]
        caption = "Calibration; below each figure its 95 % interval. 0 is perfect."
        blocks.append(Table(caption, [Cell(title) for title in head], rows))
    for run in runs:
        if figures := _diagrams(run):
            blocks += [Heading("", facts.mark(run)), Figures(figures)]
    blocks += facts.lacking(runs, lambda run: bool(_parts(run)), "no calibration")
    return blocks + _temperature(runs)


def ece(run: Run, state: str) -> Estimate | None:
    """The expected calibration error of a run in a state of its inputs."""
    return estimate(mapping(_parts(run), state), "ece")


def _parts(run: Run) -> Mapping[str, Any]:
    return mapping(run.record, "evaluation", "calibration")


def _rows(runs: Sequence[Run]) -> tuple[list[list[Cell]], set[str]]:
    """The table's rows, and which figures any of them has."""
    states = []
    for run in runs:
        views = facts.views(run)
        for i, view in enumerate(views):
            for state, title in STATES:
                part = mapping(_parts(view), state)
                if estimate(part, "ece") is not None and (state == "attacked" or i == 0):
                    under = words.threat_name(facts.threat(view)) if len(views) > 1 and state == "attacked" else ""
                    states.append((run, Cell(title, detail=under), part))
    present = {key for key, _, _ in FIGURES if any(_figure(part, key) for _, _, part in states)}
    rows = []
    for run, inputs, part in states:
        e = estimate(part, "ece")
        rest = [_stacked(_figure(part, key)) for key, _, _ in FIGURES if key in present]
        counted = Cell(words.whole(e.n if e else None))
        rows.append([Cell(run.name, mark=facts.mark(run)), inputs, _stacked(e), *rest, counted])
    return rows, present


def _stacked(e: Estimate | None, before: Estimate | None = None) -> Cell:
    """A figure above its interval, and above what it was before."""
    if e is None:
        return Cell("–")
    ends = "" if e.low is None or e.high is None else f"{e.low:.3f} to {e.high:.3f}"
    was = "" if before is None else f"before {words.error(before)}"
    return Cell(f"{e.value:.3f}", detail="; ".join(part for part in (ends, was) if part))


def _figure(part: Mapping[str, Any], key: str) -> Estimate | None:
    return estimate(find(part, key), "value", n=count(part, "n"))


def _diagrams(run: Run) -> list[Figure]:
    """Reliability without an attack and under the first threat model's."""
    found = []
    for state, title in STATES:
        e, bins = ece(run, state), _bins(mapping(_parts(run), state))
        if bins:
            label = f"Reliability of {run.name} {title}; ECE {words.error(e)}."
            svg = model_plots.reliability(f"calibration{run.index}{state}", label, bins, facts.mark(run))
            caption = f"{words.sentence(title).rstrip('.')}: ECE {words.error(e)}. Below: the share of examples."
            found.append(Figure(svg, caption))
    return found


def _bins(part: Mapping[str, Any]) -> list[tuple[float, float, float | None, float | None, int]]:
    found = []
    for item in items(part, "bins"):
        low, high, n = number(item, "low"), number(item, "high"), count(item, "count")
        if low is not None and high is not None and n is not None and high > low:
            found.append((low, high, number(item, "confidence"), number(item, "accuracy"), n))
    return found


def _temperature(runs: Sequence[Run]) -> list[Block]:
    """What one number for all examples would repair, which is no merit of the model."""
    rows = []
    for run in runs:
        for state, title in STATES:
            part = mapping(run.record, "evaluation", "temperature", state)
            before, after = mapping(part, "before"), mapping(part, "after")
            if (value := number(part, "temperature")) is None or estimate(after, "ece") is None:
                continue
            fitted = count(part, "n_fit")
            detail = "" if fitted is None else f"fitted on {words.whole(fitted)}"
            detail += ", at the end of the range searched" if find(part, "bounded") is True else ""
            rows.append(
                [
                    Cell(run.name, mark=facts.mark(run)),
                    Cell(title),
                    Cell(f"{value:.2f}", detail=detail.removeprefix(", ")),
                    _stacked(estimate(after, "ece"), estimate(before, "ece")),
                    *(_stacked(_figure(after, key), _figure(before, key)) for key, _, _ in PROPER),
                    Cell(words.whole(count(after, "n"))),
                ]
            )
    if not rows:
        return []
    lead = Text(
        "Temperature scaling divides all logits by one number that is fitted on clean examples. It changes no "
        "answer. What it achieves is reported apart: a model that needs it is not calibrated. The figures are on "
        "examples that the temperature was not fitted to, so those before differ from the table above."
    )
    head = ["Run", "Inputs", "Temperature", "ECE", *(name for _, name, _ in PROPER), "n"]
    title = "After temperature scaling; below each figure its 95 % interval, and what it was before."
    return [Heading("With temperature scaling"), lead, Table(title, [Cell(title) for title in head], rows)]
