"""What an adversary may do to a picture other than add to it: turn and shift it, bend it, change its colours.

Each is a `sparring.core.parametric.Parametric` threat on images `[B, C, H, W]` with pixels in [0, 1]: attacks move its
parameters, the picture is rendered from them. Parameters of 0 give back x bit for bit.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sparring.core.parametric import Box
from sparring.core.standing import check_positive
from sparring.domains.image.warp import bilinear, stretch


@dataclass(frozen=True)
class RotationTranslation:
    """The picture turned about its centre, then shifted.

    Engstrom et al., "Exploring the landscape of spatial robustness", 2019, section 3: up to 30 degrees and about a
    tenth of the picture (3 pixels of 32), bilinear, zeros moving in. They find gradients weak here and search a grid:
    `partial(sparring.attacks.grid.grid, points=(31, 5, 5))`, or the worst of ten, `partial(grid, samples=10)`.

    The parameters are `[B, 3]`: the angle in degrees, counterclockwise, and the shift down and to the right as shares
    of height and width.

    Args:
        degrees: the largest angle either way.
        shift: the largest shift either way, as a share of the picture's side.
        fill: the value of pixels that move in, in [0, 1]; None repeats the nearest pixel of the picture's edge.
        eps: the share of both ranges that is allowed.
    """

    degrees: float = 30.0
    shift: float = 0.1
    fill: float | None = 0.0
    eps: float = 1.0

    def __post_init__(self) -> None:
        _check_ranges(self, degrees=self.degrees, shift=self.shift)
        _check_fill(self, self.fill)
        check_positive("eps", self.eps)

    @property
    def space(self) -> Box:
        return Box(torch.tensor([[self.degrees, self.shift, self.shift]], dtype=torch.float64), self.eps)

    def origin(self, x: Tensor) -> Tensor:
        return _zeros(x, 3)

    def render(self, theta: Tensor, x: Tensor) -> Tensor:
        """z at p is x at R(-angle) (p - centre - shift) + centre."""
        _, _, h, w = _shape(x)
        angle, down, right = theta[:, :, None, None].unbind(1)
        angle = angle * (math.pi / 180)
        row, column = _pixels(x, theta)
        row, column = row - (h - 1) / 2 - down * h, column - (w - 1) / 2 - right * w
        turned = angle.cos() * row + angle.sin() * column, angle.cos() * column - angle.sin() * row
        return _boxed(bilinear(x, turned[0] + (h - 1) / 2, turned[1] + (w - 1) / 2, self.fill), x)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        ranges = {"degrees": self.degrees, "shift": self.shift, "fill": self.fill}
        return {"norm": "rotation-translation", "eps": self.eps, **ranges}


@dataclass(frozen=True)
class Flow:
    """Every pixel read from a place nearby, neighbours from neighbouring places.

    Xiao et al., "Spatially transformed adversarial examples", 2018, eq. 1: z at p is x at p + flow(p), bilinear. They
    keep the flow smooth by a total-variation penalty; here it is smooth by construction, given at knots and bilinear
    between them, so the threat has exact bounds: no pixel is read from further than `max_pixels` in either direction,
    and the flow of neighbouring pixels differs by at most 2 max_pixels / smoothness.

    The parameters are `[B, 2, n, m]`: the flow down and to the right in pixels, at n x m knots, the outer ones on the
    picture's edge.

    Args:
        max_pixels: the largest flow in either direction.
        smoothness: the least distance between knots, in pixels; 1.0 frees every pixel, and with more than the
            picture's side it moves as one.
        fill: the value outside the picture, in [0, 1]; None repeats the nearest pixel of its edge.
        eps: the share of `max_pixels` that is allowed.
    """

    max_pixels: float = 1.0
    smoothness: float = 4.0
    fill: float | None = None
    eps: float = 1.0

    def __post_init__(self) -> None:
        check_positive("max_pixels", self.max_pixels)
        check_positive("eps", self.eps)
        _check_fill(self, self.fill)
        if not 1 <= self.smoothness < math.inf:
            raise ValueError(
                f"The 'smoothness' parameter of Flow must be in the range [1, inf). Got {self.smoothness!r} instead."
            )

    @property
    def space(self) -> Box:
        return Box(torch.full((1, 1, 1, 1), self.max_pixels, dtype=torch.float64), self.eps)

    def origin(self, x: Tensor) -> Tensor:
        _, _, h, w = _shape(x)
        return _zeros(x, 2, *(int((side - 1) / self.smoothness) + 1 for side in (h, w)))

    def render(self, theta: Tensor, x: Tensor) -> Tensor:
        _, _, h, w = _shape(x)
        row, column = _pixels(x, theta)
        down, right = stretch(theta, h, w).unbind(1)
        return _boxed(bilinear(x, row + down, column + right, self.fill), x)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        ranges = {"max_pixels": self.max_pixels, "smoothness": self.smoothness, "fill": self.fill}
        return {"norm": "flow", "eps": self.eps, **ranges}


@dataclass(frozen=True)
class Colour:
    """The same change of colour everywhere: contrast about mid-grey, brightness, and a gain of each channel.

    z = clamp((x + (e^c - 1) (x - 1/2) + b) e^{g_k}, 0, 1) in channel k, with parameters `[B, 2 + len(gain)]`:
    c, b, g_1, ... An affine case of the functional threat of Laidlaw & Feizi, "Functional adversarial attacks", 2019.

    Args:
        contrast: the largest |c|: 0.3 multiplies contrast by between 0.74 and 1.35.
        brightness: the largest |b|, in pixel values.
        gain: the largest |g_k| of each channel, as many as the picture has; or a single one, which all channels share.
        eps: the share of all ranges that is allowed.
    """

    contrast: float = 0.3
    brightness: float = 0.1
    gain: tuple[float, ...] = (0.1, 0.1, 0.1)
    eps: float = 1.0

    def __post_init__(self) -> None:
        gains = {f"gain[{k}]": gain for k, gain in enumerate(self.gain)}
        _check_ranges(self, contrast=self.contrast, brightness=self.brightness, **gains)
        check_positive("eps", self.eps)

    @property
    def space(self) -> Box:
        return Box(torch.tensor([[self.contrast, self.brightness, *self.gain]], dtype=torch.float64), self.eps)

    def origin(self, x: Tensor) -> Tensor:
        channels = _shape(x)[1]
        if len(self.gain) not in (1, channels):
            raise ValueError(
                f"The 'gain' parameter of Colour must have length 1 or that of the channels, {channels}. "
                f"Got {self.gain!r} instead."
            )
        return _zeros(x, 2 + len(self.gain))

    def render(self, theta: Tensor, x: Tensor) -> Tensor:
        contrast, brightness, gain = theta[:, :, None, None].split([1, 1, len(self.gain)], 1)
        wide = x.to(theta.dtype)
        return _boxed((wide + contrast.expm1() * (wide - 0.5) + brightness) * gain.exp(), x)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        ranges = {"contrast": self.contrast, "brightness": self.brightness, "gain": list(self.gain)}
        return {"norm": "colour", "eps": self.eps, **ranges}


def _zeros(x: Tensor, *shape: int) -> Tensor:
    """Parameters of 0, `[B, *shape]`: in float32 where x has less, which is too coarse for an angle."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros((x.shape[0], *shape), dtype=wide, device=x.device)


