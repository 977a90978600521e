"""Auto-PGD: projected steepest ascent with momentum that chooses its own step size, example by example.

Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", 2020.
"""

import math
from functools import partial

import torch
from torch import Tensor

from sparring.attacks.apgd_l1 import apgd_l1, is_l1
from sparring.attacks.climb import Climb, repeated
from sparring.core.gain import Gain
from sparring.core.standing import check_count, floating, per_example
from sparring.core.threat import Threat


def apgd(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    rho: float = 0.75,
    momentum: float = 0.75,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD, Algorithm 1 of the paper. It starts with steps of 2 eps; at fixed checkpoints, an example whose gain
    rose too rarely (condition 1), or stood still at a step size that it has had since the last one (condition 2),
    halves its step and goes on from its best point.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be. On an L1 ball `sparring.attacks.apgd_l1` answers, for which steepest steps of a fixed
            sparsity are weak; it has no `rho` and no `momentum`.
        steps: gradient steps of each restart; one forward pass more values the last iterate.
        restarts: independent runs from random points; each example keeps the best of them.
        rho: the share of steps between two checkpoints that has to raise the gain, in (0, 1].
        momentum: the paper's alpha, in (0, 1]: how much of the move is the new step, the rest being the last move.
        early_stop: leave out examples that are already lost; needs a gain that can judge.
        rng: source of the random starts.

    Returns:
        z `[B, ...]`, allowed by the threat: of each example's start and iterates, the one with the highest gain; with
        `early_stop` the first that is lost.

    Raises:
        DeadStartError: when no example's gradient at the first start is above rounding level.
    """
    x = floating(x)
    check_count("steps", steps)
    check_count("restarts", restarts)
    for name, share in (("rho", rho), ("momentum", momentum)):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"The {name!r} parameter must be a number in the range (0, 1]. Got {share!r} instead.")
    if is_l1(threat):
        return apgd_l1(gain, x, threat, steps=steps, restarts=restarts, early_stop=early_stop, rng=rng)
    if len(x) == 0:
        return x
    run = partial(_run, steps=steps, rho=rho, momentum=momentum, early_stop=early_stop)
    return repeated(run, restarts, early_stop=early_stop)(gain, x, threat, rng=rng)


def checkpoints(steps: int) -> list[int]:
    """The steps w_j = ceil(p_j steps) after which step sizes are reconsidered, with p_0 = 0, p_1 = 0.22 and
    p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06) (section 3.1 of the paper), up to the last but one."""
    before, p, found = 0, 22, []  # in hundredths, which add up exactly
    while p < 100:
        found.append(math.ceil(p * steps / 100))
        before, p = p, p + max(p - before - 3, 6)
    return sorted({w for w in found if w < steps})


def _run(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    /,
    *,
    steps: int,
    rho: float,
    momentum: float,
    early_stop: bool,
    may_be_dead: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    start = threat.sample(x, rng)
    climb = Climb.start(gain, x, threat, start, early_stop=early_stop, may_be_dead=may_be_dead)
    eta = torch.full((len(x),), 2 * threat.eps, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    rises = torch.zeros(len(x), device=x.device)
    kept = torch.ones_like(rises, dtype=torch.bool)  # the step size has been the same since the last checkpoint
    f_max, before, last = climb.record, start, 0
    w = checkpoints(steps)
    for k in range(1, steps + 1):
        stand = climb.narrow()
        eta, rises, kept, f_max, before = eta[stand], rises[stand], kept[stand], f_max[stand], before[stand]
        if len(climb) == 0:
            return climb.result()
        here, value = climb.z, climb.value
        z = _project(climb, here + per_example(eta, here) * climb.threat.steepest(climb.gradient, here))
        alpha = momentum if k > 1 else 1.0
        if alpha < 1:
            z = _project(climb, here + alpha * (z - here) + (1 - alpha) * (here - before))
        before = here
        climb.visit(z, with_gradient=k < steps)
        rises = rises + (climb.value > value)
        if k in w:
            halve = (rises < rho * (k - last)) | (kept & (climb.record == f_max))
            eta = torch.where(halve, eta / 2, eta)
            climb.goto_top(halve)
            rises, kept, f_max, last = torch.zeros_like(rises), ~halve, climb.record, k
    climb.narrow()
    return climb.result()


def _project(climb: Climb, z: Tensor) -> Tensor:
    return climb.threat.project(z.to(climb.x.dtype), climb.x)
