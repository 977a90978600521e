"""Defocus, glass, motion and zoom blur at five severities; see `sparring.domains.image.corruptions`."""

import math

import torch
from torch import Tensor

from sparring.domains.image.corruptions_setting import setting, shown, uniform
from sparring.domains.image.filtering import blurred, convolved, disk, linear_weights, smeared


def defocus_blur(x: Tensor, severity: int, _rng: torch.Generator) -> Tensor:
    """A lens out of focus: convolution with a disk. The constants are the disk's radius and the blur of its edge."""
    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))
    large = ((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5))
    (radius, soft), scale, wide = setting(x, severity, small, large)
    reach = max(1, round(scale * (1 if radius <= 8 else 2)))
    return shown(convolved(wide, disk(radius * scale, soft * scale, reach)), x)


def glass_blur(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Frosted glass: a blur, pixels changing places with near ones, and the blur again.

    The constants are the blur's sigma, how far a pixel goes at most, and how often each is moved. All pixels of a grid
    so wide that none can meet another swap at once, one grid after the other, instead of one pixel after the other.
    """
    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    (sigma, far, times), scale, wide = setting(x, severity, small, large)
    z = blurred(wide, sigma * scale).flatten(2)
    order = shuffled(x, max(1, round(far * scale)), times, rng)
    z = z.gather(2, order[:, None].expand_as(z)).view_as(wide)
    return shown(blurred(z, sigma * scale), x)


def shuffled(x: Tensor, far: int, times: int, rng: torch.Generator) -> Tensor:
    """For each image of x the pixel, counted row by row, that comes to each place: `[B, H * W]`, a permutation.

    Each pixel that is `far` from the border swaps places `times` times with one that is -far ... far - 1 away in both
    directions, uniformly.
    """
    B, _, H, W = x.shape
    order = torch.arange(H * W, device=x.device).repeat(B, 1)
    grids = [(i, j) for i in range(2 * far) for j in range(2 * far)]
    high, wide = (torch.arange(n, device=x.device)[far : max(far, n - far + 1)] for n in (H, W))
    for top, left in times * grids[::-1]:
        rows, columns = high[top :: 2 * far], wide[left :: 2 * far]
        here = (rows[:, None] * W + columns).flatten()
        down, right = torch.randint(-far, far, (2, B, len(here)), generator=rng, device=x.device)
        there = here + down * W + right
        mine, theirs = order[:, here], order.gather(1, there)
        order[:, here] = theirs
        order.scatter_(1, there, mine)
    return order


def motion_blur(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """A moving camera: a smear within 45 degrees of the horizontal. The constants are its radius and its sigma."""
    small = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))
    large = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))
    (radius, sigma), scale, wide = setting(x, severity, small, large)
    angle = uniform((len(x),), -math.pi / 4, math.pi / 4, wide, rng)
    return shown(smeared(wide, radius * scale, sigma * scale, angle), x)


def zoom_blur(x: Tensor, severity: int, _rng: torch.Generator) -> Tensor:
    """A camera moving towards the scene: the mean of the image and of enlargements around its centre.

    The constants are how many enlargements there are, beginning with 1, and by how much each exceeds the one before.
    """
    small = ((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01))
    large = ((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03))
    (count, step), _, wide = setting(x, severity, small, large)
    z = wide.clone()
    for i in range(count):
        vertical, horizontal = (_zooming(n, 1 + i * step, wide) for n in x.shape[2:])
        z += vertical @ wide @ horizontal.T
    return shown(z / (count + 1), x)


def _zooming(n: int, factor: float, like: Tensor) -> Tensor:
    """The matrix `[n, n]` that enlarges a line of n pixels around its middle."""
    middle = (n - 1) / 2
    positions = middle + (torch.arange(n, dtype=like.dtype, device=like.device) - middle) / factor
    return linear_weights(positions, n)
