"""Files of flows of any size, a table at a time; rows that are malformed are told and left out, and never stop it."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparring.domains.flow import arff
from sparring.domains.flow.blocks import LONGEST, blocks, magic, opened
from sparring.domains.flow.chunks import chunk as read_chunk
from sparring.domains.flow.layout import DataError, Layout
from sparring.domains.flow.parquet import stream_parquet
from sparring.domains.flow.published import layout_of
from sparring.domains.flow.rows import Reading, Refused, comma_separated
from sparring.domains.flow.schema import Schema
from sparring.domains.flow.table import Table

SEEN = 100
"""Lines in which a file without header is looked through for one that tells how many cells a row has."""


def stream(path: str | Path, schema: Schema, chunk: int = 50_000) -> Iterator[tuple[Table, list[Refused]]]:
    """The rows of a file, `chunk` at a time.

    Args:
        path: of a CSV, ARFF or parquet file, the first two also as .gz; the format is told by the content. A line is a
            row: cells in quotes cannot span two.
        schema: what its rows are; a published one, or your own, whose files need a header.
        chunk: rows of a table, at most.

    Yields:
        The rows that are well formed, and those that are not, each with the reason: another number of cells, not a
        number, out of range, an integer that is none, missing, not UTF-8, not a word that the file declares.

    Raises:
        DataError: at once, where the file is not there or lacks columns; later, where it is damaged (a truncated .gz).
        ValueError: where `chunk` is not a positive int.
    """
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"The 'chunk' parameter must be an int in the range [1, inf). Got {chunk!r} instead.")
    path, layout = Path(path), layout_of(schema)
    if not path.is_file():
        raise DataError(f"{path} must be a file of flows. There is none.")
    if magic(path) == b"PAR1":
        return stream_parquet(path, layout, chunk)
    return _lines(path, *beginning(path, layout), chunk)


def _lines(path: Path, reading: Reading, first: int, offset: int, rows: int) -> Iterator[tuple[Table, list[Refused]]]:
    with opened(path) as source:
        source.read(offset)
        for block in blocks(source, rows, first):
            yield read_chunk(reading, block)


def beginning(path: Path, layout: Layout) -> tuple[Reading, int, int]:
    """How the rows of a text file are read, the number of the line that may be the first of them, and its offset.

    Raises:
        DataError: where the file lacks columns.
    """
    if is_arff(path):
        return _arff(path, layout)
    with opened(path) as source:
        lines = [line for line in (source.readline(LONGEST) for _ in range(SEEN)) if line]
    cells = [_cells(line) for line in lines]
    places = layout.places(cells[0]) if cells else {}
    lacking = layout.missing(places)
    if not lacking:
        return Reading(layout, places, len(cells[0])), 2, len(lines[0])
    for row in cells:
        by_position = layout.by_position(len(row))
        if by_position is not None:
            return Reading(layout, by_position, len(row)), 1, 0
    raise DataError(_lacks(path, layout, lacking, cells[0] if cells else []))


def _arff(path: Path, layout: Layout) -> tuple[Reading, int, int]:
    with opened(path) as source:
        head = arff.header(source, str(path))
        offset = source.tell() - source_start(path)
        rows = (source.readline(LONGEST).strip() for _ in range(SEEN))
        if next((row for row in rows if row and not row.startswith(b"%")), b"").startswith(b"{"):
            raise DataError(f"{path} must be a dense ARFF file. Its rows are sparse: {{index value, ...}}.")
    places = layout.places(head.names)
    lacking = layout.missing(places)
    if lacking:
        raise DataError(_lacks(path, layout, lacking, head.names))
    allowed = {name: head.words[head.names[at]] for name, at in places.items() if head.names[at] in head.words}
    return Reading(layout, places, len(head.names), arff.split, "'", "%", allowed), head.lines + 1, offset


def source_start(path: Path) -> int:
    """The offset of a file's first character: after its byte order mark, where it has one."""
    with opened(path) as source:
        return source.tell()


def is_arff(path: Path) -> bool:
    """Whether the first line that says something says it in ARFF."""
    with opened(path) as source:
        for _ in range(1000):
            line = source.readline(LONGEST).strip()
            if line and not line.startswith(b"%"):
                return line.startswith(b"@")
    return False


def _cells(line: bytes) -> list[str]:
    try:
        return comma_separated(line.decode(errors="replace").rstrip("\r\n"))
    except csv.Error:
        return []


def _lacks(path: Path, layout: Layout, lacking: list[str], found: Sequence[str]) -> str:
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    names = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
    rows = f", or rows of {len(layout.schema.fields)} to {len(layout.columns)} cells" if layout.columns else ""
    return (
        f"{path} must have the columns of {layout.schema.name!r} in a header{rows}. It lacks {names}. Its first line "
        f"has {len(found)} cells: {shown or 'nothing'}."
    )
