"""What an attack costs, counted by the gain itself: forward and backward passes of every example."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from sparring.core.gain import RivalGain


@dataclass
class Meter:
    """Counters of N examples, on the device of the model so that counting never waits for it.

    Attributes:
        forwards: model evaluations ("queries") of each example `[N]`.
        backwards: gradients of each example `[N]`; each one follows one of the forward passes.
        tick: told, after every call of the model, how many there were, whatever their batch.
        calls: that number.
    """

    forwards: Tensor
    backwards: Tensor
    tick: Callable[[int], None] | None = None
    calls: int = 0

    @classmethod
    def of(cls, n: int, device: torch.device | str = "cpu", *, tick: Callable[[int], None] | None = None) -> "Meter":
        """All counters at zero."""
        forwards, backwards = (torch.zeros(n, dtype=torch.long, device=device) for _ in range(2))
        return cls(forwards, backwards, tick)


@dataclass(frozen=True)
class Counted:
    """A gain that counts; it goes wherever the gain inside goes, also when narrowed or targeted.

    Args:
        gain: what is counted.
        meter: the counters.
        rows: which of the meter's examples this gain's batch is, `[B]`; by default all.
    """

    gain: RivalGain
    meter: Meter
    rows: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if self.rows.is_floating_point():
            rows = torch.arange(len(self.meter.forwards), device=self.meter.forwards.device)
            object.__setattr__(self, "rows", rows)

    def __call__(self, z: Tensor, /) -> Tensor:
        return self._count(self.gain(z))

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        value, lost = self.gain.judge(z)
        return self._count(value), lost

    def rivals(self, z: Tensor, /) -> Tensor:
        return self._count(self.gain.rivals(z))

    def take(self, rows: Tensor, /) -> Self:
        return replace(self, gain=self.gain.take(rows), rows=self.rows[rows])

    def towards(self, rival: Tensor, /) -> Self:
        return replace(self, gain=self.gain.towards(rival))

    def _count(self, value: Tensor) -> Tensor:
        self.meter.forwards.index_add_(0, self.rows, torch.ones_like(self.rows))
        self.meter.calls += 1
        if self.meter.tick is not None:
            self.meter.tick(self.meter.calls)
        if value.requires_grad:
            value.register_hook(self._count_backward)
        return value

    def _count_backward(self, gradient: Tensor) -> None:
        """Called when a gradient passes: those examples whose value it starts from were differentiated."""
        asked = (gradient.reshape(len(gradient), -1) != 0).any(1)
        self.meter.backwards.index_add_(0, self.rows, asked.long())
