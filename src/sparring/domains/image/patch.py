"""Threats in the pixels themselves, anything at all but in few of them: a square somewhere, a frame around the edge."""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from sparring.core.compose import Masked
from sparring.core.standing import check_count, floating, per_example
from sparring.core.threat import Linf, flat


@dataclass(frozen=True)
class Patch:
    """Anything in the box inside one square of side x side pixels, in all channels, anywhere in the picture.

    Brown et al., "Adversarial patch", 2017; here the patch replaces pixels upright, wholly inside the picture, and is
    made for one picture at one place (Karmon et al., "LaVAN", 2018). Pictures are `[B, C, H, W]`; a square longer than
    a side of the picture covers all of that side.

    The set is a union over places, a place being the index of the square's first pixel among those where it fits, row
    by row. `sparring.attacks.patch.patch` attacks place by place. An attack that knows nothing of places has one chosen
    by `steepest` and `project`: a single step over the whole box goes to the best place of a linear gain, but small
    steps from a random start rarely leave the place they started at.

    Args:
        side: of the square, in pixels.
        low, high: the box.
    """

    side: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("side", self.side)
        _check_box(type(self).__name__, self.low, self.high)

    @property
    def eps(self) -> float:
        """How far a pixel can move: what a step size is a fraction of."""
        return self.high - self.low

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The nearest allowed point. Of each pixel that is let go, the squared distance to z falls from (z - x)^2 to
        what the box takes; the square that saves most is kept, and x holds elsewhere."""
        wide = torch.promote_types(z.dtype, torch.float32)
        boxed = z.clamp(self.low, self.high)
        saved = (z - x).to(wide).square() - (z - boxed).to(wide).square()
        return torch.where(self._squares(self.mass(saved).argmax(1), x), boxed, x)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether the changed pixels span at most `side` rows and columns, and z is in the box, exactly."""
        changed = (_images(z) != x).any(1)
        high, wide = (_span(changed.any(dim)) for dim in (2, 1))
        boxed = flat((z >= self.low) & (z <= self.high)).all(1)
        return (high <= self.side) & (wide <= self.side) & boxed

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """A uniform place, and there uniform content."""
        place = torch.randint(self.places(x), (x.shape[0],), generator=rng, device=x.device)
        noise = torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        content = (self.low + self.eps * noise).clamp(self.low, self.high)
        return torch.where(self._squares(place, x), content, x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The gradient's sign in the square where a linear gain rises most before it meets the box, 0 elsewhere."""
        return torch.where(self._squares(self.mass(self.rise(gradient, z)).argmax(1), z), gradient.sign(), 0.0)

    def rise(self, gradient: Tensor, z: Tensor) -> Tensor:
        """How much each coordinate alone can add to a linear gain: |gradient| times the room to the box."""
        wide = torch.promote_types(z.dtype, torch.float32)
        room = torch.where(gradient >= 0, self.high - z, z - self.low).clamp(min=0)
        return gradient.to(wide).abs() * room.to(wide)

    def places(self, x: Tensor) -> int:
        """How many places there are in a picture of x's size."""
        (h, w), (tall, wide) = _images(x).shape[2:], self._size(x)
        return (h - tall + 1) * (w - wide + 1)

    def mass(self, amount: Tensor) -> Tensor:
        """The sum of `amount [B, C, H, W]` over the square at each place, `[B, P]`."""
        sums = F.avg_pool2d(_images(amount).sum(1, keepdim=True), self._size(amount), stride=1, divisor_override=1)
        return sums.flatten(1)

    def at(self, place: Tensor, x: Tensor) -> Masked:
        """The threat of a patch at this place `[B]` of each picture."""
        return Masked(Linf(self.eps, self.low, self.high), self._squares(place, x))

    def scaled(self, factor: float) -> Self:
        """The side multiplied by factor, rounded, at least 1."""
        return replace(self, side=max(1, round(self.side * factor)))

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        return {"norm": "patch", "eps": self.eps, "side": self.side, "low": self.low, "high": self.high}

    def _size(self, x: Tensor) -> tuple[int, int]:
        return min(self.side, x.shape[2]), min(self.side, x.shape[3])

    def _squares(self, place: Tensor, x: Tensor) -> Tensor:
        """Which pixels the square at each place covers, `[B, 1, H, W]` bool."""
        (tall, wide), across = self._size(x), x.shape[3] - self._size(x)[1] + 1
        row, column = (torch.arange(side, device=x.device) for side in x.shape[2:])
        top, left = per_example(place // across, x), per_example(place % across, x)
        rows = (row[:, None] >= top) & (row[:, None] < top + tall)
        return rows & (column >= left) & (column < left + wide)


def frame(shape: tuple[int, ...], width: int, *, low: float = 0.0, high: float = 1.0) -> Masked:
    """Anything in the box in the outer `width` pixels of a picture: an adversarial frame.

    Args:
        shape: of the pictures, `(..., H, W)`.
        width: of the frame, in pixels.
        low, high: the box.

    Zajac et al., "Adversarial framing for image and video classification", 2019.
    """
    check_count("width", width)
    _check_box("frame", low, high)
    mask = torch.ones((1, 1, *shape[-2:]), dtype=torch.bool)
    mask[..., width : shape[-2] - width, width : shape[-1] - width] = False
    return Masked(Linf(high - low, low, high), mask)


def _span(any_changed: Tensor) -> Tensor:
    """From the first to the last place that is set, `[B, n]` bool -> `[B]`."""
    place = torch.arange(1, any_changed.shape[1] + 1, device=any_changed.device)
    last = torch.where(any_changed, place, 0).amax(1)
    first = torch.where(any_changed, place, any_changed.shape[1] + 1).amin(1)
    return (last - first + 1).clamp(min=0)


def _images(x: Tensor) -> Tensor:
    if x.dim() != 4:
        raise ValueError(f"x must be images [B, C, H, W]. Got shape {tuple(x.shape)}.")
    return floating(x)


def _check_box(name: str, low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"The bounds of {name} must be finite with low < high. Got low={low!r}, high={high!r}.")
