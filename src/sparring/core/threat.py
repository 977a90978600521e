"""Threat models: norm balls around each input, cut to the box of valid inputs.

A threat model is an object with `project, contains, sample, steepest`; an attack needs nothing else, so no attack ever
asks which norm it is in. `eps`, `low` and `high` are in input units (pixels in [0, 1] by default), and x is always
inside the box. Projections are Euclidean and exact: onto the *intersection* of ball and box, not onto one after the
other. All tensors are `[B, ...]`; a ball is per example over all other dimensions.
"""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from sparring.core.budget import fill, steepest_first
from sparring.core.standing import per_example


class Threat(Protocol):
    """What the adversary may do to x."""

    @property
    def eps(self) -> float:
        """The radius, in input units: what a default step size is a fraction of."""
        ...

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The nearest allowed point to z."""
        ...

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether each z is allowed, `[B]` bool, up to the rounding of its dtype."""
        ...

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """A random allowed point for each x."""
        ...

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The direction of length one, in this threat's own norm, along which a linear gain rises fastest from z."""
        ...

    def scaled(self, factor: float) -> Self:
        """The same threat with its radius multiplied by factor."""
        ...

    def take(self, rows: Tensor) -> Self:
        """The threat for these rows of the batch only."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a record needs to name it, as JSON types."""
        ...


@runtime_checkable
class Labelled(Protocol):
    """A threat model that depends on what an example is: an attacker forges attacks, not other people's traffic."""

    def for_classes(self, y: Tensor) -> Threat:
        """The threat for a batch with these classes `[B]`."""
        ...


def for_classes(threat: Threat, y: Tensor) -> Threat:
    """The threat for a batch with classes y `[B]`: itself, unless it depends on them."""
    return threat.for_classes(y) if isinstance(threat, Labelled) else threat


