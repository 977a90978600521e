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
        head = ["Run", "Inputs", "ECE (95 % interval)", *names, "n"]
        caption = "Expected calibration error; 0 is perfect." if not present else "Calibration, with 95 % intervals."
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
                    under = f", {words.threat_name(facts.threat(view))}" if len(views) > 1 else ""
                    states.append((run, title + (under if state == "attacked" else ""), part))
    present = {key for key, _, _ in FIGURES if any(_figure(part, key) for _, _, part in states)}
    rows = []
    for run, title, part in states:
        e = estimate(part, "ece")
        rest = [Cell(words.error(_figure(part, key))) for key, _, _ in FIGURES if key in present]
        counted = Cell(words.whole(e.n if e else None))
        rows.append([Cell(run.name, mark=facts.mark(run)), Cell(title), Cell(words.error(e)), *rest, counted])
    return rows, present


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
            end = ", the end of the range searched" if find(part, "bounded") is True else ""
            fitted = count(part, "n_fit")
            rows.append(
                [
                    Cell(run.name, mark=facts.mark(run)),
                    Cell(title),
                    Cell(f"{value:.2f}{end}", detail="" if fitted is None else f"fitted on {words.whole(fitted)}"),
                    *(Cell(words.error(estimate(side, "ece"))) for side in (before, after)),
                    *(Cell(words.error(_figure(side, "nll"))) for side in (before, after)),
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
    head = ["Run", "Inputs", "Temperature", "ECE before", "ECE after", "NLL before", "NLL after", "n"]
    table = Table("Temperature scaling, with 95 % intervals.", [Cell(title) for title in head], rows)
    return [Heading("With temperature scaling"), lead, table]
