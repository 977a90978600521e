"""The examples of a run, dealt in an order that is a function of the seed and the epoch alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparring.core.game import Batch
from sparring.core.seeds import derive
from sparring.engine.labels import Blend


class Source(Protocol):
    """A split of a data set."""

    @property
    def y(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def take(self, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        """The examples at these indices: x float32 and y int64."""
        ...


@runtime_checkable
class Masked(Source, Protocol):
    """A source that may know where in its images the object is."""

    def masks_of(self, rows: Tensor, /) -> Tensor | None:
        """The foreground of these images, bool `[n, H, W]`; None where nobody marked it."""
        ...


Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Extra:
    """Training examples beside the original ones: pseudo-labelled (Carmon et al. 2019), generated (Gowal et al. 2021).

    Args:
        source: where they come from, with labels of their own; the shape and classes of the original ones.
        share: how much of every batch they are, in [0, 1).
    """

    source: Source
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"The 'share' parameter must be a number in the range [0, 1). Got {self.share!r} instead.")
        if len(self.source) == 0:
            raise ValueError("The 'source' parameter must hold at least one example. Got none.")


@dataclass(frozen=True)
class Stream:
    """Deals training batches `(x, y)` on a device.

    Before each batch it seeds `rng` and torch's global generator from (seed, step): whatever the augmentation, the
    attack and the model's dropout draw in that round is the same in a resumed run.

    An epoch is one pass over the original examples, whatever comes beside them. Extra examples are dealt in seeded
    permutations, one after the other across epochs, so that each has been dealt as often as any other, give or take
    one; which of them a batch holds is a function of (seed, step) too.

    Args:
        source: where examples come from.
        rows: which of its examples are for training.
        batch_size: examples per batch B; the last batch of an epoch is smaller, and left out if it has one example
            (BatchNorm has no variance of one).
        seed: of the run.
        rng: the generator that the game draws from, on the device.
        augment: `(x, rng) -> x`, or None.
        blend: `(x, y, rng) -> (x, y)` after it, or None: mixes examples, softens labels.
        masks: deal `(x, y, masks)`, masks bool `[B, H, W]`. Nothing may then move or mix the images.
        extra: examples beside the original ones, or None. A full batch is B - round(share B) original examples
            followed by round(share B) extra ones; the last one of an epoch keeps their ratio to the nearest example.

    Raises:
        ValueError: where the extra share leaves no room for an original example, or masks are asked for and the source
            has none, or something would move or mix the images under them.
    """

    source: Source
    rows: Tensor
    batch_size: int
    seed: int
    rng: torch.Generator
    augment: Augment | None = None
    blend: Blend | None = None
    extra: Extra | None = None
    masks: bool = False

    def __post_init__(self) -> None:
        if self.extra is not None and self._own < 1:
            raise ValueError(
                f"The 'share' parameter must leave one original example in a batch of {self.batch_size} at least. "
                f"Got {self.extra.share!r} instead."
            )
        if self.masks:
            moved = [name for name in ("augment", "blend", "extra") if getattr(self, name) is not None]
            if moved:
                raise ValueError(f"With masks the batches must be as they are stored. Got {', '.join(moved)} as well.")
            if not isinstance(self.source, Masked) or self.source.masks_of(self.rows[:1]) is None:
                raise ValueError(
                    "The data must say where the object is in each image (as digits-on-textures does) for masks that "
                    "are given. This data has no masks."
                )

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.rows), self._own)
        return full + (rest > 0 and (full == 0 or rest + self._beside(rest) > 1))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from its batch `start` on."""
        order = self._order(epoch)
        for index in range(start, self.steps):
            yield self._deal(order, epoch, index)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of an epoch, dealt again."""
        return self._deal(self._order(epoch), epoch, index)

    def _order(self, epoch: int) -> Tensor:
        return _permutation(len(self.rows), derive(self.seed, "order", epoch))

    def _deal(self, order: Tensor, epoch: int, index: int) -> Batch:
        rows = self.rows[order[index * self._own : (index + 1) * self._own]]
        x, y = (part.to(self.rng.device, non_blocking=True) for part in self.source.take(rows))
        if self.extra is not None and (count := self._beside(len(rows))):
            more = self.extra.source.take(self._extra_rows(epoch, index, count))
            x, y = (torch.cat([a, b.to(a.device, non_blocking=True)]) for a, b in zip((x, y), more, strict=True))
        step = epoch * self.steps + index
        torch.manual_seed(derive(self.seed, "model", step))
        self.rng.manual_seed(derive(self.seed, "game", step))
        if self.augment is not None:
            x = self.augment(x, self.rng)
        if self.masks:
            assert isinstance(self.source, Masked)
            masks = self.source.masks_of(rows)
            assert masks is not None
            return x, y, masks.to(x.device, non_blocking=True)
        return (x, y) if self.blend is None else self.blend(x, y, self.rng)

    @property
    def _own(self) -> int:
        """Original examples in a full batch."""
        return self.batch_size - (0 if self.extra is None else round(self.extra.share * self.batch_size))

    def _beside(self, own: int) -> int:
        """Extra examples in a batch with `own` original ones."""
        return round(own * (self.batch_size - self._own) / self._own)

    def _extra_rows(self, epoch: int, index: int, count: int) -> Tensor:
        """The extra examples of a batch: `count` from where the batches before it, of all epochs, have left off."""
        assert self.extra is not None
        total, full = len(self.extra.source), self._beside(self._own)
        last = min(len(self.rows) - (self.steps - 1) * self._own, self._own)
        position = epoch * ((self.steps - 1) * full + self._beside(last)) + index * full
        parts = []
        while count:
            turn, start = divmod(position, total)
            parts.append(_turn(total, derive(self.seed, "extra", turn))[start : start + count])
            position, count = position + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)


def _permutation(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


_turn = lru_cache(maxsize=2)(_permutation)
"""A turn of the extra examples, remembered while batches are dealt from it: a million takes longer than a step."""


def hold_out(y: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row indices (training, validation), the validation part a share of every class, at least one of each.

    Raises ValueError when a class is too small to be in both parts.
    """
    rng = torch.Generator().manual_seed(derive(seed, "hold out"))
    train, validation = [], []
    for label in y.unique():
        rows = (y == label).nonzero().squeeze(1)
        if len(rows) < 2:
            raise ValueError(f"Every class needs at least 2 training examples. Class {label.item()} has {len(rows)}.")
        rows = rows[torch.randperm(len(rows), generator=rng)]
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        validation.append(rows[:count])
        train.append(rows[count:])
    return torch.cat(train).sort().values, torch.cat(validation).sort().values
