"""A `Page` into bytes, and bytes into a file that appears whole or not at all."""

import json
import os
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sparring.report import canvas
from sparring.report import markdown as _markdown
from sparring.report.blocks import Mark, Page

SHAPES = {
    "o": '<circle cx="6" cy="6" r="4.4"/>',
    "s": '<rect x="2" y="2" width="8" height="8"/>',
    "^": '<path d="M6 1.4 11 10.4H1z"/>',
    "D": '<path d="M6 .6 11.4 6 6 11.4.6 6z"/>',
    "v": '<path d="M6 10.6 1 1.6h10z"/>',
    "P": '<path d="M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z"/>',
}
"""matplotlib's markers, drawn again for legends in a 12 by 12 box."""


def html(page: Page) -> str:
    """One self-contained HTML file: styles, plots and pictures inside, no script, nothing to fetch."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["svg"] = Markup
    environment.filters["shape"] = _shape
    environment.filters["series"] = lambda mark: mark.index % canvas.COLOURS + 1
    return environment.get_template("report.html.j2").render(page=page)


def markdown(page: Page) -> str:
    """The page as Markdown."""
    return _markdown.render(page)


def json_text(page: Page) -> str:
    """The page's summary as JSON."""
    return json.dumps(page.summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def replace(path: Path, text: str) -> None:
    """Write text to a file beside path, then put that in path's place."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _shape(mark: Mark) -> Markup:
    return Markup(SHAPES[canvas.marker_of(mark)])
