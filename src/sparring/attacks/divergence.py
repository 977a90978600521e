"""How far a model's answer moves from the one at the clean input: what TRADES trains against."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from sparring.core.payoff import kl


@dataclass(frozen=True)
class KLGain:
    """KL(p(x) || p(z)), the inner objective of TRADES (Zhang et al., "Theoretically principled trade-off between
    robustness and accuracy", 2019, equation 5 with KL for the surrogate); an example is lost when its predicted class
    is not y.

    At z = x the gain is zero and so is its gradient: an attack on it has to start elsewhere (`random_start=True`).

    Args:
        model: `[B, ...] -> [B, K]` logits.
        y: labels `[B]`, which judge only.
        reference: logits at the clean input `[B, K]`; no gradient goes through them.
    """

    model: nn.Module
    y: Tensor
    reference: Tensor

    @classmethod
    def at(cls, model: nn.Module, x: Tensor, y: Tensor) -> Self:
        """The gain around x `[B, ...]`, with labels y `[B]`; one forward pass, in the mode that the model is in."""
        with torch.no_grad():
            return cls(model, y, model(x))

    def __call__(self, z: Tensor, /) -> Tensor:
        return kl(self.model(z), self.reference.detach())

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """The value `[B]` and whether each example is lost `[B]`, from one forward pass."""
        logits = self.model(z)
        return kl(logits, self.reference.detach()), logits.argmax(dim=1) != self.y

    def take(self, rows: Tensor, /) -> Self:
        return replace(self, y=self.y[rows], reference=self.reference[rows])
