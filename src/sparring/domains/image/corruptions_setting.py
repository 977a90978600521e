"""What a corruption of an image is at a severity: the published constants, for the size of the image at hand."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]
"""`(x [B, C, H, W] in [0, 1], severity in 1 ... 5, rng) -> [B, C, H, W]` in [0, 1], of x's dtype."""

SMALL, LARGE = 32, 224
"""Sides, in pixels, of the images that the two published sets of constants were chosen for."""

Constants = TypeVar("Constants")


def setting(
    x: Tensor, severity: int, small: Sequence[Constants], large: Sequence[Constants]
) -> tuple[Constants, float, Tensor]:
    """The constants that apply to x, the factor for those of them that are lengths, and x in float32 at least.

    Images whose shorter side is below sqrt(32 * 224), about 85 pixels, take the constants published for 32 pixels
    (CIFAR-10-C), larger ones those for 224 (ImageNet-C). Lengths are then multiplied by side / 32, but at least by 1
    (many are below a pixel already), or by side / 224.

    Args:
        x: images `[B, C, H, W]`, C 1 (grey) or 3 (RGB), in [0, 1].
        severity: in 1 ... 5.
        small, large: constants for severities 1 ... 5 at 32 and at 224 pixels.

    Raises:
        ValueError: where severity or x's shape is not that.
        TypeError: where x is not floating point.
    """
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= 5:
        raise ValueError(f"The 'severity' parameter must be an int in the range [1, 5]. Got {severity!r} instead.")
    if x.dim() != 4 or x.shape[1] not in (1, 3) or 0 in x.shape[2:]:
        raise ValueError(f"x must have shape [B, C, H, W] with C 1 (grey) or 3 (RGB). Got {list(x.shape)}.")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor in [0, 1]. Got {x.dtype}.")
    side = min(x.shape[2:])
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if side**2 < SMALL * LARGE:
        return small[severity - 1], max(1.0, side / SMALL), wide
    return large[severity - 1], side / LARGE, wide


def shown(z: Tensor, x: Tensor) -> Tensor:
    """z as an image may be: in [0, 1], of x's dtype."""
    return z.clamp(0, 1).to(x.dtype)


def uniform(shape: Sequence[int], low: float, high: float, like: Tensor, rng: torch.Generator) -> Tensor:
    """Uniform draws in [low, high), of `like`'s dtype and on its device, where rng must be."""
    return low + (high - low) * torch.rand(tuple(shape), generator=rng, dtype=like.dtype, device=like.device)
