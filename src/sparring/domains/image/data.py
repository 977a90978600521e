"""Data sets by name or path. Nothing is downloaded, except by `hf:NAME`, which asks Hugging Face's own package to."""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sparring.domains.image.cifar import read_cifar_binary, read_cifar_python
from sparring.domains.image.folder import read_folder
from sparring.domains.image.formats import IDX_FILES, read_idx, read_npz
from sparring.domains.image.online import read_hub
from sparring.domains.image.parquet import read_parquet
from sparring.domains.image.source import DataError, Dataset, Images, Splits, assemble
from sparring.domains.image.split import divided
from sparring.domains.image.spurious import on_textures
from sparring.domains.image.tinted import DOMAINS, tinted

_MADE: dict[str, tuple[str, Callable[[Dataset], Splits], Mapping[str, float]]] = {
    "digits-on-textures": ("digits", partial(on_textures, size=20), {"linf": 0.1}),
    "mnist-on-textures": ("mnist", partial(on_textures, size=28), {"linf": 0.1}),
    **{f"cifar10-tinted-{k}": ("cifar10", partial(tinted, left_out=k), {"linf": 8 / 255}) for k in range(DOMAINS)},
}
"""Sets made of another one: its name, what makes them, and their customary radii."""

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", *_MADE)
"""The names that `load` knows; a path or `hf:NAME` is the other way to say what is meant."""

DATA_ROOT = "SPARRING_DATA"
"""Environment variable with the folder that holds the data sets, used where no root is given."""

Reader = Callable[[Path, int | None], Splits | None]


def _stored(read: Callable[[Path], Splits | None]) -> Reader:
    """A reader of arrays, whose size is the stored one (`load` refuses another)."""
    return lambda folder, _: read(folder)


_IDX: tuple[Reader, ...] = (_stored(read_idx), read_parquet)
_CIFAR: tuple[Reader, ...] = (_stored(read_cifar_python), _stored(read_cifar_binary), read_parquet)
_ANY: tuple[Reader, ...] = (_stored(read_idx), *_CIFAR)

_LOOKED_FOR = (
    "idx files (train-images-idx3-ubyte[.gz], ...), CIFAR batches (data_batch_1, ... or train and test, or .bin), "
    "parquet shards (train-*.parquet), one .npz file, or image files in train/<class>/ and test/<class>/, or <class>/"
)


@dataclass(frozen=True)
class _Published:
    """Where a published set is looked for below the root, which files it consists of, and what its content must be."""

    folders: tuple[str, ...]
    readers: tuple[Reader, ...]
    obtain: str
    classes: int
    shape: tuple[int, int, int]
    customary: Mapping[str, float]
    names: tuple[str, ...] | None = None


_IDX_NAMES = ", ".join(f"{name}.gz" for name in IDX_FILES)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

