"""Random crops and flips: the standard augmentation of small images, for a whole batch at once on its own device."""

from typing import Literal

import torch
from torch import Tensor


def pad_crop_flip(
    x: Tensor,
    rng: torch.Generator | None,
    *,
    pad: int = 4,
    flip: bool = True,
    border: Literal["zero", "reflect"] = "zero",
) -> Tensor:
    """Each image moved by up to `pad` pixels each way, uniformly, and mirrored left to right with probability 1/2.

    The same as padding by `pad` on every side and cropping at a random place (He et al., "Deep residual learning for
    image recognition", 2016), done as one gather: nothing waits for the device.

    Args:
        x: images `[B, C, H, W]` of any dtype.
        rng: source of shifts and flips, on x's device; the same state gives the same result.
        pad: most pixels moved, in [0, inf); in [0, min(H, W)) to reflect.
        flip: whether to mirror at all. With `pad=0` and no flip the result is x.
        border: what comes in from outside, zeros or the image reflected at its border pixels (not repeating them).

    Returns:
        Images of x's shape and dtype.
    """
    if x.dim() != 4:
        raise ValueError(f"x must have shape [B, C, H, W]. Got {list(x.shape)}.")
    if border not in ("zero", "reflect"):
        raise ValueError(f"The 'border' parameter must be 'zero' or 'reflect'. Got {border!r} instead.")
    B, C, H, W = x.shape
    limit = min(H, W) - 1 if border == "reflect" else float("inf")
    if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad <= limit:
        raise ValueError(f"The 'pad' parameter must be an int in the range [0, {limit}]. Got {pad!r} instead.")
    shift = torch.randint(-pad, pad + 1, (2, B, 1), generator=rng, device=x.device)
    row = torch.arange(H, device=x.device) + shift[0]
    column = torch.arange(W, device=x.device).expand(B, W)
    if flip:
        mirror = torch.randint(0, 2, (B, 1), generator=rng, device=x.device).bool()
        column = torch.where(mirror, W - 1 - column, column)
    column = column + shift[1]
    example = torch.arange(B, device=x.device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=x.device).view(1, C, 1, 1)
    if border == "reflect":
        return x[example, channel, _reflected(row, H)[:, None, :, None], _reflected(column, W)[:, None, None, :]]
    moved = x[example, channel, row.clamp(0, H - 1)[:, None, :, None], column.clamp(0, W - 1)[:, None, None, :]]
    inside = ((row >= 0) & (row < H))[:, None, :, None] & ((column >= 0) & (column < W))[:, None, None, :]
    return torch.where(inside, moved, 0)


def _reflected(index: Tensor, length: int) -> Tensor:
    """-1 is 1, and `length` is `length - 2`."""
    last = length - 1
    return last - (last - index.abs()).abs()
