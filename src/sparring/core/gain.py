"""What an attack climbs: a gain, a function of the move alone, with one number per example.

An attack never sees a model, a label or a tokenizer. Optional abilities let it do more, and it asks for no more than it
needs: `judge` tells which examples are already lost from the forward pass that gives the value, `take` narrows the gain
to some examples, `rivals` gives every way to win its own number, `towards` climbs one of them.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from sparring.core.payoff import Loss, TargetedLoss, margin_towards


class Gain(Protocol):
    """`gain(z) -> [B]`: the payoff with everything but the move held fixed."""

    def __call__(self, z: Tensor, /) -> Tensor: ...


@runtime_checkable
class JudgingGain(Protocol):
    """A gain that knows when an example is lost, and can be narrowed to some rows (indices or mask) of the batch."""

    def __call__(self, z: Tensor, /) -> Tensor: ...

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]: ...

    def take(self, rows: Tensor, /) -> Self: ...


@runtime_checkable
class RivalGain(JudgingGain, Protocol):
    """A gain that can be won in K ways: what targeted and minimal-norm attacks linearise."""

    def rivals(self, z: Tensor, /) -> Tensor:
        """How far each rival is ahead of the truth, `[B, K]`: the example is lost when any is above zero. The truth
        itself, and what is no way to win, stands at -inf."""
        ...

    def towards(self, rival: Tensor, /) -> Self:
        """The gain whose value pulls each example to its rival `[B]`; what counts as lost does not change."""
        ...


@dataclass(frozen=True)
class ClassifierGain:
    """The loss of a classifier at z; an example is lost when its predicted class is not y.

    Args:
        model: `[B, ...] -> [B, K]` logits.
        y: labels `[B]`.
        loss: per example, see `sparring.core.payoff`.
        abstain: the class by which the model refuses to answer, if it has one. An abstention is no loss, so an attack
            has to beat the true class and the abstention together.
        target: the class each example is pulled to, `[B]`; None for no class in particular.
        pull: the loss that replaces `loss` where there is a target.
    """

    model: nn.Module
    y: Tensor
    loss: Loss
    abstain: int | None = None
    target: Tensor | None = None
    pull: TargetedLoss = margin_towards

    def __call__(self, z: Tensor, /) -> Tensor:
        return self._value(self._logits(z))

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """The value `[B]` and whether each example is lost `[B]`, from one forward pass."""
        logits = self._logits(z)
        return self._value(logits), logits.argmax(dim=1) != self.y

    def take(self, rows: Tensor, /) -> Self:
        return replace(self, y=self.y[rows], target=None if self.target is None else self.target[rows])

    def rivals(self, z: Tensor, /) -> Tensor:
        logits = self._logits(z)
        ahead = logits - logits.gather(1, self.y[:, None])
        return ahead.scatter(1, self.y[:, None], -torch.inf)

    def towards(self, rival: Tensor, /) -> Self:
        """Raises ValueError where a rival is the true class: there is nothing to pull to."""
        if (rival == self.y).any():
            row = int((rival == self.y).nonzero()[0])
            raise ValueError(
                f"A target must be another class than the true one. Got {int(rival[row])} for example {row}."
            )
        return replace(self, target=rival)

    def _value(self, logits: Tensor) -> Tensor:
        return self.loss(logits, self.y) if self.target is None else self.pull(logits, self.y, self.target)

    def _logits(self, z: Tensor) -> Tensor:
        """The model's logits, an abstention's counted for the true class and put out of the adversary's reach."""
        logits: Tensor = self.model(z)
        if self.abstain is None:
            return logits
        own = torch.maximum(logits.gather(1, self.y[:, None]).squeeze(1), logits[:, self.abstain])
        out = logits.scatter(1, torch.full_like(self.y, self.abstain)[:, None], -torch.inf)
        return out.scatter(1, self.y[:, None], own[:, None])
