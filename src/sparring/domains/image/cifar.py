"""CIFAR-10 and CIFAR-100 as published (Krizhevsky, "Learning multiple layers of features from tiny images", 2009).

The "python version" is a set of pickles, and a pickle can run any code: these are read by an unpickler that knows
numpy arrays and nothing else.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sparring.domains.image.source import DataError, Images, Splits

ROW = 3 * 32 * 32
BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))

_rebuild: Any = np.empty(0).__reduce__()[0]  # numpy's _reconstruct, whichever module this numpy keeps it in

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _rebuild,
    ("numpy._core.multiarray", "_reconstruct"): _rebuild,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""The globals a batch may name, besides `_codecs.encode` (how Python 3 writes bytes in protocol 2)."""


def read_cifar_python(folder: Path) -> Splits | None:
    """The python version: `data_batch_1..5, test_batch` (CIFAR-10) or `train, test` (CIFAR-100, fine labels).

    Class names come from `batches.meta` or `meta`. None when the folder holds neither set.

    Raises:
        DataError: when a file is missing, damaged, or names a global that is not numpy's.
    """
    if any((folder / name).is_file() for name in (*BATCHES, "test_batch")):
        train, test, key, meta, names = BATCHES, "test_batch", b"labels", "batches.meta", b"label_names"
    elif (folder / "train").is_file() and (folder / "test").is_file():
        train, test, key, meta, names = ("train",), "test", b"fine_labels", "meta", b"fine_label_names"
    else:
        return None
    parts = [_batch(folder / name, key) for name in train]
    classes = _names(folder / meta, names) if (folder / meta).is_file() else None
    return Splits(_joined(parts), _joined([_batch(folder / test, key)]), classes)


def read_cifar_binary(folder: Path) -> Splits | None:
    """The binary version: rows of one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3,072 pixels.

    Files are `data_batch_1..5.bin, test_batch.bin` or `train.bin, test.bin`. None when the folder holds neither set.
    """
    if any((folder / f"{name}.bin").is_file() for name in (*BATCHES, "test_batch")):
        train, test, labels, meta = BATCHES, "test_batch", 1, "batches.meta.txt"
    elif (folder / "train.bin").is_file() and (folder / "test.bin").is_file():
        train, test, labels, meta = ("train",), "test", 2, "fine_label_names.txt"
    else:
        return None
    parts = [_rows(folder / f"{name}.bin", labels) for name in train]
    listed = (folder / meta).read_text().split() if (folder / meta).is_file() else []
    return Splits(_joined(parts), _joined([_rows(folder / f"{test}.bin", labels)]), tuple(listed) or None)


def unpickled(path: Path) -> Any:
    """What is in a pickle of dicts, lists, numbers, strings, bytes and numpy arrays; bytes keys stay bytes.

    Raises:
        DataError: for a missing or damaged file, and for one that asks for any other global, before that is imported.
    """
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.") from error
    except Exception as error:  # bad bytes can raise anything
        raise DataError(f"{path} is not a readable CIFAR batch: {type(error).__name__}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._file = file.name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if (module, name) not in ALLOWED:
            raise DataError(
                f"{self._file} must hold numpy arrays only. It names the global {module}.{name}, which was not "
                "imported. A pickle can run any code: get the file from its publisher."
            )
        return ALLOWED[module, name]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise DataError(f"Bytes in a pickle must be encoded as 'latin1'. Got {encoding!r}.")
    return text.encode("latin1")


def _batch(path: Path, key: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    batch = unpickled(path)
    if not isinstance(batch, dict) or b"data" not in batch or key not in batch:
        held = sorted(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
        raise DataError(f"{path} must be a dict with the keys b'data' and {key!r}. Got {held}.")
    data, labels = batch[b"data"], batch[key]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (ROW,):
        raise DataError(f"{path}: b'data' must be uint8 of shape [N, {ROW}]. Got {getattr(data, 'shape', type(data))}.")
    try:
        y = np.asarray(labels)
    except ValueError as error:
        raise DataError(f"{path}: {key!r} must be a list of integers.") from error
    if y.shape != (len(data),) or y.dtype.kind not in "iu":
        raise DataError(f"{path}: {key!r} must be {len(data)} integers. Got {y.dtype} of shape {list(y.shape)}.")
    return data, y.astype(np.int64)


def _names(path: Path, key: bytes) -> tuple[str, ...]:
    meta = unpickled(path)
    names = meta.get(key) if isinstance(meta, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{path} must be a dict whose key {key!r} lists the class names.")
    return tuple(name.decode() if isinstance(name, bytes) else name for name in names)


def _rows(path: Path, labels: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    if not path.is_file():
        raise DataError(f"{path} is missing.")
    data = np.fromfile(path, np.uint8)
    row = labels + ROW
    if len(data) == 0 or len(data) % row:
        raise DataError(f"{path} must hold a whole number of rows of {row} bytes. Got {len(data)} bytes.")
    data = data.reshape(-1, row)
    return data[:, labels:], data[:, labels - 1].astype(np.int64)


def _joined(parts: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]) -> Images:
    x = np.concatenate([data for data, _ in parts]).reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(x), torch.from_numpy(np.concatenate([y for _, y in parts])))
