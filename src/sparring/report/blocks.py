"""What a report is made of: a small document model that the HTML template and the Markdown writer both render."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sparring.report.read import Estimate

Tone = Literal["", "good", "bad", "quiet", "strong"]


@dataclass(frozen=True)
class Mark:
    """How a run is recognised: its letter, its name, and the index that gives it a colour and a marker shape."""

    letter: str
    name: str
    index: int


@dataclass(frozen=True)
class Image:
    """A picture as a data URI, and what to say to those who do not see it."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Cell:
    """A table cell. `share` draws a small interval bar beside the text, `detail` is a quiet second line, `heat` in
    [0, 1] shades the cell, and `images` stand above the text."""

    text: str
    tone: Tone = ""
    mark: Mark | None = None
    share: Estimate | None = None
    detail: str = ""
    heat: float | None = None
    images: Sequence[Image] = ()


@dataclass(frozen=True)
class Text:
    """A paragraph; `note` sets it apart as something missing or worth a warning."""

    text: str
    note: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; the first cell of each row names it. `folded` hides it behind its caption."""

    caption: str
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A plot: inline SVG markup, its caption, and the runs its legend names."""

    svg: str
    caption: str
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Figures:
    """Plots side by side where there is room."""

    figures: Sequence[Figure]
    kind: str = "figures"


@dataclass(frozen=True)
class Picture:
    """One image as a data URI with what is written under it."""

    uri: str
    alt: str
    title: str
    detail: str
    tone: Tone = ""


@dataclass(frozen=True)
class Gallery:
    """Groups of pictures of one run, `columns` of them in a line; `head` says what the pictures of a group are."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Picture]]
    columns: int = 3
    kind: str = "gallery"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section, for a group of runs, or for a run, whose text then follows its name."""

    text: str
    mark: Mark | None = None
    kind: str = "heading"


@dataclass(frozen=True)
class Code:
    """A command, verbatim."""

    caption: str
    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]
    kind: str = "bullets"


@dataclass(frozen=True)
class Piece:
    """Part of a text that was changed: kept, taken out or put in. `note` says what the eye may not see in it."""

    text: str
    kind: Literal["kept", "out", "in"]
    note: str = ""


@dataclass(frozen=True)
class Diff:
    """One changed text, and what is said above it."""

    title: str
    detail: str
    pieces: Sequence[Piece]
    tone: Tone = ""


@dataclass(frozen=True)
class Diffs:
    """Changed texts, one under the other."""

    caption: str
    rows: Sequence[Diff]
    kind: str = "diffs"


Block = Text | Table | Figures | Gallery | Heading | Code | Bullets | Diffs


@dataclass(frozen=True)
class Section:
    """A numbered section. `anchor` is its id in the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Headline:
    """A big number with its label, or the words that stand in for it."""

    label: str
    value: str
    details: Sequence[str]
    share: Estimate | None = None


@dataclass(frozen=True)
class Card:
    """The headline of one run."""

    mark: Mark
    about: str
    sentence: str
    numbers: Sequence[Headline]
    warnings: Sequence[str]


@dataclass(frozen=True)
class Page:
    """A whole report. `summary` is what report.json holds."""

    title: str
    subtitle: str
    cards: Sequence[Card]
    sections: Sequence[Section]
    summary: dict[str, object]
