"""A folder with one folder of image files per class, decoded as batches ask for them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sparring.domains.image.decode import Shape, decoded, shape_of
from sparring.domains.image.source import DataError, Splits
from sparring.domains.image.split import divided

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Image files that are decoded at `take`, so a folder larger than memory streams.

    An image of another size is scaled to cover `H x W` and cropped around its centre.

    Args:
        paths: N files.
        y: labels, int64 `[N]`.
        shape: `(C, H, W)` that every image is brought to; C 1 (grey) or 3 (RGB).
    """

    paths: tuple[Path, ...]
    y: Tensor
    shape: Shape

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.cpu()
        paths = [self.paths[row] for row in rows.tolist()]
        return decoded(paths, [str(path) for path in paths], self.shape).float() / 255, self.y[rows]

    def subset(self, rows: Tensor) -> Self:
        rows = rows.cpu()
        return type(self)(tuple(self.paths[row] for row in rows.tolist()), self.y[rows], self.shape)


def read_folder(folder: Path, size: int | None = None) -> Splits | None:
    """The images under `train/<class>/` and `test|val|valid|validation/<class>/`, or `<class>/` with a fixed split.

    Files are png, jpg, jpeg, bmp, webp or gif, at any depth below their class; hidden files are passed over. Classes
    are in alphabetical order, and those of the train images count.

    Args:
        folder: where to look.
        size: height and width of the images; by default those of the first train image, which also decides whether
            the set is grey or RGB.

    Returns:
        None when the folder has no such images.

    Raises:
        DataError: when a class is empty or missing from the train images.
    """
    train_folder = folder / "train"
    test_folder = next((folder / name for name in TEST_NAMES if (folder / name).is_dir()), None)
    if train_folder.is_dir() and test_folder is not None:
        train_files, test_files = _files(train_folder), _files(test_folder)
    elif train_folder.is_dir() and _files(train_folder):
        train_files, test_files = _files(train_folder), {}
    else:
        train_files, test_files = _files(folder), {}
    if not any(train_files.values()):
        return None
    for name, files in train_files.items():
        if not files:
            raise DataError(f"Every class folder must hold images ({', '.join(EXTENSIONS)}). Got none in {name!r}.")
    classes = tuple(sorted(train_files))
    unknown = sorted(set(test_files) - set(classes))
    if unknown:
        raise DataError(f"{test_folder}: every class must also be among the train images. Got {unknown[0]!r}.")
    first = train_files[classes[0]][0]
    shape = shape_of(first, str(first), size)
    train = _source(train_files, classes, shape)
    if len(classes) < 2:
        raise DataError(f"{folder}: there must be at least two classes to tell apart. Got only {classes[0]!r}.")
    if any(test_files.values()):
        test = _source(test_files, classes, shape)
    else:
        train, test = divided(train)
    return Splits(train, test, classes, _fingerprint(folder, train, test))


def _files(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, in order of their paths."""
    return {
        child.name: sorted(
            path
            for path in child.rglob("*")
            if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()
        )
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def _source(files: dict[str, list[Path]], classes: tuple[str, ...], shape: Shape) -> ImageFolder:
    listed = [(path, classes.index(name)) for name in sorted(files) for path in files[name]]
    return ImageFolder(tuple(path for path, _ in listed), torch.tensor([label for _, label in listed]), shape)


def _fingerprint(folder: Path, *sources: ImageFolder) -> str:
    """SHA-256 over labels, relative paths, file sizes and the shape images are brought to; nothing is decoded."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(repr((len(source), source.shape)).encode())
        for path, label in zip(source.paths, source.y.tolist(), strict=True):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0{label}\n".encode())
    return digest.hexdigest()
