"""Rows of labelled texts from files: TSV, CSV, JSONL, JSON, parquet. A row that cannot be read is set aside with its
number and the reason, and stops nothing."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.domains.text.files import DataError, lines_of

ENDINGS = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
"""Of files that `read` knows."""

TEXT_COLUMNS = ("text", "sentence", "tweet", "sms", "message", "content", "review", "prompt", "comment", "body")
LABEL_COLUMNS = ("label", "class", "labels", "category", "target", "sentiment", "is_injection")
"""Names that a column goes by, in any case, the likeliest first."""


LONE = re.compile("[\ud800-\udfff]")
"""A half of a character: what a byte that is not UTF-8 becomes while a file is read."""


@dataclass(frozen=True)
class Aside:
    """A row that is not used.

    Args:
        where: file or split.
        row: its number, from 1: of the line where it begins, in parquet and JSON of the row.
        reason: a sentence.
    """

    where: str
    row: int
    reason: str


@dataclass(frozen=True)
class Records:
    """The rows of a file.

    Args:
        where: the file, for messages.
        columns: names.
        rows: number and cells by column; a cell may be lacking.
        aside: rows that could not be read.
        classes: names of the classes, where the file has them beside integer labels.
    """

    where: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[int, Mapping[str, object]]]
    aside: Sequence[Aside]
    classes: tuple[str, ...] = ()


def read(path: Path, header: Sequence[str] | None = None, label: str | None = None) -> Records:
    """The rows of a file, its format told by its ending.

    Args:
        path: TSV (tabs part cells, nothing is quoted), CSV (cells in quotes may hold commas and line ends), JSONL,
            JSON (a list of objects) or parquet.
        header: names of the columns of a TSV or CSV file whose first line is a row already.
        label: the column of labels, where a parquet file's class names are wanted for another than the likeliest.

    Raises:
        DataError: where the file cannot be read, or is not of the format.
    """
    match path.suffix.lower():
        case ".tsv":
            return _table(path, _tabbed(path), header)
        case ".csv":
            return _table(path, _quoted(path), header)
        case ".jsonl":
            return _json_lines(path)
        case ".json":
            return _json_list(path)
        case ".parquet":
            return _parquet(path, label)
    raise DataError(f"{path} must be one of {', '.join(ENDINGS)}.")


def column(records: Records, known: Sequence[str], wanted: str | None, what: str) -> str:
    """The column that is asked for, or the likeliest.

    Raises:
        DataError: where there is none; it names the columns there are.
    """
    if wanted is not None:
        found = wanted if wanted in records.columns else None
    else:
        by_name = {name.strip().lower(): name for name in reversed(records.columns)}
        found = next((by_name[name] for name in known if name in by_name), None)
    if found is None:
        names = repr(wanted) if wanted is not None else f"one of {', '.join(known)}"
        there = ", ".join(records.columns) or "none"
        raise DataError(f"{records.where} must have a column for the {what}, {names}. Its columns are: {there}.")
    return found


def _table(path: Path, rows: Iterator[tuple[int, list[str]]], header: Sequence[str] | None) -> Records:
    names, found, aside = header, [], []
    for number, cells in rows:
        if any(map(LONE.search, cells)):
            aside.append(Aside(path.name, number, "is not UTF-8"))
        elif names is None:
            names = [cell.strip() or f"column {k}" for k, cell in enumerate(cells, 1)]
        elif len(cells) != len(names):
            aside.append(Aside(path.name, number, f"has {len(cells)} cells instead of {len(names)}"))
        else:
            found.append((number, dict(zip(names, cells, strict=True))))
    return Records(str(path), tuple(names or ()), found, aside)


def _tabbed(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines_of(path), 1):
        if line.strip():
            yield number, line.decode(errors="surrogateescape").split("\t")


def _quoted(path: Path) -> Iterator[tuple[int, list[str]]]:
    data = b"\n".join(lines_of(path)).decode(errors="surrogateescape")
    reader, first = csv.reader(io.StringIO(data, newline=""), strict=True), 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {first}: must be a row of CSV: {error}.") from error
        if cells is None:
            return
        if cells:
            yield first, cells
        first = reader.line_num + 1


def _json_lines(path: Path) -> Records:
    lines = [(number, line) for number, line in enumerate(lines_of(path), 1) if line.strip()]
    rows: list[tuple[int, Any]] = []
    aside = []
    for number, line in lines:
        try:
            rows.append((number, json.loads(line.decode())))
        except UnicodeDecodeError:
            aside.append(Aside(path.name, number, "is not UTF-8"))
        except ValueError as error:
            aside.append(Aside(path.name, number, f"is not JSON: {error}"))
    return _objects(path, rows, aside)


def _json_list(path: Path) -> Records:
    try:
        held = json.loads(b"\n".join(lines_of(path)).decode())
    except ValueError as error:
        raise DataError(f"{path} must be JSON in UTF-8: {error}") from error
    if not isinstance(held, list):
        raise DataError(f"{path} must be a list of objects. Got {type(held).__name__}.")
    return _objects(path, list(enumerate(held, 1)), [])


def _objects(path: Path, rows: list[tuple[int, Any]], aside: list[Aside]) -> Records:
    aside = aside + [Aside(path.name, number, "is no object") for number, row in rows if not isinstance(row, dict)]
    found = [(number, row) for number, row in rows if isinstance(row, dict)]
    return Records(str(path), tuple(dict.fromkeys(name for _, row in found for name in row)), found, aside)


def _parquet(path: Path, label: str | None) -> Records:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{path} is parquet, which needs pyarrow: pip install 'sparring[parquet]'.") from error
    try:
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} must be a parquet file: {error}") from error
    names = tuple(map(str, table.column_names))
    columns = [
        held.cast(pa.large_binary()) if pa.types.is_string(held.type) or pa.types.is_large_string(held.type) else held
        for held in table.columns
    ]
    rows: list[tuple[int, Mapping[str, object]]] = []
    aside = []
    for number, cells in enumerate(zip(*(held.to_pylist() for held in columns), strict=True), 1):
        try:
            rows.append((number, dict(zip(names, map(_decoded, cells), strict=True))))
        except UnicodeDecodeError:
            aside.append(Aside(path.name, number, "is not UTF-8"))
    known = label or next((name for name in names if name.lower() in LABEL_COLUMNS), "")
    return Records(
        str(path), names, rows, aside, _class_names((table.schema.metadata or {}).get(b"huggingface"), known)
    )


def _decoded(cell: object) -> object:
    return cell.decode() if isinstance(cell, bytes) else cell


def _class_names(metadata: bytes | None, label: str) -> tuple[str, ...]:
    """The class names that the hub's `datasets` writes into a parquet file's metadata."""
    try:
        names = json.loads(metadata or b"{}")["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
