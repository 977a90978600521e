"""Snow, frost, fog and brightness at five severities; see `sparring.domains.image.corruptions`."""

import math

import torch
from torch import Tensor

from sparring.domains.image.corruptions_setting import setting, shown, uniform
from sparring.domains.image.filtering import linear_weights, smeared

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue in luma, ITU-R BT.601
_ICE = (0.80, 0.92, 1.0)  # pale blue


def snow(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Falling snow: blotches of noise above a threshold, smeared downwards, over a whitened image.

    The constants are the noise's mean and standard deviation, the size of a blotch, the threshold, radius and sigma of
    the smear, and how much of the image is left unwhitened.
    """
    small = (
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )
    large = (
        (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )
    (mean, deviation, size, threshold, radius, sigma, kept), scale, wide = setting(x, severity, small, large)
    coarse = [math.ceil(n / (size * max(1.0, scale))) for n in x.shape[2:]]  # below a pixel a flake has no size
    noise = torch.randn(len(x), 1, *coarse, generator=rng, dtype=wide.dtype, device=x.device)
    vertical, horizontal = (_stretching(n, m, wide) for n, m in zip(coarse, x.shape[2:], strict=True))
    flakes = vertical @ (mean + deviation * noise) @ horizontal.T
    flakes = torch.where(flakes < threshold, 0, flakes).clamp(0, 1)
    angle = uniform((len(x),), -3 * math.pi / 4, -math.pi / 4, wide, rng)
    falling = smeared(flakes, radius * scale, sigma * scale, angle)
    whitened = torch.maximum(wide, 1.5 * _grey(wide) + 0.5)
    return shown(kept * wide + (1 - kept) * whitened + falling + falling.flip(2, 3), x)


def frost(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Ice on the lens, added to the image. The constants are the weights of the image and of the ice.

    The published set adds crops of six photographs of ice; here the ice is drawn anew for every image, see `ice`.
    """
    small = ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
    large = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
    (kept, added), _, wide = setting(x, severity, small, large)
    return shown(kept * wide + added * ice(wide, rng), x)


def ice(x: Tensor, rng: torch.Generator) -> Tensor:
    """Veins of crystal on a pale ground for each image of x: `[B, C, H, W]` in [0, 1], mean about 0.45.

    The veins are where two random landscapes cross their middle height (ridged noise), the ground is a third one.
    """
    ridges = [(1 - (2 * plasma(x, 1.5, rng) - 1).abs()) ** 4 for _ in range(2)]
    veins = torch.maximum(*ridges)
    texture = 0.4 * plasma(x, 2.0, rng) + 0.6 * veins
    colour = torch.tensor(_ICE if x.shape[1] == 3 else (1.0,), dtype=x.dtype, device=x.device)
    return texture * colour.view(1, -1, 1, 1)


def fog(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Fog of uneven density, added before the image is scaled back to its own brightest value.

    The constants are the fog's weight and by how much the landscape of `plasma` calms down from level to level.
    """
    small = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))
    large = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))
    (weight, calming), _, wide = setting(x, severity, small, large)
    brightest = wide.amax((1, 2, 3), keepdim=True)
    return shown((wide + weight * plasma(wide, calming, rng)) * brightest / (brightest + weight), x)


def plasma(x: Tensor, calming: float, rng: torch.Generator) -> Tensor:
    """A random landscape for each image of x: `[B, 1, H, W]` from 0 to 1 (over a square of a power of two around it).

    Midpoint displacement (Fournier, Fussell & Carpenter, "Computer rendering of stochastic models", 1982) on a torus:
    every new point is the mean of its four neighbours and a uniform draw, whose range shrinks by calming^2 per level.
    """
    B, _, H, W = x.shape
    n = 2 ** max(1, math.ceil(math.log2(max(H, W))))
    land = torch.zeros(B, n, n, dtype=x.dtype, device=x.device)
    step, height = n, 1.0
    while step >= 2:
        half = step // 2

        def displaced(total: Tensor, height: float = height) -> Tensor:
            return total / 4 + uniform(total.shape, -height, height, x, rng)

        corner = land[:, ::step, ::step]
        across, down = corner + corner.roll(-1, 2), corner + corner.roll(-1, 1)
        centre = displaced(across + across.roll(-1, 1))
        land[:, half::step, half::step] = centre
        above, left = centre + centre.roll(1, 1), centre + centre.roll(1, 2)
        land[:, ::step, half::step] = displaced(across + above)
        land[:, half::step, ::step] = displaced(down + left)
        step, height = half, height / calming**2
    land = land - land.amin((1, 2), keepdim=True)
    return (land / land.amax((1, 2), keepdim=True))[:, None, :H, :W]


def brightness(x: Tensor, severity: int, _rng: torch.Generator) -> Tensor:
    """Daylight: the constant is added to the value of hue, saturation and value, which the pixel's largest channel is.

    Hue and saturation stay as they are, so all channels grow by one factor; black, which has neither, becomes grey.
    """
    added, _, wide = setting(x, severity, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))
    value = wide.amax(1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return shown(torch.where(value > 0, wide / value * brighter, brighter), x)


def _grey(x: Tensor) -> Tensor:
    """The luma of each pixel `[B, 1, H, W]`."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(_GREY, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _stretching(n: int, m: int, like: Tensor) -> Tensor:
    """The matrix `[m, n]` that stretches a line of n pixels over m, end to end."""
    return linear_weights(torch.linspace(0, n - 1, m, dtype=like.dtype, device=like.device), n)
