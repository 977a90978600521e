"""HopSkipJump: walk along the decision boundary towards x, its normal estimated from decisions around a point on it."""

import torch
from torch import Tensor

from sparring.attacks.decision import Hunt, bisect, lengthen, lost_start, rounding
from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, per_example
from sparring.core.threat import Threat

HALVINGS = 20
"""How often a jump that is not lost is halved: what is left of it then, a millionth, moves nothing."""


def hop_skip_jump(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 50,
    queries: int = 25_000,
    initial_evaluations: int = 100,
    max_evaluations: int = 10_000,
    gamma: float = 1.0,
    tries: int = 100,
    start: Tensor | None = None,
    chunk: int = 1024,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The nearest lost point in the threat's norm, found from decisions alone.

    Chen, Jordan & Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", 2020, algorithm 2. From a
    point z_{t-1} on the boundary at distance D and with d the number of coordinates, step t estimates the boundary's
    normal from B_0 sqrt(t) decisions at Euclidean distance delta = gamma D / d around it (eq. 9 with the baseline of
    eq. 16), jumps D / sqrt(t) along the norm's steepest direction, halving the jump until it is lost (section IV-C),
    and bisects back to x until the change of the decision is located within delta / sqrt(d).

    For d coordinates of the maximum and the Euclidean norm, that is the paper's delta and theta. Departs from it in
    taking the same delta in the first step, in Gaussian directions for every norm, and in a delta no smaller than what
    the dtype of x resolves.

    Args:
        gain: judges `z [B, ...]`; only whether an example is lost is used.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: a ball: its norm and box; its eps matters to early_stop only.
        steps: at most so many estimates of the normal.
        queries: at most so many decisions for each example, that at x included. An estimate that they do not pay for is
            not begun: a larger number continues the same run.
        initial_evaluations: B_0, decisions in the first estimate.
        max_evaluations: at most so many in any.
        gamma: widens delta, and with it the tolerance of the bisection.
        tries: random starting points to try.
        start: lost points to start from `[B, ...]`; random ones by default, and where these are not lost.
        chunk: at most so many points in memory and in one call of the gain.
        early_stop: leave out an example once its nearest lost point is inside the threat.
        rng: source of the random starts and directions, on x's device.

    Returns:
        z `[B, ...]`: of all points asked about, the lost one nearest to x; x itself where it is lost or none was found.

    Raises:
        ValueError: for a parameter out of its range, or an infinite box without a start.
        TypeError: for a gain that cannot judge, or a threat that is no ball.
    """
    for name, value in (("steps", steps), ("initial_evaluations", initial_evaluations)):
        check_count(name, value)
    check_count("max_evaluations", max_evaluations)
    check_positive("gamma", gamma)
    hunt = Hunt.of(gain, x, threat, queries=queries, chunk=chunk, early_stop=early_stop, rng=rng)
    rows, z = lost_start(hunt, start, tries)
    if len(rows) == 0:
        return hunt.best
    d = z[0].numel()
    z = bisect(hunt, rows, z, gamma / d**1.5)
    for t in range(1, steps + 1):
        count = min(int(initial_evaluations * t**0.5), max_evaluations)
        go = hunt.open(rows, count + 1)
        rows, z = rows[go], z[go]
        if len(rows) == 0:
            break
        far = hunt.distance(rows, z)
        normal = _normal(hunt, rows, z, torch.maximum(gamma * far / d, 4 * rounding(z)), count)
        direction = hunt.threat.take(rows).steepest(normal, z.to(normal.dtype))
        z = _jump(hunt, rows, z, direction, far / t**0.5)
        z = bisect(hunt, rows, z, gamma / d**1.5)
    return hunt.best


def _normal(hunt: Hunt, rows: Tensor, z: Tensor, delta: Tensor, count: int) -> Tensor:
    """The estimated normal of the boundary at z `[R, ...]`, towards the lost side, from so many decisions each.

    The groups of examples and the blocks of points depend on `count` and `chunk` alone, never on who is in the batch.
    """
    parts = [
        _normal_of(hunt, rows[part], z[part], delta[part], count)
        for part in torch.arange(len(rows), device=z.device).split(max(1, hunt.chunk // count))
    ]
    return torch.cat(parts)


def _normal_of(hunt: Hunt, rows: Tensor, z: Tensor, delta: Tensor, count: int) -> Tensor:
    r = len(rows)
    phi_u = u_sum = phi_sum = torch.zeros((), device=z.device)
    for first in range(0, count, hunt.chunk):
        k = min(hunt.chunk, count - first)
        around = z.repeat_interleave(k, 0)
        u = hunt.gaussian(rows, k).flatten(0, 1)
        u = lengthen(u, delta.repeat_interleave(k))
        points = hunt.boxed(around + u)
        u = (points.to(u.dtype) - around).unflatten(0, (r, k))  # as the box and the dtype of x let it be
        phi = hunt.lost(rows.repeat_interleave(k), points).to(u.dtype).mul_(2).sub_(1).reshape(r, k)
        phi_u = phi_u + (per_example(phi.flatten(), u.flatten(0, 1)).unflatten(0, (r, k)) * u).sum(1)
        u_sum, phi_sum = u_sum + u.sum(1), phi_sum + phi.sum(1)
    mean = phi_sum / count
    one_sided = per_example(mean.abs() == 1, z)
    normal = torch.where(one_sided, phi_u, phi_u - per_example(mean, z) * u_sum)
    return lengthen(normal, torch.ones_like(delta))


def _jump(hunt: Hunt, rows: Tensor, z: Tensor, direction: Tensor, size: Tensor) -> Tensor:
    """The first lost of z + size direction, z + size/2 direction, ...; z where none is `[R, ...]`."""
    landed = z.clone()
    i = torch.arange(len(rows), device=z.device)
    for _ in range(HALVINGS):
        i = i[hunt.open(rows[i])]
        if len(i) == 0:
            break
        points = hunt.boxed(z[i] + per_example(size[i].to(direction.dtype), z) * direction[i])
        yes = hunt.lost(rows[i], points)
        landed[i[yes]] = points[yes]
        i = i[~yes]
        size = size / 2
    return landed
