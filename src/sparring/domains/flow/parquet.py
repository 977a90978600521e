"""Flows in parquet files, a table at a time."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.layout import DataError, Layout
from sparring.domains.flow.rows import Reading, Refused, examine, faulty
from sparring.domains.flow.table import Table


def stream_parquet(path: Path, layout: Layout, chunk: int) -> Iterator[tuple[Table, list[Refused]]]:
    """The rows of a parquet file, `chunk` at a time, as `stream` gives them. Numbers may be stored as any numeric type.

    Raises:
        DataError: at once, where pyarrow is not installed, or the file is damaged or lacks columns.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path} is parquet, which needs pyarrow: pip install 'sparring[parquet]'.") from error
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} must be a parquet file: {error}") from error
    names = file.schema_arrow.names
    places = layout.places(names)
    lacking = layout.missing(places)
    if lacking:
        file.close()
        raise DataError(f"{path} must have the columns of {layout.schema.name!r}. It lacks {', '.join(lacking)}.")
    wanted = [names[at] for at in places.values()]
    reading = Reading(layout, {name: k for k, name in enumerate(places)}, len(places))
    return _batches(file, reading, wanted, chunk)


def _batches(file: Any, reading: Reading, wanted: list[str], chunk: int) -> Iterator[tuple[Table, list[Refused]]]:
    schema, first = reading.layout.schema, 1
    with file:
        for batch in file.iter_batches(batch_size=chunk, columns=wanted):
            held = [batch.column(batch.schema.get_field_index(name)) for name in wanted]
            raw = dict(zip(reading.places, held, strict=True))
            columns = {
                each.name: _numbers(raw[each.name]) if each.numeric else _words(raw[each.name])
                for each in schema.fields
            }
            for name, divisor in reading.layout.undefined.items():
                columns[name] = np.where((columns[divisor] == 0) & ~np.isfinite(columns[name]), 0.0, columns[name])
            labels = _words(raw[reading.label]) if reading.label else np.empty(0, object)
            for theirs, ours in reading.layout.spellings.items():
                labels[labels == theirs] = ours
            table = Table(schema, columns, labels)
            bad = faulty(reading, table)
            refused = []
            for k in map(int, np.flatnonzero(bad)):
                cells = ["" if (value := column[k].as_py()) is None else str(value) for column in held]
                why = examine(replace(reading, split=_already(cells)), "")
                refused.append(Refused(first + k, ",".join(cells), why if isinstance(why, str) else "not a number."))
            yield table.take(~bad), refused
            first += len(table)


def _already(cells: list[str]) -> Callable[[str], list[str]]:
    """The split of a row that is in cells from the start."""
    return lambda _: cells


def _numbers(column: Any) -> NDArray[Any]:
    """float64; NaN for what is missing or no number."""
    import pyarrow as pa

    try:
        return np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.array([_number(value) for value in column.to_pylist()], np.float64)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _words(column: Any) -> NDArray[Any]:
    return np.array(["" if value is None else str(value).strip() for value in column.to_pylist()], object)
