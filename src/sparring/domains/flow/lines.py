"""Rows of flows with the numbers of their lines, from a file or a pipe: what is needed to say which flow an answer is
about."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.blocks import LONGEST, Block, blocks, magic, opened
from sparring.domains.flow.chunks import chunk as read_chunk
from sparring.domains.flow.layout import DataError, Layout
from sparring.domains.flow.published import layout_of
from sparring.domains.flow.rows import Reading, Refused
from sparring.domains.flow.schema import Schema
from sparring.domains.flow.stream import SEEN, beginning, stream
from sparring.domains.flow.table import Table

PIPE = "standard input"


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a file, in their order.

    Args:
        table: the well-formed ones, without labels.
        lines: the number of each one's line, from 1, int64 `[N]`; in parquet, of its row.
        refused: the malformed ones.
        done: bytes of the file that were read so far, of a compressed one as it is; 0 where that is not known.
    """

    table: Table
    lines: NDArray[np.int64]
    refused: list[Refused]
    done: int


def parts(path: Path, schema: Schema, chunk: int) -> Iterator[Part]:
    """The rows of a file, `chunk` lines at a time; what it says about labels is not looked at.

    Args:
        path: CSV, ARFF or parquet, as `stream` takes it.
        schema: what its rows are.
        chunk: lines in a part, at most.

    Raises:
        DataError: at once where the file is not there or lacks columns; later where it is damaged.
    """
    layout = _unlabelled(schema)
    if not path.is_file():
        raise DataError(f"{path} must be a file of flows. There is none.")
    if magic(path) == b"PAR1":
        return _rows(stream(path, schema, chunk))
    reading, first, offset = beginning(path, layout)
    return _of_file(path, reading, first, offset, chunk)


def piped(source: BufferedReader, schema: Schema, chunk: int) -> Iterator[Part]:
    """The rows of a pipe, CSV or ARFF, also compressed, as they come: a part is given as soon as it is full.

    Args:
        source: where bytes come from.
        schema: what its rows are.
        chunk: lines in a part, at most.

    Raises:
        DataError: at once where its first lines lack columns, later where a compressed one is damaged.
    """
    layout, start = _unlabelled(schema), source.peek(4)[:4]
    if start == b"PAR1":
        raise DataError(f"{PIPE} must be CSV or ARFF. Parquet can only be read from a file.")
    plain = cast("BufferedReader", gzip.GzipFile(fileobj=source)) if start.startswith(b"\x1f\x8b") else source
    head, found = b"", None
    while found is None:
        try:
            line = plain.readline(LONGEST)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{PIPE} is damaged and cannot be read: {error}") from error
        head += line if head else line.removeprefix(b"\xef\xbb\xbf")
        try:
            found = _beginning(head, layout)
        except DataError:
            if not line or head.count(b"\n") >= SEEN or len(head) > LONGEST:
                raise
    reading, first, offset = found
    return _of_source(cast("BinaryIO", _Pipe(head[offset:], plain)), reading, first, chunk)


class _Pipe:
    """What was read ahead, then what comes, as soon as some of it is there."""

    name = PIPE

    def __init__(self, head: bytes, rest: BufferedReader) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int) -> bytes:
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._rest.read1(size)

    def tell(self) -> int:
        return 0


def _unlabelled(schema: Schema) -> Layout:
    """A schema's layout in which no column is a label: what a flow is said to be is no reason to refuse it."""
    return replace(layout_of(schema), schema=replace(schema, label=""))


def _beginning(head: bytes, layout: Layout) -> tuple[Reading, int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head"
        path.write_bytes(head)
        try:
            return beginning(path, layout)
        except DataError as error:
            raise DataError(str(error).replace(str(path), PIPE)) from None


def _of_file(path: Path, reading: Reading, first: int, offset: int, chunk: int) -> Iterator[Part]:
    with opened(path) as source:
        source.read(offset)
        yield from _of_source(source, reading, first, chunk)


def _of_source(source: BinaryIO, reading: Reading, first: int, chunk: int) -> Iterator[Part]:
    packed: Any = getattr(source, "fileobj", None) or source
    for block in blocks(source, chunk, first):
        table, refused = read_chunk(reading, block)
        yield Part(table, _numbers(reading, block, refused, len(table)), refused, packed.tell())


def _rows(stream_of: Iterator[tuple[Table, list[Refused]]]) -> Iterator[Part]:
    first = 1
    for table, refused in stream_of:
        n = len(table) + len(refused)
        gone = np.array([each.line - first for each in refused], np.int64)
        yield Part(table, np.delete(np.arange(first, first + n), gone), refused, 0)
        first += n


def _numbers(reading: Reading, block: Block, refused: list[Refused], n: int) -> NDArray[np.int64]:
    """The lines of a block that are rows: neither refused, nor empty, nor comments."""
    lines = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    gone = [each.line - block.first for each in refused]
    if n + len(gone) < lines:
        texts = block.data.split(b"\n")[:lines]
        gone += [k for k, text in enumerate(texts) if k + block.first not in block.cut and _silent(reading, text)]
    return np.delete(np.arange(block.first, block.first + lines), np.array(gone, np.int64))


def _silent(reading: Reading, line: bytes) -> bool:
    """Whether a line is left out without being refused."""
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        return False
    return not text or bool(reading.comment and text.startswith(reading.comment))
