"""The report as Markdown: the same words and tables, without pictures. Strings from records are escaped."""

import re
from collections.abc import Sequence

from sparring.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Diff,
    Diffs,
    Figures,
    Gallery,
    Heading,
    Mark,
    Page,
    Table,
    Text,
)


def render(page: Page) -> str:
    """The whole document."""
    lines = [f"# {escape(page.title)}", "", escape(page.subtitle) + ".", ""]
    for card in page.cards:
        lines += [f"## {_run(card.mark)}", "", escape(card.about) + ".", ""]
        lines += [line for warning in card.warnings for line in (f"> **Warning.** {escape(warning)}", "")]
        lines += [escape(card.sentence), ""]
        for number in card.numbers:
            details = escape(", ".join(number.details))
            lines.append(f"- {escape(number.label)}: **{escape(number.value)}** ({details})")
        lines += [""] if card.numbers else []
    for section in page.sections:
        lines += [f"## {escape(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""] if not isinstance(block, Figures) else []
    return "\n".join(lines).rstrip() + "\n"


def escape(text: str) -> str:
    """The text as itself in Markdown: no markup, no HTML, one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([\\`*\[\]>|~$])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return re.sub(r"^([#+-]|\d+[.)])(?=\s)", r"\\\1", text)


def _block(block: Block) -> list[str]:
    match block:
        case Text():
            return [f"> {escape(block.text)}"] if block.note else [escape(block.text)]
        case Heading():
            parts = [_run(block.mark)] if block.mark else []
            return [f"### {', '.join([*parts, escape(block.text)] if block.text else parts)}"]
        case Table():
            return [f"**{escape(block.caption.rstrip('.'))}**", "", *_table(block.head, block.rows)]
        case Code():
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", block.text)), default=0))
            return [f"{escape(block.caption)}:", "", f"{fence}sh", block.text, fence]
        case Bullets():
            return [f"- {escape(item)}" for item in block.items]
        case Gallery():
            head = [Cell(title) for title in block.head]
            rows = [
                [Cell(", ".join(part for part in (p.title, p.detail) if part), p.tone) for p in row]
                for row in block.rows
            ]
            return [escape(block.caption), "", *_table(head, rows)]
        case Diffs():
            return [escape(block.caption), "", *(_diff(row) for row in block.rows)]
        case Figures():
            return []


def _diff(diff: Diff) -> str:
    """One line: what was taken out struck through, what was put in bold."""
    around = {"kept": ("", ""), "out": ("~~", "~~"), "in": ("**", "**")}
    said = []
    for piece in diff.pieces:
        text = escape(piece.text) + (f" ({piece.note})" if piece.note else "")
        first, last = around[piece.kind] if text else ("", "")
        gaps = [" " if piece.text[:1].isspace() else "", " " if piece.text[-1:].isspace() else ""]
        said.append(f"{gaps[0]}{first}{text}{last}{gaps[1]}")
    return f"- **{escape(diff.title)}**, {escape(diff.detail)}: {' '.join(''.join(said).split())}"


def _table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> list[str]:
    return [_row(head), "|" + " --- |" * len(head), *(_row(row) for row in rows)]


def _row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: Cell) -> str:
    text = _run(cell.mark) if cell.mark else escape(cell.text)
    text = f"**{text}**" if cell.tone in ("strong", "bad") and text else text
    return f"{text}, {escape(cell.detail)}" if cell.detail else text


def _run(mark: Mark) -> str:
    return f"{mark.letter} {escape(mark.name)}"
