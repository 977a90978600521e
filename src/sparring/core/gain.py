"""What an attack climbs: a gain, a function of the move alone, with one number per example.

An attack never sees a model, a label or a tokenizer. Two optional abilities let it save work: `judge` tells which
examples are already lost from the forward pass that gives the value, and `take` narrows the gain to some examples.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from sparring.core.payoff import Loss


class Gain(Protocol):
    """`gain(z) -> [B]`: the payoff with everything but the move held fixed."""

    def __call__(self, z: Tensor, /) -> Tensor: ...


@runtime_checkable
class JudgingGain(Protocol):
    """A gain that knows when an example is lost, and can be narrowed to some rows (indices or mask) of the batch."""

    def __call__(self, z: Tensor, /) -> Tensor: ...

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def take(self, rows: Tensor, /) -> "JudgingGain": ...


@dataclass(frozen=True)
class ClassifierGain:
    """The loss of a classifier at z; an example is lost when its predicted class is not y.

    Args:
        model: `[B, ...] -> [B, K]` logits.
        y: labels `[B]`.
        loss: per example, see `sparring.core.payoff`.
    """

    model: nn.Module
    y: Tensor
    loss: Loss

    def __call__(self, z: Tensor, /) -> Tensor:
        return self.loss(self.model(z), self.y)

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """The value `[B]` and whether each example is lost `[B]`, from one forward pass."""
        logits = self.model(z)
        return self.loss(logits, self.y), logits.argmax(dim=1) != self.y

    def take(self, rows: Tensor, /) -> "ClassifierGain":
        return ClassifierGain(self.model, self.y[rows], self.loss)
