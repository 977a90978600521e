"""The examples of a run, dealt in an order that is a function of the seed and the epoch alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparring.core.game import Batch
from sparring.core.seeds import derive


class Source(Protocol):
    """A split of a data set."""

    @property
    def y(self) -> Tensor: ...
    def __len__(self) -> int: ...
    def take(self, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        """The examples at these indices: x float32 and y int64."""
        ...


Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Stream:
    """Deals training batches `(x, y)` on a device.

    Before each batch it seeds `rng` and torch's global generator from (seed, step): whatever the augmentation, the
    attack and the model's dropout draw in that round is the same in a resumed run.

    Args:
        source: where examples come from.
        rows: which of its examples are for training.
        batch_size: examples per batch; the last batch of an epoch is smaller, and left out if it has one example
            (BatchNorm has no variance of one).
        seed: of the run.
        rng: the generator that the game draws from, on the device.
        augment: `(x, rng) -> x`, or None.
    """

    source: Source
    rows: Tensor
    batch_size: int
    seed: int
    rng: torch.Generator
    augment: Augment | None = None

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.rows), self.batch_size)
        return full + (rest > 1 or (rest == 1 and full == 0))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from its batch `start` on."""
        order = self._order(epoch)
        for index in range(start, self.steps):
            yield self._deal(order, epoch, index)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of an epoch, dealt again."""
        return self._deal(self._order(epoch), epoch, index)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(
            len(self.rows), generator=torch.Generator().manual_seed(derive(self.seed, "order", epoch))
        )

    def _deal(self, order: Tensor, epoch: int, index: int) -> Batch:
        rows = self.rows[order[index * self.batch_size : (index + 1) * self.batch_size]]
        x, y = (part.to(self.rng.device, non_blocking=True) for part in self.source.take(rows))
        step = epoch * self.steps + index
        torch.manual_seed(derive(self.seed, "model", step))
        self.rng.manual_seed(derive(self.seed, "game", step))
        return (x if self.augment is None else self.augment(x, self.rng)), y


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