def _pixels(x: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Row `[1, H, 1]` and column `[1, 1, W]` of every pixel."""
    row, column = (torch.arange(side, dtype=theta.dtype, device=theta.device) for side in x.shape[2:])
    return row[None, :, None], column[None, None, :]


def _boxed(z: Tensor, x: Tensor) -> Tensor:
    return z.clamp(0.0, 1.0).to(x.dtype)


def _shape(x: Tensor) -> tuple[int, int, int, int]:
    if x.dim() != 4:
        raise ValueError(f"x must be images [B, C, H, W]. Got shape {tuple(x.shape)}.")
    b, c, h, w = x.shape
    return b, c, h, w


def _check_ranges(threat: RotationTranslation | Colour, **ranges: float) -> None:
    name = type(threat).__name__
    for parameter, value in ranges.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"The {parameter!r} parameter of {name} must be in the range [0, inf). Got {value!r}.")
    if not any(ranges.values()):
        raise ValueError(f"{name} must have one of {', '.join(ranges)} above 0. Got 0 for all.")


def _check_fill(threat: RotationTranslation | Flow, fill: float | None) -> None:
    if fill is not None and not 0 <= fill <= 1:
        name = type(threat).__name__
        raise ValueError(f"The 'fill' parameter of {name} must be None or in the range [0, 1]. Got {fill!r} instead.")
