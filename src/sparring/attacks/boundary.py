"""The boundary attack: a random walk on the lost side of the decision boundary that drifts towards x."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from sparring.attacks.decision import Hunt, bisect, lengthen, lost_start
from sparring.core.gain import Gain
from sparring.core.standing import check_positive, per_example
from sparring.core.threat import Threat, flat, norm

PERIOD = 5
"""Steps between two questions about the sideways step alone."""
WINDOW = 10
"""Answers after which a step size is adapted."""
SIDEWAYS, INWARDS = (0.2, 0.5), (0.1, 0.25)
"""A step size grows above the second share of lost answers and shrinks below the first."""
CONVERGED = 1e-7
"""A step towards x by a smaller share of the distance ends the walk."""


def boundary(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    queries: int = 25_000,
    spherical_step: float = 0.01,
    source_step: float = 0.01,
    step_adaptation: float = 1.5,
    tries: int = 100,
    start: Tensor | None = None,
    chunk: int = 1024,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The nearest lost point in the Euclidean norm, found from decisions alone.

    Brendel, Rauber & Bethge, "Decision-based adversarial attacks: reliable attacks against black-box machine learning
    models", 2018, algorithm 1. From a lost z at Euclidean distance D, each step goes spherical_step D sideways, back
    onto the sphere, then source_step D towards x, and is kept if it is lost. Every fifth step also asks about the
    sideways step alone. Each example adapts its own two step sizes by the share of lost answers: sideways steps should
    be lost in half of the cases, whole steps in a quarter (section 2.3). The walk starts where a bisection of the
    segment from the starting point to x crosses the boundary, which the paper leaves to the walk.

    Args:
        gain: judges `z [B, ...]`; only whether an example is lost is used.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: a ball: its norm says which lost point is nearest, though the walk's geometry is Euclidean in any; its
            eps matters to early_stop only.
        queries: at most so many decisions for each example, that at x included; a larger number continues the same
            run.
        spherical_step: the first sideways step, in parts of D, above 0.
        source_step: the first step towards x, in parts of D, in (0, 1).
        step_adaptation: the factor by which a step size grows or shrinks, above 1.
        tries: random starting points to try.
        start: lost points to start from `[B, ...]`; random ones by default, and where these are not lost.
        chunk: at most so many points in one call of the gain.
        early_stop: leave out an example once its nearest lost point is inside the threat.
        rng: source of the random starts and steps, on x's device.

    Returns:
        z `[B, ...]`: of all points asked about, the lost one nearest to x; x itself where it is lost or none was found.

    Raises:
        ValueError: for a parameter out of its range, or an infinite box without a start.
        TypeError: for a gain that cannot judge, or a threat that is no ball.
    """
    check_positive("spherical_step", spherical_step)
    _check_open("source_step", source_step, 0, 1)
    _check_open("step_adaptation", step_adaptation, 1, float("inf"))
    hunt = Hunt.of(gain, x, threat, queries=queries, chunk=chunk, early_stop=early_stop, rng=rng)
    rows, z = lost_start(hunt, start, tries)
    z = bisect(hunt, rows, z, 0.01)
    walk = Walk.of(rows, z, spherical_step, source_step)
    step = 0
    while True:
        keep = hunt.open(walk.rows) & (walk.source.size >= CONVERGED)
        if not keep.any():
            return hunt.best
        if not keep.all():
            walk = walk.take(keep)
        if step % PERIOD == 0:
            walk.noise = hunt.gaussian(walk.rows, PERIOD)
        _step(hunt, walk, step % PERIOD, step_adaptation)
        step += 1


@dataclass
class Pace:
    """A step size in parts of the distance, and the answers since it was last adapted, each `[R]`."""

    size: Tensor
    asked: Tensor
    yes: Tensor

    @classmethod
    def of(cls, size: float, like: Tensor) -> "Pace":
        return cls(torch.full_like(like, size), torch.zeros_like(like), torch.zeros_like(like))

    def take(self, keep: Tensor) -> "Pace":
        return Pace(self.size[keep], self.asked[keep], self.yes[keep])

    def learn(self, yes: Tensor, band: tuple[float, float], adaptation: float, most: float) -> None:
        """Count an answer of each, and adapt where a window is full."""
        self.asked, self.yes = self.asked + 1, self.yes + yes
        full, share = self.asked >= WINDOW, self.yes / self.asked
        self.size = torch.where(full & (share > band[1]), self.size * adaptation, self.size)
        self.size = torch.where(full & (share < band[0]), self.size / adaptation, self.size).clamp(max=most)
        self.asked, self.yes = self.asked.masked_fill(full, 0), self.yes.masked_fill(full, 0)


@dataclass
class Walk:
    """Where each example `[R]` of the hunt stands, how it steps, and the noise of the steps of this period."""

    rows: Tensor
    z: Tensor
    spherical: Pace
    source: Pace
    noise: Tensor

    @classmethod
    def of(cls, rows: Tensor, z: Tensor, spherical_step: float, source_step: float) -> "Walk":
        like = torch.zeros(len(rows), device=z.device, dtype=torch.float64)
        return cls(rows, z, Pace.of(spherical_step, like), Pace.of(source_step, like), z[:, None])

    def take(self, keep: Tensor) -> Self:
        return type(self)(
            self.rows[keep], self.z[keep], self.spherical.take(keep), self.source.take(keep), self.noise[keep]
        )


def _step(hunt: Hunt, walk: Walk, turn: int, adaptation: float) -> None:
    noise = walk.noise[:, turn]
    x = hunt.x[walk.rows].to(noise.dtype)
    d = walk.z.to(noise.dtype) - x
    far = norm(d, 2)
    along = (flat(noise) * flat(d)).sum(1) / far.square().clamp(min=torch.finfo(d.dtype).tiny)
    aside = d + lengthen(noise - per_example(along.to(d.dtype), d) * d, walk.spherical.size * far)
    sphere = hunt.boxed(x + lengthen(aside, far))
    if turn == 0:
        walk.spherical.learn(hunt.lost(walk.rows, sphere), SIDEWAYS, adaptation, most=1.0)
    d = sphere.to(x.dtype) - x
    nearer = torch.minimum(norm(d, 2), (1 - walk.source.size) * far)
    inside = hunt.boxed(x + lengthen(d, nearer))
    yes = hunt.lost(walk.rows, inside)
    walk.source.learn(yes, INWARDS, adaptation, most=0.5)
    walk.z = torch.where(per_example(yes, inside), inside, walk.z)


def _check_open(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise ValueError(
            f"The {name!r} parameter must be a number in the range ({low:g}, {high:g}). Got {value!r} instead."
        )
