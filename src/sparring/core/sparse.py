"""The L0 threat model: a few coordinates, or a few pixels, may change, and each of them as much as the box allows.

Sparse-RS and sigma-zero, and the L0 version of FMN, live here. The set is not convex: `project` still goes to a nearest
allowed point, of which there may be several.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from sparring.core.standing import per_example
from sparring.core.threat import flat


@runtime_checkable
class Grained(Protocol):
    """A metric whose distances are whole multiples of `grain`: its radius is not to be moved by less."""

    @property
    def grain(self) -> float: ...


@dataclass(frozen=True)
class L0:
    """At most eps coordinates of z differ from x, and low <= z <= high.

    Args:
        eps: how many, a whole number in the range [1, inf).
        low, high: the box, in input units.
        per_pixel: count positions instead, `[B, C, ...]` in all their channels at once.
    """

    eps: float
    low: float = 0.0
    high: float = 1.0
    per_pixel: bool = False

    def __post_init__(self) -> None:
        eps = self.eps
        if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 1 <= eps < math.inf or eps != int(eps):
            raise ValueError(
                f"The 'eps' parameter of L0 must be a whole number in the range [1, inf). Got {eps!r} instead."
            )
        if not self.low < self.high:
            raise ValueError(f"The bounds of L0 must have low < high. Got low={self.low!r}, high={self.high!r}.")

    @property
    def grain(self) -> float:
        """Distances are counts."""
        return 1.0

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The number of coordinates (pixels) that differ, `[B]`, at least in float32, which counts to 16 million."""
        return self._groups(z != x).any(2).sum(1).to(torch.promote_types(z.dtype, torch.float32))

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """Coordinate i of the nearest point is either x_i or z_i cut to the box. The latter saves
        (z_i - x_i)^2 - (z_i - cut_i)^2 of the squared distance to z: it is granted where it saves most. Inside the box
        these are the largest changes; outside they need not be. A fraction of a coordinate is none."""
        cut = z.clamp(self.low, self.high)
        wide = torch.promote_types(z.dtype, torch.float32)
        start = x.to(wide)
        saved = (cut.to(wide) - start) * (2 * z.to(wide) - start - cut.to(wide))  # the difference of squares, factored
        chosen = self._spread(_largest(self._groups(saved).sum(2), radius), x)
        return torch.where(chosen, cut, x)

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        """Coordinates (pixels) go to their bounds in falling order of what that buys, the last as far as it must."""
        room = torch.where(normal >= 0, self.high - z, z - self.low).clamp(min=0)
        rise = rise.clamp(min=0).to(normal.dtype)
        enough = 2 * per_example(rise, z) / normal.abs().clamp(min=torch.finfo(normal.dtype).tiny)
        room = torch.where(normal == 0, 0.0, torch.where(room.isinf(), enough, room))
        worth, order = self._groups(normal.abs() * room).sum(2).sort(dim=1, descending=True)
        missing = rise[:, None] - (worth.cumsum(1) - worth)
        share = torch.where(worth > 0, missing / worth.clamp(min=torch.finfo(worth.dtype).tiny), 0.0).clamp(0, 1)
        return self._spread(torch.zeros_like(share).scatter(1, order, share), z) * room * normal.sign()

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        boxed = flat((z >= self.low) & (z <= self.high) & z.isfinite()).all(1)
        return boxed & (self.distance(z, x) <= self.eps)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """eps coordinates (pixels), each set of them as likely as any other, uniform in the box; where the box is not
        bounded, x plus a standard normal."""
        order = torch.rand(self._groups(x).shape[:2], generator=rng, device=x.device)
        if math.isfinite(self.low) and math.isfinite(self.high):
            value = torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype)
            value = (self.low + (self.high - self.low) * value).clamp(self.low, self.high)
        else:
            noise = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
            value = (x + noise).clamp(self.low, self.high)
        return torch.where(self._spread(_largest(order, self.eps), x), value, x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Equal shares, of 1 / eps each, on the eps largest gradients (a pixel counts its channels' sum), passing over
        coordinates whose bound blocks the way: a step of size eps takes eps coordinates across a box of width one,
        which from the middle of the box is the exact maximum of a linear gain.

        A count is no norm, so no direction has length one in it; with this one, the default step size of a gradient
        attack crosses the box 2.5 times in all its steps, as it crosses a ball.
        """
        blocked = ((z <= self.low) & (gradient < 0)) | ((z >= self.high) & (gradient > 0))
        gradient = gradient.masked_fill(blocked, 0.0)
        chosen = self._spread(_largest(self._groups(gradient.abs()).sum(2), self.eps), z)
        return torch.where(chosen, gradient.sign() / self.eps, 0.0)

    def scaled(self, factor: float) -> Self:
        """A whole number again: rounded down, but never below one."""
        return replace(self, eps=max(1.0, float(math.floor(self.eps * factor * (1 + 1e-9)))))

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        low, high = (bound if math.isfinite(bound) else None for bound in (self.low, self.high))
        return {"norm": "l0", "eps": self.eps, "low": low, "high": high, "per_pixel": self.per_pixel}

    def _groups(self, value: Tensor) -> Tensor:
        """`[B, ...]` as `[B, what is counted, what changes with it]`."""
        if not self.per_pixel:
            return flat(value)[:, :, None]
        if value.dim() < 3:
            raise ValueError(f"L0 with per_pixel=True needs inputs [B, C, ...]. Got {value.dim()} dimensions.")
        return value.flatten(2).movedim(1, 2)

    def _spread(self, value: Tensor, like: Tensor) -> Tensor:
        """`[B, what is counted]` as it broadcasts over `like`, `[B, ...]`."""
        return value.reshape(len(like), 1, *like.shape[2:]) if self.per_pixel else value.reshape(like.shape)


def _largest(value: Tensor, count: float | Tensor) -> Tensor:
    """Whether each entry of `[B, n]` is one of the `count` largest of its row, a number or `[B]`."""
    n = value.shape[1]
    chosen = torch.zeros_like(value, dtype=torch.bool)
    if not isinstance(count, Tensor):
        return chosen.scatter(1, value.topk(min(n, max(0, int(count))), dim=1).indices, True)
    count = count.floor().clamp(0, n).long()
    most = int(count.max()) if len(value) else 0  # waits for the device, and spares it to sort everything
    places = value.topk(most, dim=1).indices
    return chosen.scatter(1, places, torch.arange(most, device=value.device) < count[:, None])
