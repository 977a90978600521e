"""Linear filters and resampling of image batches `[B, C, H, W]` of any size: nothing here rounds or clips a value."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def mirrored(index: Tensor, n: int) -> Tensor:
    """Positions, whole or not, as seen in a mirror standing on the first and on the last pixel of n: -1 is 1, n is
    n - 2, and so on however far out."""
    period = max(1, 2 * (n - 1))
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded) if n > 1 else torch.zeros_like(index)


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Every channel convolved with a symmetric kernel `[2h + 1, 2w + 1]`, the image mirrored at its border."""
    H, W = x.shape[2:]
    h, w = kernel.shape[0] // 2, kernel.shape[1] // 2
    rows = mirrored(torch.arange(-h, H + h, device=x.device), H)
    columns = mirrored(torch.arange(-w, W + w, device=x.device), W)
    planes = x[:, :, rows[:, None], columns].flatten(0, 1)[:, None]
    return F.conv2d(planes, kernel.to(x)[None, None]).view_as(x)


def gaussian_taps(sigma: float, radius: int) -> Tensor:
    """A normal density at -radius ... radius, in float64, summing to one; all at the centre where sigma is 0."""
    i = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = torch.exp(-((i / sigma) ** 2) / 2) if sigma > 0 else (i == 0).double()
    return taps / taps.sum()


def blurred(x: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """A Gaussian blur with standard deviation sigma in pixels, cut off at `truncate` sigma."""
    taps = gaussian_taps(sigma, int(truncate * sigma + 0.5))
    return x if len(taps) == 1 else convolved(convolved(x, taps[:, None]), taps[None])


def disk(radius: float, soft: float, reach: int) -> Tensor:
    """The kernel of a lens out of focus: the pixels within `radius`, blurred with sigma `soft` over 2 reach + 1 taps;
    float64, sums to one."""
    half = math.floor(radius) + reach
    i = torch.arange(-half, half + 1, dtype=torch.float64)
    hard = ((i[:, None] ** 2 + i**2) <= radius**2).double()
    taps = gaussian_taps(soft, reach)
    kernel = F.conv2d(hard[None, None], (taps[:, None] * taps)[None, None], padding=reach)[0, 0]
    return kernel / kernel.sum()


def smeared(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Motion blur: each pixel the mean of those behind it along a line, weighted by half a normal density.

    Args:
        x: `[B, C, H, W]`; the border pixels go on outside.
        radius: the line has 2 ceil(radius) + 1 pixels, those past 5 sigma left out.
        sigma: of the weights, in pixels.
        angle: of the line for each image `[B]`, in radians.
    """
    B, C, H, W = x.shape
    taps = min(2 * math.ceil(radius), math.ceil(5 * sigma)) + 1
    weights = torch.exp(-((torch.arange(taps, dtype=torch.float64) / sigma) ** 2) / 2)
    weights /= weights.sum()
    example = torch.arange(B, device=x.device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=x.device).view(1, C, 1, 1)
    z = torch.zeros_like(x)
    for i, weight in enumerate(weights.tolist()):
        down, right = ((i * f(angle)).round().long()[:, None] for f in (torch.sin, torch.cos))
        rows = (torch.arange(H, device=x.device) + down).clamp(0, H - 1)
        columns = (torch.arange(W, device=x.device) + right).clamp(0, W - 1)
        z += weight * x[example, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return z


def sampled(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Each image read at positions between its pixels, linearly, the image mirrored at its border.

    Args:
        x: `[B, C, H, W]`.
        rows, columns: `[B, h, w]`, in pixels.

    Returns:
        `[B, C, h, w]`.
    """
    H, W = x.shape[2:]
    rows, columns = mirrored(rows, H), mirrored(columns, W)
    top, left = rows.floor().clamp(max=max(0, H - 2)), columns.floor().clamp(max=max(0, W - 2))
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    example = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)

    def at(i: int, j: int) -> Tensor:
        return x[
            example, channel, (top.long() + i).clamp(max=H - 1)[:, None], (left.long() + j).clamp(max=W - 1)[:, None]
        ]

    above, below = torch.lerp(at(0, 0), at(0, 1), right), torch.lerp(at(1, 0), at(1, 1), right)
    return torch.lerp(above, below, down)


def linear_weights(positions: Tensor, n: int) -> Tensor:
    """The matrix `[len(positions), n]` that reads a line of n pixels at positions in [0, n - 1], linearly."""
    return (1 - (positions[:, None] - torch.arange(n, dtype=positions.dtype, device=positions.device)).abs()).clamp(
        min=0
    )


def box_weights(size: int, n: int) -> Tensor:
    """The matrix `[size, n]` that resizes a line of n pixels to `size` with a box: each new pixel the mean of those
    whose centres it covers, or, where it is smaller than they are, the one that covers its centre. float64."""
    i, j = (2 * torch.arange(count) + 1 for count in (size, n))
    away = size * j - n * i[:, None]  # from centre to centre, in units that keep ties exact
    inside = ((away > -max(size, n)) & (away <= max(size, n))).double()
    return inside / inside.sum(1, keepdim=True)
