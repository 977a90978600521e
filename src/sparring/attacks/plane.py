"""The linearised decision boundary: the plane on which a rival draws level with the truth, to first order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.minimal import widened
from sparring.core.standing import per_example
from sparring.core.threat import Metric, flat


@dataclass(frozen=True)
class Plane:
    """All z + d with `<normal, d> = rise`, seen from z.

    Attributes:
        normal: the gradient at z, `[B, ...]`.
        rise: what the rival lacks at z, `[B]`; negative where z is past the plane.
        step: the shortest step from z onto the plane inside the box, or the one that comes nearest to it, `[B, ...]`.
    """

    normal: Tensor
    rise: Tensor
    step: Tensor

    def step_from(self, x: Tensor, z: Tensor, threat: Metric) -> Tensor:
        """The shortest step onto the same plane from x."""
        return _onto(threat, self.normal, self.rise + flat(self.normal * (z - x)).sum(1), x)


def nearest_plane(ahead: Tensor, asked: Tensor, rivals: Tensor, threat: Metric, rows: Tensor | None = None) -> Plane:
    """Of the planes of each rival, the nearest in the threat's norm; one backward pass for each.

    A plane that no point of the box lies on comes after all others.

    Args:
        ahead: what `gain.rivals` said at `asked`, `[B, K]`, with its graph, which is freed.
        asked: where it was asked `[B, ...]`.
        rivals: which to linearise `[B, m]`.
        threat: whose norm and box count.
        rows: the examples to do it for; by default all.

    Returns:
        The planes of those examples, at least in float32.
    """
    rows = torch.arange(len(asked), device=asked.device) if rows is None else rows
    z, count = widened(asked.detach()[rows]), rivals.shape[1]
    best, lowest = None, torch.empty(0)
    for i, rival in enumerate(rivals.unbind(1)):
        value = ahead.gather(1, rival[:, None]).squeeze(1)[rows]
        (gradient,) = torch.autograd.grad(value.sum(), asked, retain_graph=i + 1 < count)
        normal, rise = widened(gradient[rows]), -widened(value.detach())
        plane = Plane(normal, rise, _onto(threat, normal, rise, z))
        price = _price(plane, threat) if count > 1 else lowest
        if best is None:
            best, lowest = plane, price
        else:
            wins = price < lowest
            best, lowest = _choose(wins, plane, best), torch.where(wins, price, lowest)
    if best is None:
        raise ValueError("nearest_plane needs at least one rival. Got none.")
    return best


def _onto(threat: Metric, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
    side = torch.where(rise < 0, -1.0, 1.0).to(rise.dtype)
    return threat.reach(per_example(side, normal) * normal, rise.abs(), z)


def _price(plane: Plane, threat: Metric) -> Tensor:
    """The length of the step; beyond any length where it does not arrive, the more the less of the way it comes."""
    share = (flat(plane.normal * plane.step).sum(1) / plane.rise).nan_to_num(1.0)  # 0 / 0: z is on the plane
    length = threat.distance(plane.step, torch.zeros_like(plane.step))
    return torch.where(share > 0.999, length, 1e30 - 1e28 * share)


def _choose(wins: Tensor, one: Plane, other: Plane) -> Plane:
    wide = per_example(wins, one.normal)
    return Plane(
        torch.where(wide, one.normal, other.normal),
        torch.where(wins, one.rise, other.rise),
        torch.where(wide, one.step, other.step),
    )
