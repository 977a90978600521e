"""Threat models made of threat models: on part of the input, inside several balls, inside any of several balls."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sparring.core.threat import Threat, flat, norm


@dataclass(frozen=True)
class Masked:
    """Only the coordinates where mask is nonzero may change; there, the inner threat holds.

    Args:
        threat: the inner threat.
        mask: 0/1, broadcastable to x: `[1, ...]` for every example alike, or `[B, ...]`, one per example.
    """

    threat: Threat
    mask: Tensor

    @property
    def eps(self) -> float:
        return self.threat.eps

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        mask = self._open(x)
        return torch.where(mask, self.threat.project(torch.where(mask, z, x), x), x)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        still = flat((z == x) | self._open(x)).all(1)
        return still & self.threat.contains(z, x)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return torch.where(self._open(x), self.threat.sample(x, rng), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        return self.threat.steepest(torch.where(self._open(z), gradient, 0.0), z)

    def scaled(self, factor: float) -> Self:
        return replace(self, threat=self.threat.scaled(factor))

    def take(self, rows: Tensor) -> Self:
        mask = self.mask.to(rows.device)[rows] if self.mask.shape[0] > 1 else self.mask
        return replace(self, threat=self.threat.take(rows), mask=mask)

    def describe(self) -> dict[str, Any]:
        share = self.mask.bool().double().mean().item()
        return {"norm": "masked", "eps": self.eps, "share": share, "inner": self.threat.describe()}

    def _open(self, x: Tensor) -> Tensor:
        return self.mask.to(x.device).bool().expand_as(x)


@dataclass(frozen=True)
class OfClass:
    """Only examples of one class may change: malicious flows, spam. Without labels it is the inner threat.

    Args:
        threat: what they may become.
        label: the class that the adversary owns.
    """

    threat: Threat
    label: int

    def for_classes(self, y: Tensor) -> Threat:
        """The threat for a batch with classes y `[B]`."""
        return _Rows(self.threat, y == self.label)

    @property
    def eps(self) -> float:
        return self.threat.eps

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.threat.project(z, x)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        return self.threat.contains(z, x)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self.threat.sample(x, rng)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        return self.threat.steepest(gradient, z)

    def scaled(self, factor: float) -> Self:
        return replace(self, threat=self.threat.scaled(factor))

    def take(self, rows: Tensor) -> Self:
        return replace(self, threat=self.threat.take(rows))

    def describe(self) -> dict[str, Any]:
        return {**self.threat.describe(), "class": self.label}


class _Rows(Masked):
    """Whole examples of a batch: a mask `[B]`, of one example too, which `Masked` would take for every example's."""

    def take(self, rows: Tensor) -> Self:
        return replace(self, threat=self.threat.take(rows), mask=self.mask.to(rows.device)[rows])

    def _open(self, x: Tensor) -> Tensor:
        return self.mask.to(x.device).view(-1, *[1] * (x.dim() - 1)).expand_as(x)


@dataclass(frozen=True)
class Intersection:
    """Inside every member at once.

    `project` is Dykstra's alternating projection ("An algorithm for restricted least squares regression", 1983), which
    tends to the Euclidean projection as `rounds` grows: quickly after a gradient step that left the set by a fraction
    of eps (errors near 1 % of eps), slowly from several eps away. A last plain pass through the members makes the
    result a member of all of them whatever the rounds: each projection here only shrinks coordinates of z - x, and
    shrinking leaves no ball, box or mask. `steepest` is the first member's; the projection enforces the others.
    """

    members: tuple[Threat, ...]
    rounds: int = 30

    def __init__(self, *members: Threat, rounds: int = 30) -> None:
        _several(self, members)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "rounds", rounds)

    @property
    def eps(self) -> float:
        return self.members[0].eps

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        corrections = [torch.zeros_like(z) for _ in self.members]
        for _ in range(self.rounds):
            for i, member in enumerate(self.members):
                moved = z + corrections[i]
                z = member.project(moved, x)
                corrections[i] = moved - z
        for member in self.members:
            z = member.project(z, x)
        return z

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.stack([member.contains(z, x) for member in self.members]).all(0)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self.project(self.members[0].sample(x, rng), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        return self.members[0].steepest(gradient, z)

    def scaled(self, factor: float) -> Self:
        return type(self)(*(member.scaled(factor) for member in self.members), rounds=self.rounds)

    def take(self, rows: Tensor) -> Self:
        return type(self)(*(member.take(rows) for member in self.members), rounds=self.rounds)

    def describe(self) -> dict[str, Any]:
        return {"norm": "intersection", "eps": self.eps, "members": [m.describe() for m in self.members]}


@dataclass(frozen=True)
class Union:
    """Inside at least one member: training against several norms at once.

    The set is not convex. `project` goes to the nearest member, example by example. `steepest` follows the member in
    which a linear gain can rise most across its own radius, which is the exact first-order answer, scaled so that
    `step_size / eps` is the same share of every member's radius; `eps` is the first member's. `sample` draws a member
    for each example. `sparring.core.attack.each_member` attacks the members one by one instead and keeps the worst.
    """

    members: tuple[Threat, ...]

    def __init__(self, *members: Threat) -> None:
        _several(self, members)
        object.__setattr__(self, "members", members)

    @property
    def eps(self) -> float:
        return self.members[0].eps

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        points = torch.stack([member.project(z, x) for member in self.members])
        distance = torch.stack([norm(point.double() - z.double(), 2) for point in points])
        return _pick(points, distance.argmin(0))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.stack([member.contains(z, x) for member in self.members]).any(0)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        points = torch.stack([member.sample(x, rng) for member in self.members])
        return _pick(points, torch.randint(len(points), (x.shape[0],), generator=rng, device=x.device))

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        steps = torch.stack([m.steepest(gradient, z) * (m.eps / self.eps) for m in self.members])
        rise = torch.stack([flat(step * gradient).sum(1) for step in steps])
        return _pick(steps, rise.argmax(0))

    def scaled(self, factor: float) -> Self:
        return type(self)(*(member.scaled(factor) for member in self.members))

    def take(self, rows: Tensor) -> Self:
        return type(self)(*(member.take(rows) for member in self.members))

    def describe(self) -> dict[str, Any]:
        return {"norm": "union", "eps": self.eps, "members": [m.describe() for m in self.members]}


def _several(threat: Intersection | Union, members: tuple[Threat, ...]) -> None:
    if not members:
        raise ValueError(f"{type(threat).__name__} needs at least one member. Got none.")


def _pick(stack: Tensor, member: Tensor) -> Tensor:
    """Row b of the result is `stack[member[b], b]`, for a stack `[members, B, ...]`."""
    return stack[member, torch.arange(stack.shape[1], device=stack.device)]
