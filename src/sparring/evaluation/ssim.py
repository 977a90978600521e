"""The structural similarity of two maps: alike in level, in contrast and in pattern, window by window.

    SSIM(a, b) = mean over windows of  (2 m_a m_b + c1) (2 s_ab + c2) / ((m_a^2 + m_b^2 + c1) (s_a^2 + s_b^2 + c2))

Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004,
eq. 13 and 17: means, variances and the covariance under a Gaussian window whose weights add up to 1.
"""

import torch
from torch import Tensor

SIDE, WIDTH = 11, 1.5
"""Pixels along a window, and the standard deviation of its Gaussian, in pixels (Wang et al. 2004, section III-C)."""

LEVEL, CONTRAST = 0.01**2, 0.03**2
"""c1 and c2 for values between 0 and 1."""


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """The mean structural similarity of two maps of each example, `[B]` in [-1, 1], each map on its own scale 0 to 1.

    The scale is the map's own least and largest value, so a x + b with a > 0 is the same map; a constant one is zero
    everywhere. Windows lie wholly inside the map; one that is smaller than 11 along some axis has the largest odd
    window that fits along it, of the same Gaussian.

    Args:
        first, second: maps of one shape `[B, *space]`.
    """
    a, b = _scaled(first), _scaled(second)
    mean_a, mean_b = _windowed(a), _windowed(b)
    spread_a, spread_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    together = _windowed(a * b) - mean_a * mean_b
    level = (2 * mean_a * mean_b + LEVEL) / (mean_a**2 + mean_b**2 + LEVEL)
    pattern = (2 * together + CONTRAST) / (spread_a + spread_b + CONTRAST)
    return (level * pattern).flatten(1).mean(1)


def _scaled(maps: Tensor) -> Tensor:
    """Each map between 0 and 1 in float64, however small its values are; zero where it is constant."""
    flat = maps.flatten(1).double()
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    spread = torch.where(high > low, high - low, 1.0)
    return ((flat - low) / spread).reshape(maps.shape)


def _windowed(maps: Tensor) -> Tensor:
    """The weighted mean in every window `[B, *places]`: along one axis after the other, as a Gaussian allows."""
    for axis in range(1, maps.dim()):
        length = maps.shape[axis]
        side = min(SIDE, length - 1 + length % 2)
        offset = torch.arange(side, device=maps.device, dtype=maps.dtype) - side // 2
        weight = torch.exp(-0.5 * (offset / WIDTH) ** 2)
        maps = maps.unfold(axis, side, 1) @ (weight / weight.sum())
    return maps
