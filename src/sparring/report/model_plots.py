"""Plots of the models themselves: something per epoch, and confidence against accuracy."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from sparring.report.blocks import Mark
from sparring.report.canvas import INK, MUTED, WIDTH, Tips, colour_of, drawn, marker_of, nudges, vertical


def history(
    name: str,
    label: str,
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], Mark, bool]],
    *,
    axis: str,
    lines: Sequence[tuple[float, str]] = (),
    whole: bool = False,
) -> str:
    """Something per epoch, one line per curve, labelled at its end.

    Args:
        name: unique in the page.
        label: what a screen reader says.
        curves: label, `(epoch, value)` points, the run, and whether the line is dashed.
        axis: the label of the vertical axis.
        lines: vertical lines, each with what is written beside it.
        whole: values are percentages, shown from 0 to 100.
    """

    def draw(figure: Figure, tips: Tips) -> None:
        ax = figure.subplots()
        for title, points, mark, dashed in curves:
            xs, ys = [x for x, _ in points], [y for _, y in points]
            style = (0, (4, 2)) if dashed else "solid"
            last = f"{title + ', ' if title else ''}epoch {xs[-1]:g}: {ys[-1]:.4g}"
            ax.plot(xs, ys, color=colour_of(mark), linewidth=1.6, linestyle=style, gid=tips(last))
            if len(xs) == 1:
                ax.plot(xs, ys, color=colour_of(mark), marker=marker_of(mark))
        ends = [(title, *points[-1]) for title, points, _, _ in curves if title]
        for (title, x, y), nudge in zip(ends, nudges([y for _, _, y in ends], 2.0 if whole else 0.0), strict=True):
            ax.annotate(title, (x, y), (5, nudge), textcoords="offset points", ha="left", va="center", color=INK)
        if whole:
            ax.set_ylim(-2, 104)
            ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        else:
            ax.margins(y=0.12)
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        vertical(ax, lines)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("Epoch")
        ax.set_ylabel(axis)

    return drawn(name, label, (WIDTH, 2.7), draw)


def reliability(
    name: str, label: str, bins: Sequence[tuple[float, float, float | None, float | None, int]], mark: Mark
) -> str:
    """Accuracy against confidence by bin `(low, high, confidence, accuracy, count)`, above each bin's share."""
    total = max(1, sum(n for *_, n in bins))

    def draw(figure: Figure, tips: Tips) -> None:
        ax, below = figure.subplots(2, 1, height_ratios=[4, 1])
        ax.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        colour = colour_of(mark)
        for low, high, confidence, accuracy, n in bins:
            if not n or accuracy is None:
                continue
            middle, width = 50 * (low + high), 100 * (high - low)
            tip = f"confidence {100 * low:.0f} to {100 * high:.0f} %: {100 * accuracy:.1f} % right, n = {n}"
            ax.bar([middle], [100 * accuracy], width=0.86 * width, color=colour, alpha=0.3, linewidth=0)
            x = 100 * confidence if confidence is not None else middle
            ax.plot(
                [x], [100 * accuracy], marker=marker_of(mark), color=colour, markersize=5, gid=tips(tip), clip_on=False
            )
            below.bar([middle], [100 * n / total], width=0.86 * width, color=colour, alpha=0.75, linewidth=0)
        for axes, top in ((ax, 104), (below, 104)):
            axes.set_xlim(-1, 101)
            axes.set_ylim(0, top)
            axes.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        below.yaxis.set_major_locator(FixedLocator([0, 100]))
        ax.tick_params(labelbottom=False)
        ax.set_ylabel("Accuracy, %")
        below.set_ylabel("Share, %")
        below.set_xlabel("Confidence, %")

    return drawn(name, label, (WIDTH, 3.4), draw)
