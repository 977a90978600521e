"""Plots as inline SVG, each drawn once for light and dark: colours are placeholders that become CSS variables.

Figures are made small (4.5 inches are 324 SVG units), so that text stays legible when a phone shows them at about
their natural size. Text stays text and takes the page's font. Runs are told apart by letter and marker, never by
colour alone. No string from a record is parsed as mathematics.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparring.report.blocks import Mark
from sparring.report.read import Estimate

COLOURS = 6
"""How many series colours the page's style sheet defines; marker shapes go on changing after that."""

INK, MUTED, GRID, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = tuple(f"#0a0c{i:02x}" for i in range(1, COLOURS + 1))
MARKERS = ("o", "s", "^", "D", "v", "P")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES, 1)
}

MOST_LABELS = 10
"""More labels than this at the ends of lines do not fit above each other, and stay where they are."""

WIDTH = 4.5
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.unicode_minus": False,
}

Curve = tuple[Mark, Sequence[tuple[float, Estimate]]]
"""A run and its estimates along an axis."""


@dataclass
class _Tips:
    """Tooltips: an SVG group id for each, and the text that goes into it."""

    texts: dict[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        gid = f"tip{len(self.texts)}"
        self.texts[gid] = text
        return gid


def per_attack(name: str, label: str, rows: Sequence[tuple[str, Sequence[tuple[Mark, Estimate]]]]) -> str:
    """Accuracy with its interval for each attack (one row each) and run (one marker each)."""
    most = max(len(points) for _, points in rows)
    height = 0.55 + len(rows) * (0.16 + 0.17 * most)

    def draw(figure: Figure, tips: _Tips) -> None:
        ax = figure.subplots()
        for row, (attack, points) in enumerate(rows):
            if row % 2 == 0:
                ax.axhspan(row - 0.5, row + 0.5, color=GRID, alpha=0.35, linewidth=0)
            for place, (mark, e) in enumerate(points):
                y = row + (place - (len(points) - 1) / 2) * 0.78 / most
                tip = tips(f"{mark.letter} {mark.name}, {attack}: {_said(e)}")
                _whisker(ax, mark, e, y, tip)
                if most > 1:
                    end = 100 * (e.high if e.high is not None else e.value)
                    _letter(ax, mark, end, y, (5, 0), "left", "center")
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.yaxis.set_major_locator(FixedLocator(list(range(len(rows)))))
        ax.set_yticklabels([_short(attack) for attack, _ in rows], color=INK)
        ax.set_xlim(-2, 106 if most > 1 else 102)
        ax.xaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        ax.grid(False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.set_xlabel("Accuracy, %")

    return _svg(name, label, (WIDTH, height), draw)


def trade_off(name: str, label: str, points: Sequence[tuple[Mark, Estimate, Estimate]]) -> str:
    """Worst-case accuracy against clean accuracy, one marker with two interval bars per run."""

    def draw(figure: Figure, tips: _Tips) -> None:
        ax = figure.subplots()
        for mark, clean, worst in points:
            colour = colour_of(mark)
            x, y = 100 * clean.value, 100 * worst.value
            for e, along in ((clean, "x"), (worst, "y")):
                if e.low is not None and e.high is not None:
                    ends = [100 * e.low, 100 * e.high]
                    xs, ys = (ends, [y, y]) if along == "x" else ([x, x], ends)
                    ax.plot(xs, ys, color=colour, linewidth=1.4, alpha=0.75)
            tip = tips(f"{mark.letter} {mark.name}: clean {_said(clean)}, worst case {_said(worst)}")
            ax.plot([x], [y], marker=marker_of(mark), color=colour, markersize=7, gid=tip)
            _letter(ax, mark, x, y, (7, 6), "left", "bottom", size=12)
        ax.margins(0.14)
        _within_percent(ax)
        ax.set_xlabel("Accuracy without an attack, %")
        ax.set_ylabel("Worst-case accuracy, %")

    return _svg(name, label, (WIDTH, 3.3), draw)


def along(
    name: str,
    label: str,
    curves: Sequence[Curve],
    *,
    axis: str,
    lines: Sequence[tuple[float, str]] = (),
    log: bool = False,
) -> str:
    """Accuracy with its band along a budget: eps, or the number of steps.

    Args:
        name: unique in the page.
        label: what a screen reader says.
        curves: one per run.
        axis: the label of the horizontal axis.
        lines: vertical lines, each with what is written beside it.
        log: a logarithmic axis with a tick at each value.
    """

    def draw(figure: Figure, tips: _Tips) -> None:
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
                tip = tips(f"{mark.letter} {mark.name} at {x:.4g}: {_said(e)}")
                ax.plot([x], [100 * e.value], marker=marker_of(mark), color=colour, markersize=5, gid=tip)
        nudges = _nudges([100 * points[-1][1].value for _, points in curves], 1.3)
        for (mark, points), nudge in zip(curves, nudges, strict=True):
            _letter(ax, mark, points[-1][0], 100 * points[-1][1].value, (8, nudge), "left", "center")
        ax.set_ylim(-2, 104)
        ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        if log:
            ticks = sorted({x for _, points in curves for x, _ in points})
            ax.xaxis.set_major_locator(FixedLocator(_spread(ticks)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        _vertical(ax, lines)
        ax.set_xlabel(axis)
        ax.set_ylabel("Accuracy, %")

    return _svg(name, label, (WIDTH, 2.9), draw)


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

    def draw(figure: Figure, tips: _Tips) -> None:
        ax = figure.subplots()
        for title, points, mark, dashed in curves:
            xs, ys = [x for x, _ in points], [y for _, y in points]
            style = (0, (4, 2)) if dashed else "solid"
            last = f"{title + ', ' if title else ''}epoch {xs[-1]:g}: {ys[-1]:.4g}"
            ax.plot(xs, ys, color=colour_of(mark), linewidth=1.6, linestyle=style, gid=tips(last))
            if len(xs) == 1:
                ax.plot(xs, ys, color=colour_of(mark), marker=marker_of(mark))
        ends = [(title, *points[-1]) for title, points, _, _ in curves if title]
        for (title, x, y), nudge in zip(ends, _nudges([y for _, _, y in ends], 2.0 if whole else 0.0), strict=True):
            ax.annotate(title, (x, y), (5, nudge), textcoords="offset points", ha="left", va="center", color=INK)
        if whole:
            ax.set_ylim(-2, 104)
            ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
        else:
            ax.margins(y=0.12)
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        _vertical(ax, lines)
        ax.set_xlabel("Epoch")
        ax.set_ylabel(axis)

    return _svg(name, label, (WIDTH, 2.7), draw)


def reliability(
    name: str, label: str, bins: Sequence[tuple[float, float, float | None, float | None, int]], mark: Mark
) -> str:
    """Accuracy against confidence by bin `(low, high, confidence, accuracy, count)`, above each bin's share."""
    total = max(1, sum(n for *_, n in bins))

    def draw(figure: Figure, tips: _Tips) -> None:
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

    return _svg(name, label, (WIDTH, 3.4), draw)


def colour_of(mark: Mark) -> str:
    return SERIES[mark.index % COLOURS]


def marker_of(mark: Mark) -> str:
    """Shapes go round once more out of step with the colours, so that 36 runs differ in one or the other."""
    return MARKERS[(mark.index + mark.index // COLOURS) % len(MARKERS)]


def _whisker(ax: Axes, mark: Mark, e: Estimate, y: float, gid: str) -> None:
    colour = colour_of(mark)
    if e.low is not None and e.high is not None:
        ax.plot([100 * e.low, 100 * e.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.plot([100 * e.value], [y], marker=marker_of(mark), color=colour, markersize=5.5, gid=gid)


def _letter(
    ax: Axes, mark: Mark, x: float, y: float, offset: tuple[float, float], ha: str, va: str, size: float = 10
) -> None:
    ax.annotate(
        mark.letter,
        (x, y),
        offset,
        textcoords="offset points",
        color=colour_of(mark),
        weight="bold",
        fontsize=size,
        ha=ha,
        va=va,
        annotation_clip=False,
    )


def _nudges(values: Sequence[float], scale: float, least: float = 11.0) -> list[float]:
    """How far in points to lift the label at each value so that no two labels overlap.

    Args:
        values: where the labels would be.
        scale: points per unit of value, roughly.
        least: points between two labels.
    """
    lifted = [0.0] * len(values)
    if len(values) > MOST_LABELS:
        return lifted
    floor = -float("inf")
    for i in sorted(range(len(values)), key=lambda i: values[i]):
        place = max(scale * values[i], floor)
        lifted[i] = place - scale * values[i]
        floor = place + least
    return lifted


def _spread(ticks: Sequence[float], most: int = 7) -> list[float]:
    """Ticks that do not crowd a logarithmic axis: at least a factor 1.6 apart, the ends kept."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or tick >= 1.6 * kept[-1]:
            kept.append(tick)
    if kept and kept[-1] != ticks[-1]:
        kept[-1] = ticks[-1]
    return kept if len(kept) <= most else kept[:: 1 + len(kept) // most]


def _vertical(ax: Axes, lines: Sequence[tuple[float, str]]) -> None:
    for x, title in lines:
        ax.axvline(x, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        ax.annotate(
            title,
            (x, 1.0),
            (0, 2),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=MUTED,
        )


def _within_percent(ax: Axes) -> None:
    """No axis beyond 0 or 100 % by more than a margin, and none so narrow that noise looks like a difference."""
    for limits, setter in ((ax.get_xlim(), ax.set_xlim), (ax.get_ylim(), ax.set_ylim)):
        low, high = limits
        spare = max(0.0, 10 - (high - low)) / 2
        setter(max(-2.0, low - spare), min(102.0, high + spare))


def _said(e: Estimate) -> str:
    ends = "" if e.low is None or e.high is None else f" ({100 * e.low:.1f} to {100 * e.high:.1f})"
    return f"{100 * e.value:.1f} %{ends}" + ("" if e.n is None else f", n = {e.n:,}")


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _svg(name: str, label: str, size: tuple[float, float], draw: Callable[[Figure, _Tips], None]) -> str:
    """The figure as an `<svg>` element fit for a page: no prolog, no metadata, ids of its own, colours as variables."""
    tips = _Tips()
    buffer = io.StringIO()
    settings: dict[str, Any] = {**STYLE, "svg.hashsalt": name}
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # the browser has its own
        figure = Figure(size, layout="constrained")
        draw(figure, tips)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _clean(buffer.getvalue(), name, label, tips.texts)


def _clean(svg: str, name: str, label: str, tips: dict[str, str]) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', svg)
    size = box.group(1) if box else "0 0 324 200"
    title = escape(label, quote=True)
    head = f'<svg class="plot" viewBox="{size}" role="img" aria-label="{title}">'
    svg = head + svg[svg.index(">") + 1 :]
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"font-family: [^;\"]*;?\s*", "", svg)
    svg = re.sub(r"font: (?:(?P<w>bold|\d+) )?(?P<s>[\d.]+px) [^;\"]*", r"font-size: \g<s>", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    for gid, text in tips.items():
        svg = svg.replace(f'<g id="{name}-{gid}">', f'<g id="{name}-{gid}"><title>{escape(text)}</title>', 1)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
