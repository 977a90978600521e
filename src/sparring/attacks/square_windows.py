"""The windows of Square: how large they are at each step, and where they lie in an input seen as `[B, C, H, W]`."""

import math

from torch import Tensor

from sparring.attacks.random_search import stage

BREAKS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10 000 steps, those after which the share of pixels in a window halves, as in the paper."""

Window = tuple[slice, slice]


def planes(x: Tensor) -> Tensor:
    """x as channels of rows and columns, `[B, C, H, W]`: a vector `[B, n]` or signal `[B, C, n]` has one row.

    Raises ValueError for other dimensions.
    """
    if x.dim() == 4:
        return x
    if x.dim() == 3:
        return x[:, :, None, :]
    if x.dim() == 2:
        return x[:, None, None, :]
    raise ValueError(f"x must be [B, C, H, W], [B, C, n] or [B, n]. Got the shape {tuple(x.shape)} instead.")


def side(step: int, steps: int, like: Tensor, p_init: float, *, least: int = 1, odd: bool = False) -> tuple[int, int]:
    """Height and width of the window at this step: the square of the scheduled share of the pixels, at least so wide;
    where it is higher (or wider) than the image, as long a rectangle as has the same area."""
    h, w = like.shape[-2:]
    area = p_init / 2 ** stage(step, steps, BREAKS) * h * w
    s = max(round(math.sqrt(area)), least)
    s += odd and s % 2 == 0
    short = min(h, w)
    if s <= short:
        return s, s
    long = min(max(round(area / short), least, short), max(h, w))
    return (short, long) if h <= w else (long, short)


def place(size: tuple[int, int], like: Tensor, down: float, right: float) -> Window:
    """The window of this size at two uniform numbers in [0, 1); every place inside the image is as likely."""
    (a, b), (h, w) = size, like.shape[-2:]
    top, left = int(down * (h - a + 1)), int(right * (w - b + 1))
    return slice(top, top + a), slice(left, left + b)
