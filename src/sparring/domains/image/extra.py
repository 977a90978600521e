"""Training images beside those of a data set: pseudo-labelled or generated, of the same shape and classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sparring.domains.image.data import load
from sparring.domains.image.formats import read_npz_parts
from sparring.domains.image.source import DataError, Dataset, Source, check, fingerprint


@dataclass(frozen=True, eq=False)
class ExtraImages:
    """Images to train on beside a data set's own, and what a record says of them.

    Args:
        name: as given.
        source: images and labels, in the data set's numbering.
        fingerprint: SHA-256 that changes when they do.
    """

    name: str
    source: Source
    fingerprint: str


def load_extra(name: str, beside: Dataset, root: str | Path | None = None, size: int | None = None) -> ExtraImages:
    """The training images of a name or path, checked against the data set that they come beside.

    An `.npz` archive with one set in it is taken whole; of anything else the training part, so that the test images of
    a published set are never trained on.

    Args:
        name: as `data.load` takes it.
        beside: the data set whose shape and classes are needed.
        root, size: as for `data.load`.

    Raises:
        DataError: where there are no such images, or they are the data set's own, of another shape or other classes.
    """
    if name.endswith(".npz") and Path(name).is_file():
        source: Source = read_npz_parts(Path(name))[0]
        mark = None
    else:
        found = load(name, root, size)
        source, mark = found.train, found.fingerprint
        if mark == beside.fingerprint:
            raise DataError(f"{name} (extra data) must be another data set: images held out to validate are in it.")
        _same_classes(found.classes, beside, name)
    where = f"{name} (extra data)"
    check(source, len(beside.classes), where)
    shape = tuple(source.take(torch.tensor([0]))[0].shape[1:])
    if shape != beside.shape:
        raise DataError(f"{where}: images must have the shape of {beside.name}, {beside.shape}. Got {shape}.")
    return ExtraImages(name, source, mark or fingerprint(source))


def _same_classes(classes: Sequence[str], beside: Dataset, name: str) -> None:
    """Label k means the same class in both; numbers, the names of classes that have none, may mean any."""
    numbered = tuple(str(k) for k in range(len(classes)))
    if tuple(classes) not in (numbered, beside.classes) and beside.classes[: len(classes)] != numbered:
        raise DataError(
            f"{name} (extra data): classes must be those of {beside.name}, {', '.join(beside.classes)}. "
            f"Got {', '.join(classes)}."
        )
