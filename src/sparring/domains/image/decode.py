"""Encoded images (PNG, JPEG, WebP, ...) to pixels, on several threads: Pillow lets go of the interpreter to decode."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from sparring.domains.image.progress import progress
from sparring.domains.image.source import DataError, Images

if TYPE_CHECKING:
    from PIL.Image import Image

Encoded = bytes | Path
Shape = tuple[int, int, int]

GREY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B")
"""Pillow's modes of images without colour."""


def shape_of(encoded: Encoded, name: str, size: int | None = None) -> Shape:
    """`(C, H, W)` for a set of images that begins with this one; its own height and width unless `size` is given."""
    image = _opened(encoded, name)
    channels = 1 if image.mode in GREY else 3
    return (channels, image.height, image.width) if size is None else (channels, size, size)


def decoded(encoded: Sequence[Encoded], names: Sequence[str], shape: Shape) -> torch.Tensor:
    """Pixels, uint8 `[n, C, H, W]`. An image of another size is scaled to cover `H x W` (bilinear) and cropped around
    its centre. Of an animation the first frame counts, of 16 bits the upper 8.

    Args:
        encoded: files, or their bytes.
        names: what an error calls them.
        shape: `(C, H, W)`, C 1 (grey) or 3 (RGB).

    Raises:
        DataError: naming the image that cannot be decoded.
    """
    pixels = np.empty((len(encoded), *shape), dtype=np.uint8)

    def decode(i: int) -> None:
        pixels[i] = _pixels(_opened(encoded[i], names[i]), names[i], shape)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode, range(len(encoded))):
            pass
    return torch.from_numpy(pixels)


def decoded_rows(
    parts: Iterable[tuple[list[Encoded], list[int]]], total: int, name: str, size: int | None, shape: Shape | None
) -> Images:
    """A table of encoded images and labels, read part by part, as `Images`.

    Args:
        parts: `(images, labels)` of the next rows.
        total: rows in all.
        name: of the table, for errors and the progress bar.
        size: height and width; by default those of the first image.
        shape: of the result; by default grey or RGB as the first image is, with `size`.
    """
    x, y, start = torch.empty(0, 1, 1, 1, dtype=torch.uint8), torch.empty(total, dtype=torch.int64), 0
    with progress(f"decoding {name}", total) as advance:
        for encoded, labels in parts:
            names = [f"{name} row {start + i}" for i in range(len(encoded))]
            if shape is None:
                shape = shape_of(encoded[0], names[0], size)
            if start == 0:
                x = torch.empty(total, *shape, dtype=torch.uint8)
            stop = start + len(encoded)
            x[start:stop] = decoded(encoded, names, shape)
            y[start:stop] = torch.tensor(labels)
            start = stop
            advance(len(encoded))
    if start != total:
        raise DataError(f"{name} must hold the {total} rows it announces. Got {start}.")
    return Images(x, y)


def cell(value: object, name: str, *, files: bool = False) -> Encoded:
    """The encoded image in a table's cell: bytes, or Hugging Face's `{"bytes": ..., "path": ...}`.

    A path is followed only with `files`: a table from elsewhere has no business with the files here.
    """
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(content, bytes):
        return content
    if files and content is None and isinstance(path, str) and Path(path).is_file():
        return Path(path)
    raise DataError(f"{name}: an image cell must hold the encoded bytes. Got {type(value).__name__} without them.")


def _opened(encoded: Encoded, name: str) -> "Image":
    import PIL.Image

    try:
        image = PIL.Image.open(BytesIO(encoded if isinstance(encoded, bytes) else encoded.read_bytes()))
        image.load()
    except Exception as error:  # a decoder raises whatever it likes on bad bytes
        raise DataError(f"{name} is not a readable image: {error}") from error
    return image


def _pixels(image: "Image", name: str, shape: Shape) -> npt.NDArray[np.uint8]:
    import PIL.Image
    import PIL.ImageOps

    channels, height, width = shape
    if image.mode == "F":
        raise DataError(f"{name} must have integer pixels. Got Pillow's mode 'F', whose range is unknown.")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them at 255
        image = PIL.Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
