"""The worst of many points spread over a threat of few coordinates, such as an angle and two shifts."""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparring.core.gain import Gain
from sparring.core.standing import check_count, floating, judged, judging, keep
from sparring.core.threat import Threat, flat

MOST = 100_000
"""Points of the largest grid that is not taken for a mistake."""


def grid(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    points: int | Sequence[int] = 5,
    samples: int | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The point with the highest gain of a regular grid, or of random points; lost examples leave.

    Engstrom et al., "Exploring the landscape of spatial robustness", 2019: for rotations and translations gradients
    miss what a grid of 31 angles by 5 x 5 shifts finds (`points=(31, 5, 5)`); the worst of ten random points
    (`samples=10`) is what they train against.

    The grid spans the box between the two points that `threat.steepest` reaches from x with a step of eps along all
    coordinates up and all down: all of a `Box` or of `Linf`, the largest cube with these corners inside other balls.
    Points are projected onto the threat, and tried from the outside in, since the worst is more often far out. x is
    tried first. At most one forward pass more than there are points; an example that is lost spends no more.

    Args:
        gain: `z [B, ...] -> [B]`, one that can judge.
        x: clean inputs, or the origin of parameters, `[B, ...]`.
        threat: where z may be; of few coordinates, unless `samples` is given.
        points: on each axis, both ends included (1: the middle); or one number per coordinate of an example, in order.
        samples: this many draws of `threat.sample` instead of a grid.
        rng: source of the draws.

    Returns:
        z `[B, ...]`, allowed by the threat.

    Raises:
        ValueError: for a grid of more than a hundred thousand points, or a sequence that is not as long as an example.
        TypeError: for a gain that cannot judge.
    """
    x = floating(x)
    if samples is not None:
        check_count("samples", samples)
    standing = judging(gain)
    if len(x) == 0:
        return x
    offsets = None if samples is not None else _offsets(points, flat(x).shape[1])
    value, lost, _ = judged(standing, x, with_gradient=False)
    best, record = x.clone(), value
    rows = (~lost).nonzero().squeeze(1)
    here, around = standing.take(rows), threat.take(rows)
    up, down = _corners(threat, x)
    for offset in itertools.repeat(None, samples or 0) if offsets is None else offsets:
        if len(rows) == 0:
            break
        centre = x[rows]
        if offset is None:
            z = around.sample(centre, rng)
        else:
            share = torch.tensor(offset, device=x.device, dtype=x.dtype).reshape(x.shape[1:])
            z = around.project(centre + torch.where(share > 0, share * up[rows], -share * down[rows]), centre)
        value, lost, _ = judged(here, z, with_gradient=False)
        record = keep(z, value, lost, rows, best, record)
        if lost.any():
            left = (~lost).nonzero().squeeze(1)
            rows, here, around = rows[left], here.take(left), around.take(left)
    return best


def _offsets(points: int | Sequence[int], axes: int) -> Iterator[tuple[float, ...]]:
    """The grid's points in [-1, 1]^axes, from the outside in."""
    counts = [points] * axes if isinstance(points, int) else list(points)
    for count in counts:
        check_count("points", count)
    if len(counts) != axes:
        raise ValueError(
            f"The 'points' parameter must be an int or one int for each of {axes} coordinates. Got {points!r} instead."
        )
    if math.prod(counts) > MOST:
        raise ValueError(
            f"The 'points' parameter must give a grid of at most {MOST} points. Got {points!r} for {axes} coordinates, "
            "which is more; 'samples' tries random points instead."
        )
    lines = [[2 * i / (count - 1) - 1 for i in range(count)] if count > 1 else [0.0] for count in counts]
    return iter(sorted(itertools.product(*lines), key=lambda offset: -sum(map(abs, offset))))


def _corners(threat: Threat, x: Tensor) -> tuple[Tensor, Tensor]:
    """From x to the point with all coordinates up, and all down."""
    ends = (x + side * threat.eps * threat.steepest(torch.full_like(x, side), x).abs() for side in (1.0, -1.0))
    up, down = (threat.project(end, x) - x for end in ends)
    return up, down
