"""Readers of published array formats: idx (MNIST and its kin) and `.npz`. Both read local files and trust none."""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sparring.domains.image.source import DataError, Images, Splits
from sparring.domains.image.split import divided

Array = npt.NDArray[Any]

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""The published names, each plain or with `.gz`; some mirrors write `-images.idx3-ubyte`."""

NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
    ("x", "y"),
    ("images", "labels"),
    ("image", "label"),
)
"""The keys of an archive that holds both splits, or one that is split here; the last are those of published generated
images."""


def read_idx(folder: Path) -> Splits | None:
    """The four idx files of MNIST, Fashion-MNIST and others; None when the folder has none of them.

    Raises:
        DataError: when one of the four is missing, truncated or not idx.
    """
    files = [_idx_file(folder, name) for name in IDX_FILES]
    if not any(files):
        return None
    for file, name in zip(files, IDX_FILES, strict=True):
        if file is None:
            raise DataError(f"{folder}: an idx data set has four files. {name} (or {name}.gz) is missing.")
    x_train, y_train, x_test, y_test = (
        read_idx_file(file, rank) for file, rank in zip(files, (3, 1, 3, 1), strict=True) if file is not None
    )
    return Splits(_idx_images(x_train, y_train), _idx_images(x_test, y_test))


def read_idx_file(path: Path, rank: int) -> Array:
    """The uint8 array in one idx file, plain or gzip.

    The header is two zero bytes, a type (8 is uint8), the rank, and one big-endian uint32 per dimension.

    Raises:
        DataError: for another type or rank, or a length that differs from what the header announces.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = _gunzip(path, data)
    header = 4 + 4 * rank
    if len(data) < header or data[:4] != bytes((0, 0, 8, rank)):
        raise DataError(
            f"{path} must begin with the idx magic {bytes((0, 0, 8, rank)).hex()} and {rank} dimensions. "
            f"Got {data[:4].hex() or 'nothing'} in {len(data)} bytes."
        )
    shape = struct.unpack(f">{rank}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise DataError(f"{path} must hold {expected} bytes for the shape {shape} in its header. Got {len(data)}.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def read_npz(path: Path) -> Splits:
    """The images and labels in a `.npz` archive, as `read_npz_parts` finds them; one set `x, y` is cut 80/20."""
    parts = read_npz_parts(path)
    if len(parts) == 2:
        return Splits(parts[0], parts[1])
    (whole,) = parts
    if len(whole.x) != len(whole.y):
        raise DataError(f"{path}: there must be one label per image. Got {len(whole.x)} images, {len(whole.y)} labels.")
    return Splits(*divided(whole))


def read_npz_parts(path: Path) -> list[Images]:
    """The images and labels in a `.npz` archive, under one of `NPZ_KEYS`.

    Images are uint8, integers in 0..255, or floats in [0, 1], of rank 3 (`[N, H, W]`, grey) or 4. In rank 4 the axis
    of length 1 or 3 holds the channels: the second (`[N, C, H, W]`) or the last (`[N, H, W, C]`). When both have such
    a length, the one that makes the images square does, if only one does; anything else is refused.
    Labels are integers, `[N]` or `[N, 1]`.

    Returns:
        Train and test images, or the one set that the archive holds.

    Raises:
        DataError: for a damaged archive, one with objects in it (they would have to be unpickled), or without the keys.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path} is not a readable .npz archive: it is no zip file, or was cut short.")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            keys = next((keys for keys in NPZ_KEYS if set(keys) <= set(archive.files)), None)
            if keys is None:
                wanted = " or ".join("(" + ", ".join(keys) + ")" for keys in NPZ_KEYS)
                raise DataError(f"{path} must have the keys {wanted}. Got {', '.join(archive.files) or 'none'}.")
            arrays = [archive[key] for key in keys]
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each raise their own on bad bytes
        raise DataError(f"{path} is not a readable .npz archive: {error}") from error
    return [
        Images(_images(x, f"{path} {x_key}"), _labels(y, f"{path} {y_key}"))
        for x, y, x_key, y_key in zip(arrays[::2], arrays[1::2], keys[::2], keys[1::2], strict=True)
    ]


def _images(x: Array, where: str) -> torch.Tensor:
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4:
        x = x if _channels_first(x.shape, where) else x.transpose(0, 3, 1, 2)
    else:
        raise DataError(f"{where}: images must be [N, H, W], [N, C, H, W] or [N, H, W, C]. Got {list(x.shape)}.")
    if x.dtype.kind in "iu" and x.dtype != np.uint8:
        low, high = (x.min(), x.max()) if x.size else (0, 0)
        if low < 0 or high > 255:
            raise DataError(f"{where}: integer pixels must be in 0..255. Got min {low} and max {high}.")
        x = x.astype(np.uint8)
    elif x.dtype.kind == "f":
        x = x.astype(np.float32)
    elif x.dtype != np.uint8:
        raise DataError(f"{where}: pixels must be integers in 0..255 or floats in [0, 1]. Got dtype {x.dtype}.")
    return torch.from_numpy(np.ascontiguousarray(x))


def _channels_first(shape: tuple[int, ...], where: str) -> bool:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last:  # images one or three pixels high or wide
        first, last = shape[2] == shape[3], shape[1] == shape[2]
    if first == last:
        raise DataError(f"{where}: the axis of length 1 or 3 that holds the channels is not clear. Got {list(shape)}.")
    return first


def _labels(y: Array, where: str) -> torch.Tensor:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{where}: labels must be integers of shape [N] or [N, 1]. Got {y.dtype} of {list(y.shape)}.")
    return torch.from_numpy(y.astype(np.int64))


def _idx_file(folder: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")
    return next((folder / file for n in (name, dotted) for file in (n, n + ".gz") if (folder / file).is_file()), None)


def _idx_images(x: Array, y: Array) -> Images:
    return Images(torch.from_numpy(x[:, None]), torch.from_numpy(y.astype(np.int64)))


def _gunzip(path: Path, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except EOFError:  # cut short: what there is shows how much is missing
        try:
            return zlib.decompressobj(31).decompress(data)
        except zlib.error as error:
            raise DataError(f"{path} is a damaged gzip file of {len(data)} bytes: {error}") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file of {len(data)} bytes: {error}") from error
