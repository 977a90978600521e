"""Lines to columns: all at once by pyarrow where they are clean, one by one where they are not.

Both ways refuse the same rows: the fast one only says which rows to look at, and `examine` has the last word on each.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.blocks import LONGEST, Block
from sparring.domains.flow.rows import Reading, Refused, examine, faulty
from sparring.domains.flow.schema import Schema
from sparring.domains.flow.table import Table

SMALLEST = 4096
"""Bytes of lines in which the line that pyarrow cannot read is no longer looked for by halving."""

MISSING = ["", "NaN", "nan", "NA", "N/A", "null", "?"]
"""What may stand for no number; all of it is refused, but without leaving the fast way."""

KEPT = 500
"""Characters of a refused line that are kept."""


@cache
def has_pyarrow() -> bool:
    """Whether the fast way is there."""
    try:
        import pyarrow.csv  # noqa: F401
    except ImportError:
        return False
    return True


def chunk(reading: Reading, block: Block) -> tuple[Table, list[Refused]]:
    """The rows of a block that are well formed, in their order, and those that are not."""
    if block.cut:
        parts, refused = _one_by_one(reading, block.first, block.data, block.cut)
        return joined(reading.layout.schema, parts), refused
    quick = has_pyarrow() and len(block.data) < 1 << 30
    if quick and reading.quote == "'":  # ARFF escapes quotes by a backslash and has two kinds of them
        quick = b"\\" not in block.data and b'"' not in block.data
    parts, refused = _parts(reading, block.first, block.data, quick)
    return joined(reading.layout.schema, parts), refused


def joined(schema: Schema, parts: list[Table]) -> Table:
    """Tables of one schema, one after another."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        empty = {each.name: np.empty(0, np.float64 if each.numeric else object) for each in schema.fields}
        return Table(schema, empty, np.empty(0, object))
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in schema.names}
    return Table(schema, columns, np.concatenate([part.labels for part in parts]))


def _parts(reading: Reading, first: int, data: bytes, quick: bool) -> tuple[list[Table], list[Refused]]:
    """The tables and refusals of these lines: at once, or by halves where one of them spoils that, or one by one."""
    if quick:
        done = _at_once(reading, first, data)
        if done is not None:
            return [done[0]], done[1]
        middle = data.find(b"\n", len(data) // 2) + 1
        if len(data) > SMALLEST and 0 < middle < len(data):
            left = _parts(reading, first, data[:middle], quick)
            right = _parts(reading, first + data.count(b"\n", 0, middle), data[middle:], quick)
            return left[0] + right[0], left[1] + right[1]
    return _one_by_one(reading, first, data)


def _one_by_one(
    reading: Reading, first: int, data: bytes, cut: frozenset[int] = frozenset()
) -> tuple[list[Table], list[Refused]]:
    rows, labels, refused = [], [], []
    for k, line in enumerate(data.split(b"\n"), first):
        done = _line(reading, k, line)
        if k in cut:
            done = Refused(k, line.decode(errors="backslashreplace")[:KEPT], f"the row is longer than {LONGEST} bytes.")
        if isinstance(done, Refused):
            refused.append(done)
        elif done is not None:
            rows.append(done[0])
            labels.append(done[1])
    if not rows:
        return [], refused
    fields = reading.layout.schema.fields
    values = zip(*rows, strict=True)
    columns: dict[str, NDArray[Any]] = {
        each.name: np.array(column, np.float64 if each.numeric else object)
        for each, column in zip(fields, values, strict=True)
    }
    named = np.array(labels if reading.label else [], object)
    return [Table(reading.layout.schema, columns, named)], refused


def _line(reading: Reading, number: int, line: bytes) -> tuple[list[float | str], str] | Refused | None:
    """The values of a line, or why it is refused; None for an empty one and a comment."""
    try:
        text = line.decode().rstrip("\r")
    except UnicodeDecodeError as error:
        shown = line.decode(errors="backslashreplace")[:KEPT]
        return Refused(number, shown, f"the row must be UTF-8. Byte {error.start} is {line[error.start]:#04x}.")
    if not text.strip() or (reading.comment and text.lstrip().startswith(reading.comment)):
        return None
    done = examine(reading, text)
    return Refused(number, text[:KEPT], done) if isinstance(done, str) else done


def _at_once(reading: Reading, first: int, data: bytes) -> tuple[Table, list[Refused]] | None:
    """All rows by pyarrow; None where it cannot read them, or where it and `examine` disagree."""
    parsed = _parsed(reading, data)
    if parsed is None:
        return None
    arrow, odd = parsed
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if len(arrow) + len(odd) != lines:
        return None
    schema = reading.layout.schema
    columns = {each.name: _column(arrow[str(reading.places[each.name])], each.numeric) for each in schema.fields}
    for name, divisor in reading.layout.undefined.items():
        columns[name] = np.where((columns[divisor] == 0) & ~np.isfinite(columns[name]), 0.0, columns[name])
    label = reading.label
    labels = _column(arrow[str(reading.places[label])], False) if label else np.empty(0, object)
    for theirs, ours in reading.layout.spellings.items():
        labels[labels == theirs] = ours
    table = Table(schema, columns, labels)
    bad = faulty(reading, table)
    if not odd and not bad.any():
        return table, []
    texts, rows = data.split(b"\n"), np.delete(np.arange(lines), odd)
    examined = [_line(reading, first + k, texts[k]) for k in sorted({*odd, *map(int, rows[bad])})]
    if any(isinstance(each, tuple) for each in examined):
        return None
    return table.take(~bad), [each for each in examined if isinstance(each, Refused)]


def _parsed(reading: Reading, data: bytes) -> tuple[Any, list[int]] | None:
    """A pyarrow table whose columns are named by their place, and the indices of lines of another width."""
    import pyarrow as pa
    from pyarrow import csv

    fields = reading.layout.schema.fields
    words, odd = pa.dictionary(pa.int32(), pa.string()), []
    types = {str(reading.places[each.name]): pa.float64() if each.numeric else words for each in fields}
    if reading.label:
        types[str(reading.places[reading.label])] = words

    def invalid(row: Any) -> str:
        odd.append(row.number - 1)
        return "skip"

    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=[str(k) for k in range(reading.width)]
            ),
            csv.ParseOptions(
                quote_char=reading.quote,
                double_quote=reading.quote == '"',
                ignore_empty_lines=False,
                invalid_row_handler=invalid,
            ),
            csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=MISSING),
        )
    except pa.ArrowInvalid:
        return None
    return table, odd


def _column(arrow: Any, numeric: bool) -> NDArray[Any]:
    """float64 with NaN for what is missing, or words without the blanks around them."""
    whole = arrow.combine_chunks()
    if numeric:
        return np.array(whole.to_numpy(zero_copy_only=False), np.float64)
    words = np.array([word.strip() for word in whole.dictionary.to_pylist()], object)
    return words[whole.indices.to_numpy(zero_copy_only=False)] if len(words) else np.empty(0, object)
