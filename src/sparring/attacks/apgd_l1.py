"""Auto-PGD in L1 balls: steps along few coordinates, about as many as the best point so far has moved.

Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", 2021. It departs from the
paper in passing over coordinates that the box holds, and in its last tenth of the steps, which are conditional
gradient steps (Frank & Wolfe, "An algorithm for quadratic programming", 1956): equal shares on several coordinates
stand still short of the maximum where the box is active, and these reach it.
"""

from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor

from sparring.attacks.climb import Climb, repeated
from sparring.core.compose import Masked
from sparring.core.gain import Gain
from sparring.core.standing import check_count, floating, per_example
from sparring.core.threat import L1, Threat, flat

SHRINK = 1.5
"""By how much the step size falls, and how many times fewer coordinates are stepped along than have moved."""
SLOWEST = 10.0
"""The smallest step is eps divided by this."""
SPARSER = 0.95
"""A best point with fewer than this share of the coordinates it had at the last checkpoint starts the steps afresh."""


def is_l1(threat: Threat) -> TypeGuard[L1 | Masked]:
    """Whether the threat is an L1 ball, or one cut to part of the input."""
    return isinstance(threat, L1) or (isinstance(threat, Masked) and is_l1(threat.threat))


def apgd_l1(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD for L1, Algorithm 1 of the paper, on a schedule of three radii (its section 3.2): 30 % of the steps in
    the ball of 3 eps, 30 % in that of 2 eps, the rest in that of eps, each from the best point of the one before.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: an `L1` ball, or one that is `Masked`; its own sparsity is not used.
        steps: gradient steps of each restart over all three radii; at most three forward passes more value the starts.
        restarts: independent runs from random points; each example keeps the best of them.
        early_stop: leave out examples that are already lost inside eps; needs a gain that can judge.
        rng: source of the random starts.

    Returns:
        z `[B, ...]`, allowed by the threat: of the points within eps that each example saw, the one with the highest
        gain; with `early_stop` the first that is lost.

    Raises:
        TypeError: when the threat is no L1 ball.
        DeadStartError: when no example's gradient at the first start is above rounding level.
    """
    x = floating(x)
    check_count("steps", steps)
    check_count("restarts", restarts)
    if not is_l1(threat):
        raise TypeError(f"apgd_l1 needs an L1 threat, or a Masked one. Got {type(threat).__name__}; use apgd.")
    if len(x) == 0:
        return x
    run = partial(_run, steps=steps, early_stop=early_stop)
    return repeated(run, restarts, early_stop=early_stop)(gain, x, threat, rng=rng)


def schedule(steps: int) -> list[tuple[float, int]]:
    """The factors of eps and the steps at each, those with none left out."""
    final = max(1, round(0.4 * steps))
    wide = (steps - final + 1) // 2
    return [(factor, n) for factor, n in ((3.0, wide), (2.0, steps - final - wide), (1.0, final)) if n]


def _run(
    gain: Gain,
    x: Tensor,
    threat: L1 | Masked,
    /,
    *,
    steps: int,
    early_stop: bool,
    may_be_dead: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    *wider, (_, final) = schedule(steps)
    polish = max(1, round(0.1 * steps))
    z = x + torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
    for factor, n in wider:
        ball = threat.scaled(factor)
        climb = Climb.start(gain, x, ball, ball.project(z, x), early_stop=False, may_be_dead=may_be_dead)
        z = _sparse(climb, n).result()
        may_be_dead = True
    start = threat.project(z, x)
    climb = Climb.start(gain, x, threat, start, early_stop=early_stop, may_be_dead=may_be_dead)
    return _conditional(_sparse(climb, max(0, final - polish)), min(final, polish)).result()


def _sparse(climb: Climb, steps: int) -> Climb:
    """Steps of one radius; every 4 % of them the step size shrinks, or starts afresh where the best became sparser."""
    every, eps = max(1, int(0.04 * steps)), climb.threat.eps
    wide = torch.promote_types(climb.x.dtype, torch.float32)
    eta = torch.full((len(climb),), eps, dtype=wide, device=climb.x.device)
    moved = _moved(climb.z, climb.x)
    k = moved / SHRINK
    for step in range(1, steps + 1):
        stand = climb.narrow()
        eta, k, moved = eta[stand], k[stand], moved[stand]
        if len(climb) == 0:
            break
        direction = sparse_ascent(climb.gradient, climb.z, climb.threat, k)
        z = climb.z + per_example(eta, climb.z) * direction
        climb.visit(climb.threat.project(z.to(climb.x.dtype), climb.x))
        if step % every == 0:
            now = _moved(climb.top, climb.x)
            afresh = now < SPARSER * moved
            eta = torch.where(afresh, eps, (eta / SHRINK).clamp(min=eps / SLOWEST))
            climb.goto_top(afresh)
            k, moved = now / SHRINK, now
    return climb


def _conditional(climb: Climb, steps: int) -> Climb:
    """z <- z + 2 / (i + 2) (maximiser of the linearised gain - z) for i = 0, 1, ..., from each example's best point."""
    climb.narrow()
    climb.goto_top(torch.ones_like(climb.record, dtype=torch.bool))
    for i in range(steps):
        if len(climb) == 0:
            break
        z = climb.z + 2 / (i + 2) * (highest(climb.gradient, climb.x, climb.threat) - climb.z)
        climb.visit(climb.threat.project(z, climb.x), with_gradient=i < steps - 1)
        climb.narrow()
    return climb


def sparse_ascent(gradient: Tensor, z: Tensor, threat: Threat, k: Tensor) -> Tensor:
    """Equal shares, of sum one, on each example's k `[B]` largest gradients, rounded down but at least one, passing
    over coordinates that cannot move."""
    ball, gradient = _open(threat, gradient)
    blocked = ((z <= ball.low) & (gradient < 0)) | ((z >= ball.high) & (gradient > 0))
    size = flat(gradient.abs().masked_fill(blocked, 0.0))
    rank = size.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = ((rank < k.floor().clamp(min=1)[:, None]) & (size > 0)).to(gradient.dtype)
    share = chosen / chosen.sum(1, keepdim=True).clamp(min=1)
    return share.reshape(gradient.shape) * gradient.sign()


def highest(gradient: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The allowed point where a linear gain is highest: the largest gradients first, each as far as the box lets it."""
    ball, gradient = _open(threat, gradient)
    size, order = flat(gradient.abs()).sort(dim=1, descending=True)
    wide = torch.promote_types(x.dtype, torch.float32)  # a sum over all coordinates
    room = flat(torch.where(gradient >= 0, ball.high - x, x - ball.low)).gather(1, order).to(wide)
    spent = room.clamp(max=ball.eps).cumsum(1) - room.clamp(max=ball.eps)  # before each; no box is infinite room
    move = torch.minimum(room, (ball.eps - spent).clamp(min=0)) * (size > 0)
    return x + torch.zeros_like(move).scatter(1, order, move).to(x.dtype).reshape(x.shape) * gradient.sign()


def _open(threat: Threat, gradient: Tensor) -> tuple[L1, Tensor]:
    """The ball inside any masks, and the gradient without what they hold."""
    while isinstance(threat, Masked):
        gradient = torch.where(threat.mask.to(gradient.device).bool(), gradient, 0.0)
        threat = threat.threat
    assert isinstance(threat, L1)
    return threat, gradient


def _moved(z: Tensor, x: Tensor) -> Tensor:
    """How many coordinates differ, `[B]`."""
    return flat(z != x).sum(1).to(torch.float32)
