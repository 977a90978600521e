"""A way through a defence without a usable gradient: what goes forward exactly goes backward through a stand-in.

BPDA: Athalye et al., "Obfuscated gradients give a false sense of security", 2018, section 4.1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Bpda(nn.Module):
    """Forward `exact(x)`, bit for bit; backward the gradient of `stand_in` at x.

    Put it before or inside a model: `nn.Sequential(Bpda(quantise), model)`.

    Args:
        exact: `[B, ...] -> [B, ...]`, which no gradient is asked of: quantisation, JPEG, a purifier.
        stand_in: a differentiable function close to `exact`, of the same output shape; by default the identity.

    Raises, when called:
        ValueError: when the two outputs differ in shape.
    """

    def __init__(self, exact: Callable[[Tensor], Tensor], stand_in: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.exact = exact
        self.stand_in = nn.Identity() if stand_in is None else stand_in

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.exact(x)
        soft = self.stand_in(x)
        if soft.shape != y.shape:
            raise ValueError(
                f"The 'stand_in' parameter must give the shape of 'exact', {tuple(y.shape)}. "
                f"Got {tuple(soft.shape)} instead."
            )
        out: Tensor = _Replace.apply(soft, y)  # type: ignore[no-untyped-call]
        return out


class _Replace(torch.autograd.Function):
    """The second tensor, whose gradient goes to the first."""

    @staticmethod
    def forward(ctx: Any, soft: Tensor, exact: Tensor) -> Tensor:
        ctx.dtype = soft.dtype
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return upstream[0].to(ctx.dtype), None