_PUBLISHED: dict[str, _Published] = {
    "mnist": _Published(
        ("mnist", "MNIST", "mnist/raw", "MNIST/raw"),
        _IDX,
        f"{_IDX_NAMES} (yann.lecun.com/exdb/mnist and mirrors), or the parquet files of hf.co/datasets/ylecun/mnist",
        10,
        (1, 28, 28),
        {"linf": 0.3, "l2": 2.0, "l1": 10.0},  # Madry et al. 2018; Tramer & Boneh 2019
    ),
    "fashion-mnist": _Published(
        ("fashion-mnist", "fashion_mnist", "FashionMNIST", "fashion-mnist/raw", "FashionMNIST/raw"),
        _IDX,
        f"{_IDX_NAMES} (github.com/zalandoresearch/fashion-mnist), or the parquet files of "
        "hf.co/datasets/zalando-datasets/fashion_mnist",
        10,
        (1, 28, 28),
        {"linf": 0.1},
        _FASHION,
    ),
    "cifar10": _Published(
        (
            *("cifar10", "cifar-10", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"),
            *("cifar-10/cifar-10-batches-py", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"),
        ),
        _CIFAR,
        "cifar-10-python.tar.gz or cifar-10-binary.tar.gz, unpacked (www.cs.toronto.edu/~kriz/cifar.html), or the "
        "parquet files of hf.co/datasets/uoft-cs/cifar10",
        10,
        (3, 32, 32),
        {"linf": 8 / 255, "l2": 0.5, "l1": 12.0},  # RobustBench (Croce et al. 2021); l1: Croce & Hein 2021
        _CIFAR10,
    ),
    "cifar100": _Published(
        (
            *("cifar100", "cifar-100", "cifar-100-python", "cifar100/cifar-100-python"),
            *("cifar-100/cifar-100-python", "cifar-100-binary", "cifar100/cifar-100-binary"),
        ),
        _CIFAR,
        "cifar-100-python.tar.gz or cifar-100-binary.tar.gz, unpacked (www.cs.toronto.edu/~kriz/cifar.html), or the "
        "parquet files of hf.co/datasets/uoft-cs/cifar100",
        100,
        (3, 32, 32),
        {"linf": 8 / 255, "l2": 0.5},
    ),
}


def customary(name: str) -> Mapping[str, float]:
    """The radius that the field uses on a named data set, per norm; empty where there is no custom.

    The digits have no custom: theirs are ours, half of MNIST's in Linf and L2, of about the same strength in L1. Nor
    have digits on textures: 0.1 is ours, less than half of what tells two of the textures' colours apart. The tinted
    sets have that of CIFAR-10 in Linf.
    """
    if name in _MADE:
        return _MADE[name][2]
    if name == "digits":
        return {"linf": 0.15, "l2": 0.5, "l1": 2.0}
    return _PUBLISHED[name].customary if name in _PUBLISHED else {}


def load(name: str, root: str | Path | None = None, size: int | None = None) -> Dataset:
    """A data set by name or path.

    Args:
        name: one of `NAMES`; `hf:NAME` or `hf:NAME:CONFIG` for the Hugging Face hub; else the path of a folder, whose
            format is told by its content, or of an `.npz` file.
        root: folder that the named sets are looked for in; by default the environment variable SPARRING_DATA.
        size: height and width that encoded images (folders of files, parquet, hub) are brought to. Arrays are used as
            they are stored, and another size is refused.

    Raises:
        DataError: when there is no such data, or it is damaged; the message says where it was looked for and what for.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise DataError(f"The 'size' parameter must be None or an int in the range [1, inf). Got {size!r} instead.")
    if name == "digits":
        data = assemble(name, _digits(), customary(name))
    elif name in _PUBLISHED:
        data = _published(name, _PUBLISHED[name], root, size)
    elif name in _MADE:
        base, make, radii = _MADE[name]
        data = assemble(name, make(load(base, root)), radii)
    elif name.startswith("hf:"):
        data = assemble(name, read_hub(name.removeprefix("hf:"), size))
    elif Path(name).exists():
        data = assemble(name, _at(Path(name), size))
    else:
        raise _unknown(name)
    if size is not None and data.shape[1:] != (size, size):
        raise DataError(
            f"The 'size' parameter is for encoded images; {name} holds arrays of {data.shape[1]}x{data.shape[2]} "
            f"pixels. Got {size} instead."
        )
    return data


def _digits() -> Splits:
    """The 1,797 handwritten digits that come with scikit-learn: 8x8, 17 grey levels, 1,347 to train and 450 to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] / 16
    y = torch.from_numpy(bunch.target).long()
    return Splits(*divided(Images(x, y), test=450), tuple(str(k) for k in range(10)))


def _published(name: str, known: _Published, root: str | Path | None, size: int | None) -> Dataset:
    given = root if root is not None else os.environ.get(DATA_ROOT) or None
    places = [] if given is None else _places(Path(given), known.folders)
    for place in places:
        splits = _first(place, known.readers, size) if place.is_dir() else None
        if splits is None:
            continue
        data = assemble(name, Splits(splits.train, splits.test, splits.classes or known.names), known.customary)
        wanted = known.shape if size is None else (known.shape[0], size, size)
        if len(data.classes) != known.classes or (data.shape != wanted and data.shape != known.shape):
            raise DataError(
                f"{place}: {name} must have {known.classes} classes and images of shape {known.shape}. "
                f"Got {len(data.classes)} classes and {data.shape}."
            )
        return data
    looked = "\n  ".join(map(str, places)) or f"nowhere: no root was given and {DATA_ROOT} is not set"
    raise DataError(
        f"{name} was not found. Looked in\n  {looked}\nGet {known.obtain}; put the files in "
        f"<root>/{known.folders[0]} and pass --data-root <root> or set {DATA_ROOT}=<root>. Nothing is downloaded."
    )


def _places(root: Path, folders: tuple[str, ...]) -> list[Path]:
    """Where a set may be: the folders below the root, and the root itself when it bears the name of one of them."""
    own = [root, root / "raw"] if root.resolve().name in folders else []
    return own + [root / folder for folder in folders]


def _at(path: Path, size: int | None) -> Splits:
    if path.is_file():
        if path.suffix == ".npz":
            return read_npz(path)
        raise DataError(f"{path} must be a folder or an .npz file.")
    splits = _first(path, _ANY, size)
    if splits is None:
        archives = sorted(path.glob("*.npz"))
        if len(archives) == 1:
            return read_npz(archives[0])
        splits = read_folder(path, size)
    if splits is None:
        held = ", ".join(sorted(child.name for child in path.iterdir())[:5]) or "an empty folder"
        raise DataError(f"{path} holds no images. Looked for {_LOOKED_FOR}. Found {held}.")
    return splits


def _first(folder: Path, readers: tuple[Reader, ...], size: int | None) -> Splits | None:
    return next((splits for reader in readers if (splits := reader(folder, size)) is not None), None)


def _unknown(name: str) -> DataError:
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return DataError(
        f"The data set must be one of {', '.join(NAMES)}, hf:NAME, or the path of a folder or an .npz file. "
        f"Got {name!r}.{hint}"
    )
