"""The split of data that comes without one: the same for everybody, with the classes in the same proportions."""

from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparring.domains.image.source import FIXED_SEED, DataError, Source


class Divisible(Source, Protocol):
    """A source that can be cut into parts."""

    def subset(self, rows: Tensor) -> Self: ...


S = TypeVar("S", bound=Divisible)


def divided(source: S, test: int | None = None) -> tuple[S, S]:
    """Train and test parts of a source that comes as one, the classes in the same proportions in both.

    Args:
        source: at least two images.
        test: how many go to the test part; a fifth by default.
    """
    if len(source) < 2:
        raise DataError(f"There must be at least two images to split into train and test. Got {len(source)}.")
    train_rows, test_rows = stratified(source.y.cpu().numpy(), max(1, round(len(source) / 5)) if test is None else test)
    return source.subset(train_rows), source.subset(test_rows)


def stratified(y: npt.NDArray[Any], test: int) -> tuple[Tensor, Tensor]:
    """Ascending rows of a train and a test part; each class gives its share of `test`, by largest remainder.

    Everybody gets the same split. A class never gives its last example to the test part.
    """
    labels, counts = np.unique(y, return_counts=True)
    quota = counts * test / len(y)
    given = np.minimum(np.floor(quota).astype(int), counts - 1)
    while given.sum() < test and (given < counts - 1).any():
        given[np.argmax(np.where(given < counts - 1, quota - given, -np.inf))] += 1
    rng = np.random.RandomState(FIXED_SEED)
    chosen = np.zeros(len(y), dtype=bool)
    for label, count in zip(labels, given, strict=True):
        chosen[rng.permutation(np.flatnonzero(y == label))[:count]] = True
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))