@runtime_checkable
class Metric(Threat, Protocol):
    """A ball whose radius may be asked about: what minimal-norm attacks need. `radius` is a number or `[B]`."""

    @property
    def low(self) -> float:
        """The smallest value an input may have; -inf where there is no bound."""
        ...

    @property
    def high(self) -> float:
        """The largest value an input may have; inf where there is no bound."""
        ...

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The norm of z - x, `[B]`."""
        ...

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """The nearest point to z inside the box and at most `radius` from x: `project` for any radius."""
        ...

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        """The shortest step d in this norm, z + d in the box, with <normal, d> >= rise `[B]`; where the box holds no
        such step, the one that comes nearest to it."""
        ...


@dataclass(frozen=True)
class Linf:
    """max_i |z_i - x_i| <= eps, and low <= z <= high."""

    eps: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check(self)
        if self.eps > self.high - self.low:
            warnings.warn(
                f"The 'eps' parameter of Linf is {self.eps:g}, wider than the bounds [{self.low:g}, {self.high:g}]: "
                f"every input is allowed. eps is in input units; did you mean {self.eps:g}/255 = {self.eps / 255:.4g}?",
                stacklevel=3,
            )

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        return norm(z.double() - x.double(), math.inf).to(z.dtype)

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        radius = per_example(radius, x) if isinstance(radius, Tensor) else radius
        return torch.clamp(z, x - radius, x + radius).clamp_(self.low, self.high).to(x.dtype)

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        gain, room = _slope(self, normal, z)
        return _signed(fill(gain, torch.ones_like(gain), room, rise), normal)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        return _contains(self, z, x, math.inf)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        noise = torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        return self.project(x + (2 * noise - 1) * self.eps, x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        return gradient.sign()

    def scaled(self, factor: float) -> Self:
        with warnings.catch_warnings():  # the warning is for an eps that a person wrote
            warnings.simplefilter("ignore")
            return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        return {"norm": "linf", "eps": self.eps, **_bounds(self)}


@dataclass(frozen=True)
class L2:
    """||z - x||_2 <= eps, and low <= z <= high."""

    eps: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        return norm(z.double() - x.double(), 2).to(z.dtype)

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        gain, room = _slope(self, normal, z)
        return _signed(fill(gain, gain, room, rise), normal)

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """With d = z - x and c_i >= 0 the room to the box along d_i, the optimum is min(s |d_i|, c_i) for the largest
        s <= 1 whose norm is at most eps. That norm is piecewise quadratic in s, with a break where each coordinate
        meets its bound: sort the breaks, find the piece, solve it."""
        size, room, sign = _towards(self, z, x)
        radius = _column(radius, size)
        budget = radius.square()
        total = torch.minimum(size, room).square().sum(1, keepdim=True)
        breaks, order = (room / size).nan_to_num(torch.inf, torch.inf).sort(dim=1)
        bound = room.gather(1, order).square().cumsum(1)  # squared norm of the coordinates that met their bound
        free = size.gather(1, order).square().flip(1).cumsum(1).flip(1)
        free = torch.cat([free, torch.zeros_like(free[:, :1])], 1)  # squared norm of d over those that have not
        bound = torch.cat([torch.zeros_like(bound[:, :1]), bound], 1)
        at_break = bound[:, 1:] + torch.where(free[:, 1:] > 0, breaks.square() * free[:, 1:], 0.0)
        met = (at_break <= budget).sum(1, keepdim=True)  # how many bounds are met before the ball is
        bound, free = bound.gather(1, met), free.gather(1, met)
        s = ((budget - bound).clamp(min=0) / free.clamp(min=torch.finfo(free.dtype).tiny)).sqrt()
        s = torch.where(total <= budget, 1.0, s.clamp(max=1.0))
        return _at(self, x, sign * torch.minimum(s * size, room), 2, radius)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        return _contains(self, z, x, 2)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball, then projected onto the box."""
        noise = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        radius = torch.rand(x.shape[0], generator=rng, device=x.device, dtype=x.dtype)
        radius = radius ** (1 / max(1, x[0].numel())) if len(x) else radius
        return self.project(x + _unit(noise, 2) * per_example(radius * self.eps, x), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        return _unit(gradient, 2)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        return {"norm": "l2", "eps": self.eps, **_bounds(self)}


@dataclass(frozen=True)
class L1:
    """sum_i |z_i - x_i| <= eps, and low <= z <= high.

    Args:
        sparsity: the share of coordinates that a steepest step leaves alone, in [0, 1]. At 1 it moves the single best
            one, which is the exact steepest ascent; 0.99 spreads the step over the best hundredth, which makes
            progress in far fewer steps (SLIDE: Tramer & Boneh, "Adversarial training and robustness for multiple
            perturbations", 2019).
    """

    eps: float
    low: float = 0.0
    high: float = 1.0
    sparsity: float = 0.99

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.sparsity <= 1:
            raise ValueError(
                f"The 'sparsity' parameter of L1 must be in the range [0, 1]. Got {self.sparsity!r} instead."
            )

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        return norm(z.double() - x.double(), 1).to(z.dtype)

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        gain, room = _slope(self, normal, z)
        return _signed(steepest_first(gain, room, rise), normal)

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        """The optimum is clamp(|d_i| - t, 0, c_i) for the smallest t >= 0 whose sum is at most eps, with d = z - x and
        c_i the room to the box. The sum is piecewise linear in t, with a break where each coordinate leaves its bound
        and where it reaches zero (Croce & Hein, "Mind the box", 2021)."""
        size, room, sign = _towards(self, z, x)
        radius = _column(radius, size)
        total = torch.minimum(size, room).sum(1, keepdim=True)
        breaks, order = torch.cat([size, size - room], 1).sort(dim=1, descending=True)
        turns = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order)
        slope = turns.cumsum(1)  # coordinates that move between this break and the next smaller one
        drop = (breaks[:, :-1] - breaks[:, 1:]) * slope[:, :-1]
        at_break = torch.cat([torch.zeros_like(breaks[:, :1]), drop.cumsum(1)], 1)
        last = (at_break <= radius).sum(1, keepdim=True) - 1
        t = breaks.gather(1, last) - (radius - at_break.gather(1, last)) / slope.gather(1, last).clamp(min=1)
        t = torch.where(total <= radius, 0.0, t.clamp(min=0))
        return _at(self, x, sign * torch.minimum((size - t).clamp(min=0), room), 1, radius)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        return _contains(self, z, x, 1)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball (one exponential more than there are coordinates), then projected onto the box."""
        d = x[0].numel() if len(x) else 0
        noise = torch.rand((x.shape[0], d + 1), generator=rng, device=x.device, dtype=torch.float64)
        weight = -noise.clamp(min=torch.finfo(noise.dtype).tiny).log()
        sign = torch.randint(0, 2, (x.shape[0], d), generator=rng, device=x.device) * 2 - 1
        step = self.eps * sign * weight[:, :d] / weight.sum(1, keepdim=True)
        return self.project(x + step.to(x.dtype).reshape(x.shape), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Equal shares on the largest gradients, passing over coordinates whose bound blocks the way."""
        blocked = ((z <= self.low) & (gradient < 0)) | ((z >= self.high) & (gradient > 0))
        size = flat(gradient.abs().masked_fill(blocked, 0.0))
        k = max(1, round((1 - self.sparsity) * size.shape[1]))
        value, best = size.topk(k, dim=1)
        share = (value > 0).to(gradient.dtype)
        share = share / share.sum(1, keepdim=True).clamp(min=1)
        return torch.zeros_like(size).scatter(1, best, share).reshape(gradient.shape) * gradient.sign()

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        return {"norm": "l1", "eps": self.eps, **_bounds(self), "sparsity": self.sparsity}


