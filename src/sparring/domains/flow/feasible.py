"""The threat model of network flows: what the sender of a malicious flow can make of it, in the model's own input.

    C(x) = { z : |z - x|_inf <= eps, z_fixed = x_fixed, z_up >= x_up, z_down <= x_down, low <= z <= high,
                 integers and rates are such, every relation that x satisfies holds }

`project` repairs at every step of an attack, so PGD and Auto-PGD run on it unchanged; that is how constraints are
handled in CAPGD (Simonetto et al., "Towards adaptive attacks on constrained tabular machine learning", 2024, and its
code). Departs from it in that the answer is feasible always: where repairing fails, it is x.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Self

import torch
from torch import Tensor

from sparring.core.compose import Masked
from sparring.core.standing import check_positive
from sparring.core.threat import Linf
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.repair import Ground, Origin, land, repaired


@dataclass(frozen=True)
class Feasible:
    """The rows that a malicious row may be turned into. Whose rows are malicious is the caller's business.

    All of it is about vectors `[B, width]` of the preprocessing, in float32 or float64. The original's raw values are
    read off x, as far as its dtype holds them. Where x is at the edge of the training rows and the field may lie
    beyond, they are not known: such a coordinate stays, and so does all that shares a relation with it.

    Args:
        preprocessing: fitted; its schema has the relations.
        eps: the radius in scaled space, in the range (0, inf).
    """

    preprocessing: Preprocessing
    eps: float

    def __post_init__(self) -> None:
        check_positive("eps", self.eps)
        self._ground(torch.device("cpu"))  # a schema with a broken relation fails here, not in the first step

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """z cut to the box around x, its integers and rates at the nearest step inside, and repaired. Coordinates that
        did not change are those of x, bit for bit, categories and flags always."""
        ground, origin = self._ground(x.device), self._origin(x)
        u = z[:, ground.columns].to(x.dtype)
        u, raw = land(ground.scale, u, origin.x, origin.low, origin.high, origin.raw)
        return x.index_copy(1, ground.columns, repaired(ground, origin, u, raw))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether each row of z is one of them, `[B]`: the radius and the steps up to rounding, all else exactly."""
        ground, origin = self._ground(x.device), self._origin(x)
        u, scale, unit = z[:, ground.columns], ground.scale, torch.finfo(x.dtype).eps
        slop = self.eps * 1e-6 + unit
        low = torch.where(origin.low < origin.x, origin.low - slop, origin.low)
        high = torch.where(origin.high > origin.x, origin.high + slop, origin.high)
        still = u == origin.x
        raw = torch.where(still, origin.raw, scale.typed(scale.decode(u.double())))
        stepped = still | ((scale.encode(raw) - u).abs() <= 2 * unit)
        bad, _ = origin.violated(ground, raw)
        inside = (u >= low) & (u <= high) & (u >= 0) & (u <= 1) & stepped
        same = z.index_copy(1, ground.columns, origin.x) == x
        return inside.all(1) & same.all(1) & ~bad.any(1)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Uniform in the box around x, then projected."""
        ground, origin = self._ground(x.device), self._origin(x)
        noise = torch.rand(origin.x.shape, generator=rng, device=x.device, dtype=x.dtype)
        u = origin.low + noise * (origin.high - origin.low)
        return self.project(x.index_copy(1, ground.columns, u), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The sign, on the coordinates that may change."""
        return gradient.sign() * self._ground(z.device).changeable.to(gradient.dtype)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        schema = self.preprocessing.schema
        return {
            "norm": "linf",
            "kind": "feasible flow",
            "eps": self.eps,
            "schema": schema.name,
            "changeable": sum(field.change != "fixed" for field in schema.fields),
            "relations": list(schema.relations),
        }

    def _ground(self, device: torch.device) -> Ground:
        if device not in self._grounds:
            self._grounds[device] = _ground(self.preprocessing, device)
        return self._grounds[device]

    @cached_property
    def _grounds(self) -> dict[torch.device, Ground]:
        return {}

    def _origin(self, x: Tensor) -> Origin:
        """Of these rows; an attack asks for the same ones at every step, so on the CPU, where comparing is cheap and
        waits for nobody, the last answer is kept."""
        if x.device.type != "cpu":
            return Origin.of(self._ground(x.device), x, self.eps)
        last = self._recent.get("last")
        if last is None or last[0].dtype != x.dtype or not torch.equal(last[0], x):
            last = (x.detach().clone(), Origin.of(self._ground(x.device), x, self.eps))
            self._recent["last"] = last
        return last[1]

    @cached_property
    def _recent(self) -> dict[str, tuple[Tensor, Origin]]:
        return {}


@lru_cache(maxsize=8)
def _ground(preprocessing: Preprocessing, device: torch.device) -> Ground:
    return Ground.of(preprocessing, device)


def unconstrained(preprocessing: Preprocessing, eps: float) -> Masked:
    """Every numeric coordinate within eps of its own and in [0, 1], whatever it means: the comparison that shows how
    far the constraints matter. Categories stay."""
    mask = torch.zeros(1, preprocessing.width)
    mask[:, : len(preprocessing.numeric)] = 1.0
    return Masked(Linf(eps), mask)
