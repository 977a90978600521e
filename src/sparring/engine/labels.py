"""What happens to a batch as a whole, labels included: smoothing here, mixing in a domain, one after the other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Blend = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""`(x [B, ...], y [B] or [B, K], rng) -> (x, y)`: another batch of the same size, its labels as it likes."""


def soft(y: Tensor, classes: int) -> Tensor:
    """Labels as probabilities, float `[B, K]`: one at the class, or what was soft already. Waits for no device.

    Args:
        y: classes `[B]` in [0, K), or probabilities `[B, K]`.
        classes: K.

    Raises:
        ValueError: where y is soft over another number of classes.
    """
    if y.is_floating_point():
        if y.dim() != 2 or y.shape[1] != classes:
            raise ValueError(f"Soft labels must have shape [B, {classes}]. Got {list(y.shape)}.")
        return y
    return (y[:, None] == torch.arange(classes, device=y.device)).float()


def smoothing(classes: int, share: float = 0.0) -> Blend:
    """Label smoothing: y becomes (1 - s) y + s / K, whether it was a class or soft.

    Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016, section 7. At share 0 it only
    makes labels soft.

    Args:
        classes: K.
        share: s, in [0, 1).

    Returns:
        `(x, y, rng) -> (x, y [B, K])`; it draws nothing.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The 'share' parameter must be a number in the range [0, 1). Got {share!r} instead.")

    def blend(x: Tensor, y: Tensor, _rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, soft(y, classes) * (1 - share) + share / classes

    return blend


def in_turn(blends: Sequence[Blend]) -> Blend:
    """Several blends as one, the first first."""

    def blend(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        for each in blends:
            x, y = each(x, y, rng)
        return x, y

    return blend
