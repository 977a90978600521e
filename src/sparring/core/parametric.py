"""Threats whose adversary moves parameters: an angle, a shift, a flow field, a gain, from which the input is rendered.

A parametric threat has a space of parameters, which is a threat like any other, and a differentiable map from there to
inputs. So every attack runs on parameters, `attack(Rendered(gain, threat, x), threat.origin(x), threat.space)`, and
what it returns is verified without inverting anything: `threat.space` contains theta or it does not.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from sparring.core.attack import Attack
from sparring.core.gain import Gain, RivalGain
from sparring.core.standing import check_positive, floating, judging, per_example
from sparring.core.threat import Threat, flat


@runtime_checkable
class Parametric(Protocol):
    """A threat whose allowed inputs are z = render(theta, x) for the theta that `space` allows around `origin(x)`."""

    @property
    def eps(self) -> float:
        """The radius of `space`: 1.0 is the range that the threat was built with."""
        ...

    @property
    def space(self) -> Threat:
        """Which theta are allowed; its x is the origin."""
        ...

    def origin(self, x: Tensor) -> Tensor:
        """The theta `[B, ...]` that leaves x `[B, ...]` as it is; at least in float32."""
        ...

    def render(self, theta: Tensor, x: Tensor) -> Tensor:
        """The input z `[B, ...]` of theta, in x's shape, dtype and box; differentiable in theta."""
        ...

    def scaled(self, factor: float) -> Self:
        """The same threat with the range of every parameter multiplied by factor."""
        ...

    def take(self, rows: Tensor) -> Self:
        """The threat for these rows of the batch only."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a record needs to name it, as JSON types."""
        ...


@dataclass(frozen=True)
class Rendered:
    """The gain of parameters: what the gain inside says of the input rendered from them.

    It can do what the gain inside can: judge, and be narrowed, pulled to a rival, counted.

    Args:
        gain: of inputs.
        threat: how theta becomes an input.
        x: the clean inputs `[B, ...]`.
    """

    gain: Gain
    threat: Parametric
    x: Tensor

    def __call__(self, theta: Tensor, /) -> Tensor:
        return self.gain(self.threat.render(theta, self.x))

    def judge(self, theta: Tensor, /) -> tuple[Tensor, Tensor]:
        return judging(self.gain).judge(self.threat.render(theta, self.x))

    def take(self, rows: Tensor, /) -> Self:
        return replace(self, gain=judging(self.gain).take(rows), threat=self.threat.take(rows), x=self.x[rows])

    def rivals(self, theta: Tensor, /) -> Tensor:
        return self._rival().rivals(self.threat.render(theta, self.x))

    def towards(self, rival: Tensor, /) -> Self:
        return replace(self, gain=self._rival().towards(rival))

    def _rival(self) -> RivalGain:
        if not isinstance(self.gain, RivalGain):
            raise TypeError(
                "An attack that asks for rivals needs a gain with 'rivals' and 'towards', such as "
                f"sparring.core.gain.ClassifierGain. Got {type(self.gain).__name__}."
            )
        return self.gain


class Through(Protocol):
    """An attack that takes parametric threats as well, and then returns the rendered input."""

    def __call__(
        self, gain: Gain, x: Tensor, threat: Threat | Parametric, /, *, rng: torch.Generator | None = None
    ) -> Tensor: ...


def through(attack: Attack) -> Through:
    """The attack run on the parameters of a `Parametric` threat, returning z = render(theta, x); elsewhere, itself."""

    def rendered(
        gain: Gain, x: Tensor, threat: Threat | Parametric, /, *, rng: torch.Generator | None = None
    ) -> Tensor:
        if not isinstance(threat, Parametric):
            return attack(gain, x, threat, rng=rng)
        x = floating(x)
        theta = attack(Rendered(gain, threat, x), threat.origin(x), threat.space, rng=rng)
        with torch.no_grad():
            return threat.render(theta, x)

    return rendered


@dataclass(frozen=True)
class Box:
    """|theta_i - origin_i| <= eps width_i: each parameter within its own range.

    A step is measured in shares of the ranges: `steepest` is sign(gradient) width, so that a step of eps crosses the
    half-range of every parameter alike, degrees and pixels. Parameters know no bounds but these. The norm is
    max_i |theta_i - origin_i| / width_i, a `Metric`.

    Args:
        width: the half-ranges, finite and >= 0, broadcastable to theta: `[1, ...]` for every example alike, or
            `[B, ...]`, one per example. A parameter of width 0 stays where it is.
        eps: the share of them that is allowed.
    """

    width: Tensor
    eps: float = 1.0
    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)
        if not (self.width.isfinite() & (self.width >= 0)).all():
            raise ValueError(
                f"The 'width' parameter of Box must be in the range [0, inf). Got {self.width.tolist()!r} instead."
            )

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Each parameter within its range, up to what rounding it to its dtype may add."""
        kind = torch.finfo(z.dtype)
        unit = kind.eps * torch.maximum(x.abs(), z.abs()).double().clamp(min=kind.tiny)
        room = self._width(x.double()) * (self.eps * (1 + 1e-6)) + torch.where(z == x, 0.0, unit)
        return flat(((z.double() - x.double()).abs() <= room) & z.isfinite()).all(1)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Uniform in the box."""
        noise = torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        return self.project(x + (2 * noise - 1) * self.eps * self._width(x), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        return gradient.sign() * self._width(z)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """max_i |z_i - x_i| / width_i, `[B]`: infinite where a parameter of width 0 has moved."""
        size = flat((z.double() - x.double()).abs())
        share = torch.where(size > 0, size / flat(self._width(x.double())), 0.0)
        return share.amax(1).to(z.dtype)

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        room = self._width(x) * (per_example(radius, x) if isinstance(radius, Tensor) else radius)
        return torch.clamp(z, x - room, x + room).to(x.dtype)

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        """Every parameter moves by the same share of its width, rise / sum_i |normal_i| width_i; none where that sum
        is 0."""
        width = self._width(normal)
        pace = flat(normal.abs() * width).sum(1)
        share = torch.where(pace > 0, rise.clamp(min=0).to(pace.dtype) / pace, 0.0)
        return per_example(share.clamp(max=torch.finfo(pace.dtype).max), normal) * width * normal.sign()

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return replace(self, width=self.width.to(rows.device)[rows]) if self.width.shape[0] > 1 else self

    def describe(self) -> dict[str, Any]:
        return {"norm": "box", "eps": self.eps, "width": self.width.flatten().tolist()}

    def _width(self, like: Tensor) -> Tensor:
        return self.width.to(like).expand_as(like)
