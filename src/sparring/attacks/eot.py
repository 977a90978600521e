"""Attacking a model that draws random numbers: climb the mean of several draws instead of the noise of one.

Expectation over transformation: Athalye et al., "Synthesizing robust adversarial examples" and, against randomised
defences, "Obfuscated gradients give a false sense of security", both 2018.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sparring.core.gain import RivalGain
from sparring.core.standing import check_count, per_example


@dataclass(frozen=True)
class Averaged:
    """The mean of a gain over `draws` evaluations, each with the model's own fresh randomness.

    The gradient is the mean of the draws' gradients, each taken and let go before the next draw, so the memory is that
    of one draw whatever their number. It is first-order and relies on the examples of a batch not interacting.

    Args:
        gain: what is averaged; a `Gain` will do for attacks that only call.
        draws: evaluations per value, in [1, inf). The error of value and gradient falls like 1 / sqrt(draws).
    """

    gain: RivalGain
    draws: int

    def __post_init__(self) -> None:
        check_count("draws", self.draws)

    def __call__(self, z: Tensor, /) -> Tensor:
        return _mean(lambda z: (self.gain(z), None), z, self.draws)[0]

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """The mean value `[B]`, and whether more than half of the draws are lost `[B]`."""
        mean, losses = _mean(self.gain.judge, z, self.draws)
        return mean, 2 * losses > self.draws

    def rivals(self, z: Tensor, /) -> Tensor:
        """The mean of the draws' rivals `[B, K]`."""
        total = self.gain.rivals(z)
        for _ in range(self.draws - 1):
            total = total + self.gain.rivals(z)
        return total / self.draws

    def take(self, rows: Tensor, /) -> Self:
        return replace(self, gain=self.gain.take(rows))

    def towards(self, rival: Tensor, /) -> Self:
        return replace(self, gain=self.gain.towards(rival))


Judge = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def _mean(judge: Judge, z: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """The mean value `[B]` and how many draws were lost `[B]`."""
    with_gradient = torch.is_grad_enabled() and z.requires_grad
    mean, losses = _Mean.apply(z, judge, draws, with_gradient)  # type: ignore[no-untyped-call]
    return mean, losses


class _Mean(torch.autograd.Function):
    """The mean value of several draws and the number that were lost; its gradient is computed on the way forward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, judge: Judge, draws: int, with_gradient: bool) -> tuple[Tensor, Tensor]:
        mean: Any = 0
        losses: Any = torch.zeros(len(z), dtype=torch.long, device=z.device)
        slope = torch.zeros_like(z)
        for _ in range(draws):
            here = z.detach().requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                value, lost = judge(here)
                if with_gradient:
                    slope = slope + torch.autograd.grad(value.sum(), here)[0]
            mean = mean + value.detach() / draws
            losses = losses if lost is None else losses + lost
        ctx.save_for_backward(slope / draws)
        ctx.mark_non_differentiable(losses)
        return mean, losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        weight = per_example(upstream[0], slope).to(slope.dtype)
        return weight * slope, None, None, None
