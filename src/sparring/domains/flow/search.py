"""Evasion of detectors that have no gradient, such as trees: an evolutionary search that only asks for values.

Whatever is tried has passed through `threat.project` first, so on `sparring.domains.flow.feasible.Feasible` every query
is a flow that could be sent, and none is spent on one that could not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparring.core.gain import Gain, JudgingGain
from sparring.core.standing import check_count, floating
from sparring.core.threat import Threat

SLOTS = 3
"""Coordinates that one mutation changes at most; each after the first is used half as often as the one before it."""

FINEST = 8
"""Steps of a mutation are between 2 eps and 2 eps / 2^FINEST, or the whole way: half and half."""


@dataclass(frozen=True)
class Evasion:
    """The gain of a malicious row: how far a detector's score stays below the threshold of an alarm.

    Args:
        score: `z [B, d] -> [B]`, high for malicious rows and each row's own; a wrapped `predict_proba` will do.
        threshold: an alarm is a score of at least this much; a row without one is lost to the detector.
    """

    score: Callable[[Tensor], Tensor]
    threshold: float = 0.5

    def __call__(self, z: Tensor, /) -> Tensor:
        return self.threshold - self.score(z)

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """The value `[B]` and whether each row raises no alarm `[B]`, from one call of the detector."""
        value = self(z)
        return value, value > 0

    def take(self, rows: Tensor, /) -> Self:
        return self


@torch.no_grad()
def search(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    queries: int = 1000,
    population: int = 10,
    rng: torch.Generator | None = None,
) -> Tensor:
    """An elitist evolutionary search among allowed points. In the spirit of MOEVA (Simonetto et al., "A unified
    framework for adversarial attack and defense in constrained feature space", 2022), and no reimplementation of it:
    there is one objective, the gain, where MOEVA, as it is commonly described, also weighs distance and violated
    constraints in a genetic algorithm of several objectives; here the threat settles those before a point is tried.

    The first generation is random points and corners of the ball. Then a parent, chosen by tournament and in half the
    cases crossed with another coordinate by coordinate, has one to three of its coordinates moved: all the way to the
    end of the ball, or by a step whose size is log-uniform. A mutation that the threat undoes is turned round and goes
    all the way, so that no query asks for a parent again unless the threat allows neither way. The best of parents and
    offspring live on; of equal ones the younger, so that the search drifts across the plateaus of a tree. All examples
    are tried with the same random numbers: an example's result does not depend on who is beside it.

    Args:
        gain: `z [B, d] -> [B]`. One that can judge and be narrowed (`Evasion`, `ClassifierGain`) is given a whole
            generation of all examples in one call, and a lost example leaves after the generation that lost it. Any
            other is called once for each member of a generation, with the batch as it is, and no example leaves.
        x: rows `[B, d]`, allowed themselves.
        threat: where z may be.
        queries: evaluations of the gain that an example costs, that of x included; fewer if it is lost. With 0 and 1
            the answer is x.
        population: points that live on, and points tried in a generation, at least 2. So many copies of the batch are
            held in memory.
        rng: source of all that is random, on the device of x.

    Returns:
        z `[B, d]`, allowed by the threat: what lost the example, or else the highest point tried, x included.

    Raises:
        ValueError: for a parameter out of its range, or an x that is no matrix.
        TypeError: for an x of integers.
    """
    x = floating(x)
    _check(x, queries, population)
    best = x.clone()
    if queries <= 1 or len(x) == 0:
        return best
    value, lost = _evaluated(gain, x[:, None])
    rows = torch.arange(len(x), device=x.device)
    parents = _Parents.of(x, value, population, movable(threat, x))
    left = queries - 1
    while True:
        wins = lost.any(1)
        if wins.any():
            stand = (~wins).nonzero().squeeze(1)
            rows, x, threat, parents = rows[stand], x[stand], threat.take(stand), parents.take(stand)
            gain = _narrowed(gain, stand)
        best[rows] = parents.points[:, 0]
        if left == 0 or len(rows) == 0:
            return best
        count = min(population, left)
        scatter = left == queries - 1
        z = _scattered(x, threat, count, rng) if scatter else parents.offspring(x, threat, count, rng)
        value, lost = _evaluated(gain, z)
        best[rows] = torch.where(lost.any(1, keepdim=True), _first(z, lost), best[rows])
        parents = parents.selected(z, value)
        left -= count


def movable(threat: Threat, x: Tensor) -> Tensor:
    """Which coordinates of each row may change at all, as far as the threat tells, bool `[B, d]`: those along which its
    steepest step goes, and those that it leaves changed in a point moved along all of them."""
    along = threat.steepest(torch.ones_like(x), x) != 0
    return along | (threat.project(x + threat.eps, x) != x) | (threat.project(x - threat.eps, x) != x)


@dataclass(frozen=True, eq=False)
class _Parents:
    """The P points of each example that live, the best first.

    Args:
        points: `[B, P, d]`.
        value: of the gain there `[B, P]`; -inf for places that are not filled yet, which hold x.
        order: the coordinates of each row, those that may change first, int64 `[B, d]`.
        moving: how many may change, at least 1, `[B, 1, 1]`.
    """

    points: Tensor
    value: Tensor
    order: Tensor
    moving: Tensor

    @classmethod
    def of(cls, x: Tensor, value: Tensor, population: int, may: Tensor) -> "_Parents":
        filled = value.new_full((len(x), population), -torch.inf)
        filled[:, :1] = value
        order = may.int().argsort(dim=1, descending=True, stable=True)
        points = x[:, None].expand(-1, population, -1)
        return cls(points, filled, order, may.sum(1).clamp(min=1)[:, None, None])

    def take(self, rows: Tensor) -> "_Parents":
        return _Parents(self.points[rows], self.value[rows], self.order[rows], self.moving[rows])

    def selected(self, z: Tensor, value: Tensor) -> "_Parents":
        """The best of these and of their offspring z `[B, k, d]`; of equal ones, the offspring."""
        points, values = torch.cat([z, self.points], 1), torch.cat([value, self.value], 1)
        first = values.argsort(dim=1, descending=True, stable=True)[:, : self.value.shape[1]]
        return _Parents(_gathered(points, first), values.gather(1, first), self.order, self.moving)

    def offspring(self, x: Tensor, threat: Threat, count: int, rng: torch.Generator | None) -> Tensor:
        """`[B, count, d]`, allowed."""
        b, places, d = self.points.shape
        draw = _uniform(x, rng)
        rank = (draw(count, 2, 2) * places).long().amin(2)  # tournaments of two: the better rank of each pair
        parent, mate = (self.points[:, rank[:, k]] for k in (0, 1))
        crossed = torch.where((draw(count, d) < 0.5) & (draw(count, 1) < 0.5), mate, parent)

        at = (draw(count, SLOTS) * self.moving).long().reshape(b, -1)
        at = self.order.gather(1, at).reshape(b, count, SLOTS)
        size = torch.where(draw(count, SLOTS) < 0.5, 1.0, 2.0 ** (-FINEST * draw(count, SLOTS)))
        used = draw(count, SLOTS) < 0.5 ** torch.arange(SLOTS, device=x.device)
        sign = torch.where(draw(count, SLOTS) < 0.5, -1.0, 1.0) * used
        step = (2 * threat.eps * sign * size).to(x.dtype).expand(b, -1, -1)
        z = _projected(crossed.scatter_add(2, at, step), x, threat)

        idle = (z == parent).all(2, keepdim=True) | (z == mate).all(2, keepdim=True)
        if not idle.any():
            return z
        back = (-2 * threat.eps * sign).to(x.dtype).expand(b, -1, -1)
        return torch.where(idle, _projected(crossed.scatter_add(2, at, back), x, threat), z)


def _scattered(x: Tensor, threat: Threat, count: int, rng: torch.Generator | None) -> Tensor:
    """Random points of the ball, every other one a corner, `[B, count, d]`."""
    noise = 2 * _uniform(x, rng)(count, x.shape[1]) - 1
    noise[1::2] = noise[1::2].sign()
    return _projected(x[:, None] + threat.eps * noise.to(x.dtype), x, threat)


def _uniform(x: Tensor, rng: torch.Generator | None) -> Callable[..., Tensor]:
    """Draws float32 numbers in [0, 1), the same for all examples."""
    return lambda *shape: torch.rand(shape, generator=rng, device=x.device)


def _projected(z: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Every candidate `[B, k, d]`, where the threat allows it."""
    rows = torch.arange(len(x), device=x.device).repeat_interleave(z.shape[1])
    return threat.take(rows).project(z.flatten(0, 1), x[rows]).reshape(z.shape)


def _evaluated(gain: Gain, z: Tensor) -> tuple[Tensor, Tensor]:
    """The gain of every candidate `[B, k, d]`, at least float32, and whether it loses its example: `[B, k]` each."""
    b, k = z.shape[:2]
    if isinstance(gain, JudgingGain):
        rows = torch.arange(b, device=z.device).repeat_interleave(k)
        value, lost = gain.take(rows).judge(z.flatten(0, 1))
        value, lost = value.reshape(b, k), lost.reshape(b, k)
    else:
        value = torch.stack([gain(each) for each in z.unbind(1)], 1)
        lost = torch.zeros_like(value, dtype=torch.bool)
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    return torch.where(value.isnan(), -torch.inf, value), lost


def _narrowed(gain: Gain, rows: Tensor) -> Gain:
    """Only called where an example is lost, which a gain that cannot judge never says."""
    return gain.take(rows) if isinstance(gain, JudgingGain) else gain


def _gathered(points: Tensor, at: Tensor) -> Tensor:
    """Of `[B, n, d]` the places `[B, k]`."""
    return points.gather(1, at[:, :, None].expand(-1, -1, points.shape[2]))


def _first(z: Tensor, lost: Tensor) -> Tensor:
    """The first candidate of each example that loses it, `[B, d]`."""
    return _gathered(z, lost.int().argmax(1, keepdim=True)).squeeze(1)


def _check(x: Tensor, queries: int, population: int) -> None:
    if isinstance(queries, bool) or not isinstance(queries, int) or queries < 0:
        raise ValueError(f"The 'queries' parameter must be an int in the range [0, inf). Got {queries!r} instead.")
    check_count("population", population)
    if population < 2:
        raise ValueError(
            f"The 'population' parameter must be an int in the range [2, inf). Got {population!r} instead."
        )
    if x.dim() != 2:
        raise ValueError(f"The 'x' parameter must be a matrix [B, d]. Got shape {tuple(x.shape)} instead.")
