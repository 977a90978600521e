"""What gradient attacks with a fixed budget share: where every example is, the highest point it has seen, who is lost.

An attack moves the climb from point to point with `visit`; with `early_stop`, `narrow` then leaves out the examples
that the last point lost. `result` is each example's lost point, or else its highest.
"""

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sparring.core.attack import Attack, best_of
from sparring.core.gain import Gain
from sparring.core.gradient import value_and_gradient
from sparring.core.standing import alive_start, better, judged, judging, per_example, refuse_dead
from sparring.core.threat import Threat


class Run(Protocol):
    """An attack with one random start; only its first run refuses a start without gradient."""

    def __call__(
        self,
        gain: Gain,
        x: Tensor,
        threat: Threat,
        /,
        *,
        may_be_dead: bool = False,
        rng: torch.Generator | None = None,
    ) -> Tensor: ...


def repeated(run: Run, restarts: int, *, early_stop: bool) -> Attack:
    """The run `restarts` times, keeping each example's best; what an alive run leaves standing may be dead."""
    if restarts == 1:
        return run
    return best_of(run, *(partial(run, may_be_dead=True),) * (restarts - 1), early_stop=early_stop)


@dataclass
class Climb:
    """The B examples that still stand, at z.

    Attributes:
        gain, x, threat: the attack's own, narrowed to those examples.
        z: where they are `[B, ...]`.
        value, gradient: of the gain at z; the gradient is empty where it was not asked for.
        top, record, top_gradient: the highest point of each example, and value and gradient there.
    """

    gain: Gain
    x: Tensor
    threat: Threat
    early_stop: bool
    z: Tensor
    value: Tensor
    gradient: Tensor
    top: Tensor
    record: Tensor
    top_gradient: Tensor
    _alive: Tensor
    _lost: Tensor
    _rows: Tensor
    _out: Tensor

    @classmethod
    def start(
        cls, gain: Gain, x: Tensor, threat: Threat, z: Tensor, *, early_stop: bool, may_be_dead: bool = False
    ) -> "Climb":
        """At z, after its value and gradient have been taken. Raises TypeError if early_stop and the gain cannot judge,
        and DeadStartError, here or from `result`, if no example has a gradient to follow and none is lost."""
        value, lost, gradient = _look(gain, z, early_stop, with_gradient=True)
        alive = alive_start(gradient) | lost.any() | may_be_dead
        if early_stop:
            refuse_dead(alive)
        record = torch.where(value.isnan(), -torch.inf, value)
        rows = torch.arange(len(x), device=x.device)
        return cls(gain, x, threat, early_stop, z, value, gradient, z, record, gradient, alive, lost, rows, z.clone())

    def visit(self, z: Tensor, *, with_gradient: bool = True) -> None:
        """Go to z `[B, ...]`, and take value and gradient there."""
        self.value, self._lost, self.gradient = _look(self.gain, z, self.early_stop, with_gradient)
        self.z = z
        if with_gradient:
            higher = per_example(self.value > self.record, z)
            self.top_gradient = torch.where(higher, self.gradient, self.top_gradient)
        self.top, self.record = better(z, self.value, self.top, self.record)

    def narrow(self) -> Tensor | slice:
        """Leave out who is lost; returns which of the examples stay, to narrow what the attack keeps beside this."""
        if not self.early_stop or not self._lost.any():
            return slice(None)
        self._out[self._rows[self._lost]] = self.z[self._lost]
        stand = (~self._lost).nonzero().squeeze(1)
        for name in ("x", "z", "value", "top", "record", "top_gradient", "_rows", "_lost"):
            setattr(self, name, getattr(self, name)[stand])
        self.gradient = self.gradient[stand] if len(self.gradient) else self.gradient
        self.gain, self.threat = judging(self.gain).take(stand), self.threat.take(stand)
        return stand

    def goto_top(self, rows: Tensor) -> None:
        """Put the examples of this mask `[B]` back on their highest point."""
        self.z = torch.where(per_example(rows, self.z), self.top, self.z)
        self.gradient = torch.where(per_example(rows, self.gradient), self.top_gradient, self.gradient)
        self.value = torch.where(rows, self.record, self.value)

    def result(self) -> Tensor:
        """Of each example of the batch, the point that lost it, or else the highest."""
        refuse_dead(self._alive)  # read once, after the attack's loop: nothing inside it waits for the device
        self._out[self._rows] = self.top
        return self._out

    def __len__(self) -> int:
        return len(self._rows)


def _look(gain: Gain, z: Tensor, early_stop: bool, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The value, who is lost (without early_stop: nobody is), and the gradient if it is asked for."""
    if early_stop:
        return judged(judging(gain), z, with_gradient=with_gradient)
    if with_gradient:
        value, gradient = value_and_gradient(gain, z)
    else:
        with torch.no_grad():
            value, gradient = gain(z), torch.empty(0)
    return value, torch.zeros(len(z), dtype=torch.bool, device=z.device), gradient
