"""Image tables as the Hugging Face hub publishes them: parquet files, one encoded image and one label per row."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparring.domains.image.decode import Encoded, Shape, cell, decoded_rows
from sparring.domains.image.source import DataError, Images, Splits
from sparring.domains.image.split import divided

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")
TEST_PREFIXES = ("test", "validation", "valid", "val")
ROWS = 1_000
"""Rows decoded at a time."""


def read_parquet(folder: Path, size: int | None = None) -> Splits | None:
    """The shards `train*.parquet` and `test*.parquet` (else `validation`, `valid`, `val`), in the folder or one below.

    A shard has a column `img` or `image` (`{bytes, path}`, or plain bytes) and a column `label`, `fine_label` or
    `labels`; class names come from the hub's metadata in the schema, when it is there. Without test shards a fifth of
    the train images is set apart. Pixels are kept in memory as uint8.

    Args:
        folder: where to look.
        size: height and width of the images; by default those of the first train image.

    Returns:
        None when there are no train shards.

    Raises:
        DataError: for a damaged shard, missing columns, or an image that cannot be decoded.
    """
    train_files = _shards(folder, ("train",))
    if not train_files:
        return None
    train, classes = _table(train_files, f"{folder.name} train", size, None)
    test_files = _shards(folder, TEST_PREFIXES)
    if not test_files:
        return Splits(*divided(train), classes)
    _, C, H, W = train.x.shape
    return Splits(train, _table(test_files, f"{folder.name} test", size, (C, H, W))[0], classes)


def class_names(metadata: bytes | None, label: str) -> tuple[str, ...] | None:
    """The class names in the `huggingface` entry of a parquet schema, None where it has none for this column."""
    try:
        names = json.loads(metadata or b"{}")["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _shards(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    for prefix in prefixes:
        for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
            if files := sorted(place.glob(f"{prefix}*.parquet")):
                return files
    return []


def _table(
    files: list[Path], name: str, size: int | None, shape: Shape | None
) -> tuple[Images, tuple[str, ...] | None]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{files[0]}: reading parquet needs pyarrow. pip install 'sparring[parquet]'") from error

    opened: list[tuple[Path, Any, str, str]] = []
    classes = None
    for path in files:
        try:
            table = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a readable parquet file: {error}") from error
        schema = table.schema_arrow
        image, label = _column(path, schema.names, IMAGE_COLUMNS), _column(path, schema.names, LABEL_COLUMNS)
        if not pa.types.is_integer(schema.field(label).type):
            raise DataError(f"{path}: the column {label!r} must hold integers. Got {schema.field(label).type}.")
        classes = classes or class_names((schema.metadata or {}).get(b"huggingface"), label)
        opened.append((path, table, image, label))

    def parts() -> Iterator[tuple[list[Encoded], list[int]]]:
        for path, table, image, label in opened:
            try:
                for batch in table.iter_batches(ROWS, columns=[image, label]):
                    labels = batch.column(label).to_pylist()
                    if None in labels:
                        raise DataError(f"{path}: every row must have a label. Row {labels.index(None)} has none.")
                    yield [cell(value, str(path)) for value in batch.column(image).to_pylist()], labels
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{path} is not a readable parquet file: {error}") from error

    total = sum(table.metadata.num_rows for _, table, _, _ in opened)
    return decoded_rows(parts(), total, name, size, shape), classes


def _column(path: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise DataError(f"{path} must have a column named {' or '.join(wanted)}. Got {', '.join(names)}.")
    return found
