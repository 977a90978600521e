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
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

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


@dataclass
class Tips:
    """Tooltips: an SVG group id for each, and the text that goes into it."""

    texts: dict[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        gid = f"tip{len(self.texts)}"
        self.texts[gid] = text
        return gid


def colour_of(mark: Mark) -> str:
    return SERIES[mark.index % COLOURS]


def marker_of(mark: Mark) -> str:
    """Shapes go round once more out of step with the colours, so that 36 runs differ in one or the other."""
    return MARKERS[(mark.index + mark.index // COLOURS) % len(MARKERS)]


def whisker(ax: Axes, mark: Mark, e: Estimate, y: float, gid: str, *, hollow: bool = False) -> None:
    """A marker at an accuracy, on a line from one end of its interval to the other."""
    colour = colour_of(mark)
    if e.low is not None and e.high is not None:
        ax.plot([100 * e.low, 100 * e.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    inside = PAPER if hollow else colour
    ax.plot([100 * e.value], [y], marker=marker_of(mark), color=colour, markerfacecolor=inside, markersize=5.5, gid=gid)


def letter(
    ax: Axes, mark: Mark, x: float, y: float, offset: tuple[float, float], ha: str, va: str, size: float = 10
) -> None:
    """The letter of a run beside its marker."""
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


def nudges(values: Sequence[float], scale: float, least: float = 11.0) -> list[float]:
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


def vertical(ax: Axes, lines: Sequence[tuple[float, str]]) -> None:
    """Dotted lines, each with what is written above it."""
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


def said(e: Estimate) -> str:
    """An accuracy for a tooltip."""
    ends = "" if e.low is None or e.high is None else f" ({100 * e.low:.1f} to {100 * e.high:.1f})"
    return f"{100 * e.value:.1f} %{ends}" + ("" if e.n is None else f", n = {e.n:,}")


def short(text: str, most: int = 22) -> str:
    """A label that fits beside an axis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def drawn(name: str, label: str, size: tuple[float, float], draw: Callable[[Figure, Tips], None]) -> str:
    """The figure as an `<svg>` element fit for a page: no prolog, no metadata, ids of its own, colours as variables."""
    tips = Tips()
    buffer = io.StringIO()
    settings: dict[str, Any] = {**STYLE, "svg.hashsalt": name}
    with matplotlib.style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)  # the browser has its own
        figure = Figure(size, layout="constrained")
        draw(figure, tips)
        # not savefig, which draws twice: once for nothing
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata={"Date": None})
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
