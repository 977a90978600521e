"""Plots of detectors: ROC curves with a logarithmic axis, and detection by type of attack."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
    said,
    short,
    whisker,
)
from sparring.report.read import Estimate

Curve = tuple[Mark, str, Sequence[tuple[float, float]], tuple[float, float] | None]
"""A run, `clean` or `attacked`, its points `(false alarms, detection)` in [0, 1], and where its threshold puts it."""


def roc(name: str, label: str, curves: Sequence[Curve], least: float) -> str:
    """Detection against false alarms on a logarithmic axis: solid as the flows came, dashed under attack.

    Args:
        name: unique in the page.
        label: what a screen reader says.
        curves: of every run.
        least: the lowest rate of false alarms above zero that the benign flows can tell, in (0, 1].
    """

    def draw(figure: Figure, tips: Tips) -> None:
        ax = figure.subplots()
        ax.set_xscale("log")
        left = 100 * least * 0.8
        for mark, state, points, at in curves:
            colour = colour_of(mark)
            xs = [max(left, 100 * x) for x, _ in points]
            ys = [100 * y for _, y in points]
            style = "solid" if state == "clean" else (0, (4, 2))
            ax.plot(xs, ys, color=colour, linewidth=1.6, linestyle=style, drawstyle="steps-post")
            if at is not None:
                tip = tips(
                    f"{mark.letter} {mark.name}, {state}: {100 * at[1]:.1f} % at {100 * at[0]:.2g} % false alarms"
                )
                inside = colour if state == "clean" else "none"
                x = max(left, 100 * at[0])
                ax.plot(
                    [x],
                    [100 * at[1]],
                    marker=marker_of(mark),
                    color=colour,
                    markerfacecolor=inside,
                    markersize=6,
                    gid=tip,
                )
        for place, (mark, _, points, _) in enumerate([each for each in curves if each[1] == "clean" and each[2]]):
            x = left * 1.5 ** (1 + place)  # side by side, each on its own curve
            y = max((y for fp, y in points if 100 * fp <= x), default=points[0][1])
            letter(ax, mark, x, 100 * y, (0, 2), "center", "bottom")
        ax.set_xlim(left, 105)
        ax.set_ylim(-2, 103)
        ticks = [each for each in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0) if each >= left]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        ax.set_xlabel("False alarms on benign test flows, %")
        ax.set_ylabel("Detected, %")

    return drawn(name, label, (WIDTH, 3.3), draw)


Row = tuple[str, Sequence[tuple[Mark, Estimate, Estimate | None]]]
"""A type of attack, and of each run its detection as the flows came and in the worst case."""


def by_type(name: str, label: str, rows: Sequence[Row]) -> str:
    """Detection with its interval for each type of attack and run: filled as they came, hollow in the worst case."""
    most = max(len(points) for _, points in rows)
    height = 0.55 + len(rows) * (0.08 + 0.22 * most)

    def draw(figure: Figure, tips: Tips) -> None:
        ax = figure.subplots()
        for row, (title, points) in enumerate(rows):
            if row % 2 == 0:
                ax.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0)
            for place, (mark, clean, worst) in enumerate(points):
                y = row + (place - (len(points) - 1) / 2) * 0.86 / most
                apart = 0.2 / most
                whisker(ax, mark, clean, y - apart, tips(f"{mark.letter} {mark.name}, {title}: {said(clean)}"))
                if worst is not None:
                    tip = tips(f"{mark.letter} {mark.name}, {title}, worst case: {said(worst)}")
                    whisker(ax, mark, worst, y + apart, tip, hollow=True)
                if most > 1:
                    end = max(
                        100 * (e.high if e.high is not None else e.value) for e in (clean, worst) if e is not None
                    )
                    letter(ax, mark, end, y, (6, 0), "left", "center")
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.yaxis.set_major_locator(FixedLocator(list(range(len(rows)))))
        ax.set_yticklabels([short(title, 26) for title, _ in rows], color=INK)
        ax.set_xlim(-2, 107 if most > 1 else 102)
        ax.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        ax.grid(False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("Detected, %")

    return drawn(name, label, (WIDTH, height), draw)
