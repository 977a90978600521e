"""Plots of accuracy: under each attack, clean against worst case, along a budget."""

from collections.abc import Collection, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sparring.report.blocks import Mark
from sparring.report.canvas import (
    GRID,
    INK,
    WIDTH,
    Tips,
    colour_of,
    drawn,
    letter,
    marker_of,
    nudges,
    said,
    short,
    vertical,
    whisker,
)
from sparring.report.read import Estimate

Curve = tuple[Mark, Sequence[tuple[float, Estimate]]]
"""A run and its estimates along an axis."""


def per_attack(
    name: str,
    label: str,
    rows: Sequence[tuple[str, Sequence[tuple[Mark, Estimate]]]],
    *,
    hollow: Collection[tuple[str, Mark]] = (),
) -> str:
    """Accuracy with its interval for each attack (one row each) and run (one marker each).

    Args:
        name: unique in the page.
        label: what a screen reader says.
        rows: attack, and its points.
        hollow: attacks and runs whose marker is not filled.
    """
    most = max(len(points) for _, points in rows)
    height = 0.55 + len(rows) * (0.16 + 0.17 * most)

    def draw(figure: Figure, tips: Tips) -> None:
        ax = figure.subplots()
        for row, (attack, points) in enumerate(rows):
            if row % 2 == 0:
                ax.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0)
            for place, (mark, e) in enumerate(points):
                y = row + (place - (len(points) - 1) / 2) * 0.78 / most
                tip = tips(f"{mark.letter} {mark.name}, {attack}: {said(e)}")
                whisker(ax, mark, e, y, tip, hollow=(attack, mark) in hollow)
                if most > 1:
                    end = 100 * (e.high if e.high is not None else e.value)
                    letter(ax, mark, end, y, (5, 0), "left", "center")
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.yaxis.set_major_locator(FixedLocator(list(range(len(rows)))))
        ax.set_yticklabels([short(attack) for attack, _ in rows], color=INK)
        ax.set_xlim(-2, 106 if most > 1 else 102)
        ax.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        ax.grid(False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("Accuracy, %")

    return drawn(name, label, (WIDTH, height), draw)


def trade_off(name: str, label: str, points: Sequence[tuple[Mark, Estimate, Estimate]]) -> str:
    """Worst-case accuracy against clean accuracy, one marker with two interval bars per run."""

    def draw(figure: Figure, tips: Tips) -> None:
        ax = figure.subplots()
        for mark, clean, worst in points:
            colour = colour_of(mark)
            x, y = 100 * clean.value, 100 * worst.value
            for e, along in ((clean, "x"), (worst, "y")):
                if e.low is not None and e.high is not None:
                    ends = [100 * e.low, 100 * e.high]
                    xs, ys = (ends, [y, y]) if along == "x" else ([x, x], ends)
                    ax.plot(xs, ys, color=colour, linewidth=1.4, alpha=0.75)
            tip = tips(f"{mark.letter} {mark.name}: clean {said(clean)}, worst case {said(worst)}")
            ax.plot([x], [y], marker=marker_of(mark), color=colour, markersize=7, gid=tip)
            letter(ax, mark, x, y, (7, 6), "left", "bottom", size=12)
        ax.margins(0.14)
        _within_percent(ax)
        ax.set_xlabel("Accuracy without an attack, %")
        ax.set_ylabel("Worst-case accuracy, %")

    return drawn(name, label, (WIDTH, 3.3), draw)


def along(
    name: str,
    label: str,
    curves: Sequence[Curve],
    *,
    axis: str,
    lines: Sequence[tuple[float, str]] = (),
    log: bool = False,
    share: str = "Accuracy, %",
) -> str:
    """Accuracy, or another share, with its band along a budget: eps, or the number of steps.

    Args:
        name: unique in the page.
        label: what a screen reader says.
        curves: one per run.
        axis: the label of the horizontal axis.
        lines: vertical lines, each with what is written beside it.
        log: a logarithmic axis with a tick at each value.
        share: the label of the vertical axis.
    """

    def draw(figure: Figure, tips: Tips) -> None:
        ax = figure.subplots()
        if log:
            ax.set_xscale("log")
        for mark, points in curves:
            colour = colour_of(mark)
            xs, ys = [x for x, _ in points], [100 * e.value for _, e in points]
            if all(e.low is not None and e.high is not None for _, e in points):
                low = [100 * e.low for _, e in points if e.low is not None]
                high = [100 * e.high for _, e in points if e.high is not None]
                ax.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
            ax.plot(xs, ys, color=colour, linewidth=1.6)
            for x, e in points:
                tip = tips(f"{mark.letter} {mark.name} at {x:.4g}: {said(e)}")
                ax.plot([x], [100 * e.value], marker=marker_of(mark), color=colour, markersize=5, gid=tip)
        lifts = nudges([100 * points[-1][1].value for _, points in curves], 1.3)
        for (mark, points), nudge in zip(curves, lifts, strict=True):
            letter(ax, mark, points[-1][0], 100 * points[-1][1].value, (8, nudge), "left", "center")
        ax.set_ylim(-2, 104)
        ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        if log:
            ticks = sorted({x for _, points in curves for x, _ in points})
            ax.xaxis.set_major_locator(FixedLocator(_spread(ticks)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            ax.xaxis.set_major_locator(MaxNLocator(5))
        vertical(ax, lines)
        ax.set_xlabel(axis)
        ax.set_ylabel(share)

    return drawn(name, label, (WIDTH, 2.9), draw)


def _spread(ticks: Sequence[float], most: int = 7) -> list[float]:
    """Ticks that do not crowd a logarithmic axis: at least a factor 1.6 apart, the ends kept."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= 1.6 * kept[-1]:
            kept.append(tick)
    if kept and kept[-1] != ticks[-1]:
        kept[-1] = ticks[-1]
    return kept if len(kept) <= most else kept[:: 1 + len(kept) // most]


def _within_percent(ax: Axes) -> None:
    """No axis beyond 0 or 100 % by more than a margin, and none so narrow that noise looks like a difference."""
    for limits, setter in ((ax.get_xlim(), ax.set_xlim), (ax.get_ylim(), ax.set_ylim)):
        low, high = limits
        spare = max(0.0, 10 - (high - low)) / 2
        setter(max(-2.0, low - spare), min(102.0, high + spare))
