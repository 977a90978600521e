"""Labelled images: where a batch comes from, what a data set is, and the one place where both are checked.

Images leave a source as float32 in [0, 1], `[n, C, H, W]`; how they are stored (uint8 in memory, files on a disk) is
the source's own business.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from sparring.domains.image.progress import progress

STATISTICS_LIMIT = 10_000
"""Train images that mean and std are computed from, at most."""

STD_FLOOR = 0.01
"""The least std of a channel: a constant channel must not blow up when it is normalised."""

FINGERPRINT_LIMIT = 1_000
"""Images of each split whose pixels enter the fingerprint, at most."""

FIXED_SEED = 20240607
"""Seed of every sample and split here. It never changes, nor does numpy's `RandomState`: results stay comparable."""


class DataError(ValueError):
    """Data that cannot be used as it is: missing, damaged, out of range, or of another format."""


class Source(Protocol):
    """Labelled images that can be taken by row."""

    @property
    def y(self) -> Tensor:
        """Labels, int64 `[N]`, in [0, K)."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(x, y)` of these rows: x float32 `[n, C, H, W]` in [0, 1], y int64 `[n]`."""
        ...


@dataclass(frozen=True, eq=False)
class Images:
    """Images in memory. uint8 is converted batch by batch, so it takes a quarter of the memory of float32.

    Args:
        x: `[N, C, H, W]`, uint8 in 0..255 or float32 in [0, 1].
        y: labels, int64 `[N]`.
        masks: where the object that a label names is, bool `[N, H, W]`; None where nobody knows.
    """

    x: Tensor
    y: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.to(self.x.device)
        x = self.x[rows]
        return (x.float() / 255 if x.dtype == torch.uint8 else x), self.y[rows]

    def masks_of(self, rows: Tensor) -> Tensor | None:
        """The masks of these rows, bool `[n, H, W]`; None where there are none."""
        return None if self.masks is None else self.masks[rows.to(self.masks.device)]

    def subset(self, rows: Tensor) -> Self:
        rows = rows.to(self.x.device)
        return type(self)(self.x[rows], self.y[rows], self.masks_of(rows))

    def to(self, device: torch.device | str) -> Self:
        """The same images on another device, still in their own dtype."""
        masks = None if self.masks is None else self.masks.to(device)
        return type(self)(self.x.to(device), self.y.to(device), masks)


