"""A file of lines, of any size, as blocks of whole lines in bounded memory; compressed or not."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from sparring.domains.flow.layout import DataError

LONGEST = 1 << 20
"""Bytes from which on a line may be cut, so that it fits into memory. One row of flows has some hundred."""

KEPT = 200
"""Bytes that are kept of a longer line."""

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Whole lines.

    Args:
        first: number of the first line, from 1.
        data: the lines, each with its end, but for the last of the file.
        cut: numbers of the lines that were longer than LONGEST, of which only a beginning is in `data`.
    """

    first: int
    data: bytes
    cut: frozenset[int]


def magic(path: Path) -> bytes:
    """The first four bytes of a file, unpacked where it is gzip."""
    with opened(path) as source:
        return source.read(4)


def opened(path: Path) -> BinaryIO:
    """A file of bytes, unpacked where it is gzip, after its byte order mark where it has one."""
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    source = cast("BinaryIO", gzip.open(path, "rb") if packed else path.open("rb"))  # noqa: SIM115
    if source.read(3) != _BOM:
        source.seek(0)
    return source


def blocks(source: BinaryIO, rows: int, first: int = 1) -> Iterator[Block]:
    """Blocks of `rows` lines; the last has fewer.

    Args:
        source: of bytes, at the beginning of a line.
        rows: in a block.
        first: number of the line that the source is at.

    Raises:
        DataError: when a compressed file is damaged.
    """
    size = min(max(rows * 256, 1 << 16), 1 << 22)
    held, lines, cut, skipping = bytearray(), 0, set[int](), False
    while piece := _read(source, size):
        if skipping:
            end = piece.find(b"\n")
            if end < 0:
                continue
            piece, skipping = piece[end:], False
        held += piece
        lines += piece.count(b"\n")
        tail = len(held) - (held.rfind(b"\n") + 1)
        if tail > LONGEST:
            del held[len(held) - tail + KEPT :]
            cut.add(first + lines)
            skipping = True
        if lines >= rows:
            data = bytes(held)
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))[rows - 1 :: rows] + 1
            start = 0
            for end in map(int, ends):
                yield Block(first, data[start:end], frozenset(k for k in cut if first <= k < first + rows))
                start, first = end, first + rows
            del held[:start]
            lines -= rows * len(ends)
            cut = {k for k in cut if k >= first}
    if held:
        yield Block(first, bytes(held), frozenset(cut))


def _read(source: BinaryIO, size: int) -> bytes:
    try:
        return source.read(size)
    except (EOFError, OSError, zlib.error) as error:
        name = getattr(source, "name", "the file")
        raise DataError(f"{name} is damaged and cannot be read to its end: {error}") from error