NORMS = (("linf", Linf), ("l2", L2), ("l1", L1))
"""The names that a command line uses."""


def ball(norm: str, eps: float, low: float = 0.0, high: float = 1.0) -> Linf | L2 | L1:
    """The ball that a configuration names. Raises ValueError for an unknown norm."""
    for name, threat in NORMS:
        if name == norm:
            return threat(eps, low, high)
    raise ValueError(f"The 'threat' parameter must be one of {', '.join(n for n, _ in NORMS)}. Got {norm!r} instead.")


def norm(d: Tensor, p: float) -> Tensor:
    """The p-norm of each example, `[B]`, computed in float64."""
    length: Tensor = torch.linalg.vector_norm(flat(d.double()), ord=p, dim=1)
    return length


def flat(d: Tensor) -> Tensor:
    """`[B, ...]` as `[B, n]`; an example may be a single number, `[B]`."""
    return d.flatten(1) if d.dim() > 1 else d[:, None]


def _check(threat: Linf | L2 | L1) -> None:
    name, eps = type(threat).__name__, threat.eps
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
        raise ValueError(f"The 'eps' parameter of {name} must be a number in the range (0, inf). Got {eps!r} instead.")
    if not threat.low < threat.high:
        raise ValueError(f"The bounds of {name} must have low < high. Got low={threat.low!r}, high={threat.high!r}.")


def _bounds(threat: Linf | L2 | L1) -> dict[str, float | None]:
    """The box as JSON has it: no bound is None."""
    low, high = threat.low, threat.high
    return {"low": low if math.isfinite(low) else None, "high": high if math.isfinite(high) else None}


def _contains(threat: Linf | L2 | L1, z: Tensor, x: Tensor, p: float) -> Tensor:
    """Inside the ball, up to what rounding each coordinate that moved to its dtype may add; inside the box exactly."""
    kind = torch.finfo(z.dtype)
    unit = kind.eps * torch.maximum(x.abs(), z.abs()).double().clamp(min=kind.tiny)
    near = norm(z.double() - x.double(), p) <= threat.eps * (1 + 1e-6) + norm(torch.where(z == x, 0.0, unit), p)
    boxed = flat((z >= threat.low) & (z <= threat.high)).all(1)
    return near & boxed & flat(z.isfinite()).all(1)


def _towards(threat: L2 | L1, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|d|, the room to the box along d, and sign(d), flat and at least in float32, with d = z - x."""
    wide = torch.promote_types(z.dtype, torch.float32)
    start = flat(x.to(wide))
    d = flat(z.to(wide)) - start
    room = torch.where(d >= 0, threat.high - start, start - threat.low).clamp(min=0)
    return d.abs(), room, d.sign()


def _at(threat: L2 | L1, x: Tensor, d: Tensor, p: float, radius: Tensor) -> Tensor:
    """x + d, once d `[B, n]` is cleared of what rounding left outside the ball: that is much when z was far away."""
    length = torch.linalg.vector_norm(d, ord=p, dim=1, keepdim=True)
    d = d * (radius / length.clamp(min=torch.finfo(d.dtype).tiny)).clamp(max=1.0)
    return (x.to(d.dtype) + d.reshape(x.shape)).clamp(threat.low, threat.high).to(x.dtype)


def _unit(d: Tensor, p: float) -> Tensor:
    """d at length one in the p-norm; divided by its largest entry first, whose square may not fit the dtype."""
    tiny = torch.finfo(d.dtype).tiny
    d = d / per_example(flat(d).abs().amax(1).clamp(min=tiny), d)
    return d / per_example(torch.linalg.vector_norm(flat(d), ord=p, dim=1).clamp(min=tiny), d)


def _column(radius: float | Tensor, like: Tensor) -> Tensor:
    """A radius, a number or `[B]`, as `[B, 1]` (or `[1, 1]`) beside flat rows."""
    return torch.as_tensor(radius, dtype=like.dtype, device=like.device).reshape(-1, 1)


def _slope(threat: Linf | L2 | L1, normal: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """|normal| and the room to the box along it, flat and at least in float32."""
    wide = torch.promote_types(z.dtype, torch.float32)
    z = z.to(wide)
    room = torch.where(normal >= 0, threat.high - z, z - threat.low).clamp(min=0)
    return flat(normal.to(wide).abs()), flat(room)


def _signed(size: Tensor, normal: Tensor) -> Tensor:
    return size.reshape(normal.shape).to(normal.dtype) * normal.sign()