@dataclass(frozen=True, eq=False)
class Splits:
    """What a reader found: both splits, the classes by name where the format names them, its own fingerprint if any,
    and test images from other distributions, by name."""

    train: Source
    test: Source
    classes: tuple[str, ...] | None = None
    fingerprint: str | None = None
    shifted: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train and test images and what is known about them.

    Args:
        name: for records and messages.
        train, test: the two splits.
        classes: their names; label k means `classes[k]`.
        shape: `(C, H, W)` of an image.
        mean, std: per channel, in pixels in [0, 1], of the train images only (a fixed sample of at most 10,000);
            std is at least 0.01.
        customary: the radius the literature attacks this data with, by norm ("linf", "l2", "l1"), pixels in [0, 1];
            empty where there is no custom.
        fingerprint: SHA-256 that changes when the data does, so that a resumed run notices.
        shifted: test splits from other distributions than `train` and `test`, by name; none for most data.
    """

    name: str
    train: Source
    test: Source
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    customary: Mapping[str, float]
    fingerprint: str
    shifted: Mapping[str, Source] = field(default_factory=dict)


def assemble(name: str, splits: Splits, customary: Mapping[str, float] | None = None) -> Dataset:
    """A checked `Dataset` of these splits. Without names the classes are the numbers 0 .. max train label.

    Raises:
        DataError: when a split breaks a rule of `check`, or they differ in shape.
    """
    train, test = splits.train, splits.test
    classes = splits.classes
    if classes is None:
        highest = int(train.y.max()) if train.y.numel() else -1
        classes = tuple(str(k) for k in range(max(highest + 1, 1)))
    check(train, len(classes), f"{name} train")
    C, H, W = _one(train).shape[1:]
    for part, source in (("test", test), *splits.shifted.items()):
        check(source, len(classes), f"{name} {part}")
        other = tuple(_one(source).shape[1:])
        if other != (C, H, W):
            raise DataError(f"{name}: {part} images must have the train images' shape {(C, H, W)}. Got {other}.")
    mean, std = channel_statistics(train)
    mark = splits.fingerprint or fingerprint(train, test, *splits.shifted.values())
    radii, shifted = dict(customary or {}), dict(splits.shifted)
    return Dataset(name, train, test, classes, (C, H, W), mean, std, radii, mark, shifted)


def check(source: Source, classes: int, where: str) -> None:
    """That labels and pixels keep their promises; pixels only where they are in memory.

    Args:
        source: what to check.
        classes: K; labels must be in [0, K).
        where: named in errors, such as "mnist train".

    Raises:
        DataError: for a wrong rank or dtype, no examples, unequal lengths, masks of another shape than the images, a
            label outside [0, K) or a pixel outside [0, 1], NaN or infinite; it names the value and the first row that
            is wrong.
    """
    y = source.y
    if y.dim() != 1 or y.dtype != torch.int64:
        raise DataError(f"{where}: labels must be int64 of shape [N]. Got {y.dtype} of shape {list(y.shape)}.")
    if isinstance(source, Images):
        x = source.x
        if x.dim() != 4 or 0 in x.shape[1:]:
            raise DataError(f"{where}: images must have shape [N, C, H, W]. Got {list(x.shape)}.")
        if x.dtype not in (torch.uint8, torch.float32):
            raise DataError(f"{where}: images must be uint8 in 0..255 or float32 in [0, 1]. Got {x.dtype}.")
        masks, wanted = source.masks, (len(x), *x.shape[2:])
        if masks is not None and (masks.dtype != torch.bool or masks.shape != wanted):
            raise DataError(
                f"{where}: masks must be bool of shape {list(wanted)}. Got {masks.dtype} of {list(masks.shape)}."
            )
    if len(source) != len(y):
        raise DataError(f"{where}: there must be one label per image. Got {len(source)} images and {len(y)} labels.")
    if len(y) == 0:
        raise DataError(f"{where}: there must be at least one image. Got none.")
    wrong = ((y < 0) | (y >= classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{where}: labels must be in the range [0, {classes}). Got {int(y[row])} in row {row}.")
    if isinstance(source, Images) and source.x.is_floating_point():
        _check_range(source.x, where)


def _check_range(x: Tensor, where: str) -> None:
    for start in range(0, len(x), 1024):  # in parts: the comparison's temporaries stay small
        part = x[start : start + 1024].flatten(1)
        wrong = (~((part >= 0) & (part <= 1)).all(1)).nonzero()  # a NaN fails both comparisons
        if len(wrong):
            row = start + int(wrong[0])
            bad = x[row]
            if not bad.isfinite().all():
                raise DataError(f"{where}: pixels must be finite. Got NaN or infinity in row {row}.")
            low, high = float(bad.min()), float(bad.max())
            hint = " Were they meant as 0..255? Store those as uint8." if high > 1.5 else ""
            raise DataError(
                f"{where}: float pixels must be in the range [0, 1]. Row {row} has min {low:g} and max {high:g}.{hint}"
            )


def channel_statistics(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over at most 10,000 images of a fixed sample."""
    rows = _sampled(len(source), STATISTICS_LIMIT)
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    with progress("mean and std", len(rows)) as advance:
        for part in rows.split(256):
            x = source.take(part)[0].double().cpu()
            total, square = total + x.sum((0, 2, 3)), square + x.square().sum((0, 2, 3))
            count += x[:, 0].numel()
            advance(len(part))
    mean = total / count
    std = (square / count - mean.square()).clamp(min=0).sqrt().clamp(min=STD_FLOOR)
    return tuple(mean.tolist()), tuple(std.tolist())


def fingerprint(*sources: Source) -> str:
    """SHA-256 over every label, every length, and the pixels and masks of a fixed sample of 1,000 images per source."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.y.cpu().numpy().astype("<i8").tobytes())
        for part in _sampled(len(source), FINGERPRINT_LIMIT).split(100):
            x = source.take(part)[0].cpu()
            digest.update(repr(tuple(x.shape)).encode())
            digest.update(x.contiguous().numpy().astype("<f4").tobytes())
            masks = source.masks_of(part) if isinstance(source, Images) else None
            if masks is not None:
                digest.update(masks.cpu().numpy().tobytes())
    return digest.hexdigest()


def _sampled(count: int, limit: int) -> Tensor:
    """At most `limit` of `count` rows, the same ones always, in order. Not a stride: MNIST's even rows are by other
    writers than its odd ones, and their mean is 0.123 where it should be 0.131."""
    if count <= limit:
        return torch.arange(count)
    return torch.from_numpy(np.sort(np.random.RandomState(FIXED_SEED).permutation(count)[:limit]))


def _one(source: Source) -> Tensor:
    return source.take(torch.tensor([0]))[0]
