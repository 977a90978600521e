"""Steepest ascent on a gain: one step (FGSM) or many (PGD), the attacks that training uses.

With `early_stop`, examples that are already lost leave the batch at once, which needs a gain that can judge
(`sparring.core.gain.ClassifierGain`); it reads the device once a step and is meant for evaluation, not training.
"""

import warnings
from functools import partial

import torch
from torch import Tensor

from sparring.core.attack import best_of
from sparring.core.gain import Gain, JudgingGain
from sparring.core.gradient import value_and_gradient
from sparring.core.standing import (
    alive_start,
    better,
    check_count,
    check_positive,
    floating,
    judged,
    judging,
    keep,
    refuse_dead,
)
from sparring.core.threat import Threat


class ShortAttackWarning(UserWarning):
    """steps x step_size is less than eps."""


def fgsm(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    step_size: float | None = None,
    random_start: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """One steepest step. Goodfellow et al., "Explaining and harnessing adversarial examples", 2015; with
    `random_start` Wong et al., "Fast is better than free", 2020.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be.
        step_size: in input units; by default eps, and 1.25 eps after a random start (Wong et al.).
        random_start: start from a random allowed point instead of x.
        rng: source of the random start.

    Returns:
        z `[B, ...]`, allowed by the threat.
    """
    x = floating(x)
    if step_size is None:
        step_size = threat.eps * (1.25 if random_start else 1.0)
    check_positive("step_size", step_size)
    start = threat.sample(x, rng) if random_start else x
    _, gradient = value_and_gradient(gain, start)
    return threat.project(start + step_size * threat.steepest(gradient, start), x)


def pgd(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    early_stop: bool = False,
    keep_best: bool = True,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Projected steepest ascent, z <- project(z + step_size steepest(gradient)), keeping each example's best iterate.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be.
        steps: gradient steps; to keep the best, one forward pass more values the last iterate.
        step_size: in input units; by default 2.5 eps / steps, which can cross the ball from any start in it. Where
            steps x step_size is less than eps, a ShortAttackWarning says so.
        random_start: start from a random allowed point instead of x.
        restarts: independent runs; each example keeps the best of them.
        early_stop: leave out examples that are already lost; needs a gain that can judge.
        keep_best: return each example's best iterate; otherwise the last, as training does: one forward pass cheaper,
            and the move moves with the model.
        rng: source of the random starts.

    Returns:
        z `[B, ...]`, allowed by the threat: of the start and all iterates, the one with the highest gain, or the last.

    Raises:
        DeadStartError: when no example's gradient at the start is above rounding level, as with a KL gain started at
            its own reference or a saturated softmax.
    """
    x = floating(x)
    check_count("steps", steps)
    check_count("restarts", restarts)
    if step_size is None:
        step_size = 2.5 * threat.eps / steps
    check_positive("step_size", step_size)
    if steps * step_size < threat.eps * (1 - 1e-9):
        warnings.warn(
            f"pgd cannot cross the ball: {steps} steps of {step_size:g} are shorter than eps {threat.eps:g}, so what "
            "it finds is weak by construction. Raise 'steps' or 'step_size' (the default is 2.5 eps / steps).",
            ShortAttackWarning,
            stacklevel=2,
        )
    if not keep_best and (early_stop or restarts > 1):
        raise ValueError("'keep_best' must be true with 'early_stop' or 'restarts', which choose between iterates.")
    if len(x) == 0:
        return x
    if not keep_best:
        return _ascend_to_the_last(gain, x, threat, steps, step_size, random_start, rng)
    ascend = partial(_ascend, steps=steps, step_size=step_size, random_start=random_start, early_stop=early_stop)
    if restarts == 1:
        return ascend(gain, x, threat, rng=rng)
    again = partial(ascend, may_be_dead=early_stop)  # what an alive run leaves standing may well be saturated
    return best_of(ascend, *(again,) * (restarts - 1), early_stop=early_stop)(gain, x, threat, rng=rng)


def _ascend(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    /,
    *,
    steps: int,
    step_size: float,
    random_start: bool,
    early_stop: bool,
    rng: torch.Generator | None,
    may_be_dead: bool = False,
) -> Tensor:
    if early_stop:
        return _ascend_standing(judging(gain), x, threat, steps, step_size, random_start, may_be_dead, rng)
    best = z = threat.sample(x, rng) if random_start else x
    record = torch.full((x.shape[0],), -torch.inf, device=x.device)
    alive = torch.zeros((), dtype=torch.bool, device=x.device)
    for step in range(steps):
        value, gradient = value_and_gradient(gain, z)
        if step == 0:
            alive = alive_start(gradient)
        best, record = better(z, value, best, record)
        z = threat.project(z + step_size * threat.steepest(gradient, z), x)
    with torch.no_grad():
        best, record = better(z, gain(z), best, record)
    refuse_dead(alive)  # read once, after the loop: nothing inside it waits for the device
    return best


def _ascend_to_the_last(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    steps: int,
    step_size: float,
    random_start: bool,
    rng: torch.Generator | None,
) -> Tensor:
    z = threat.sample(x, rng) if random_start else x
    alive = torch.zeros((), dtype=torch.bool, device=x.device)
    for step in range(steps):
        _, gradient = value_and_gradient(gain, z)
        if step == 0:
            alive = alive_start(gradient)
        z = threat.project(z + step_size * threat.steepest(gradient, z), x)
    refuse_dead(alive)
    return z


def _ascend_standing(
    gain: JudgingGain,
    x: Tensor,
    threat: Threat,
    steps: int,
    step_size: float,
    random_start: bool,
    may_be_dead: bool,
    rng: torch.Generator | None,
) -> Tensor:
    """`_ascend` on the examples that still stand: one that is lost keeps the z that lost it."""
    z = threat.sample(x, rng) if random_start else x
    best, record = z.clone(), torch.full((x.shape[0],), -torch.inf, device=x.device)
    rows = torch.arange(x.shape[0], device=x.device)
    for step in range(steps + 1):
        value, lost, gradient = judged(gain, z, with_gradient=step < steps)
        if step == 0:
            refuse_dead(alive_start(gradient) | lost.any() | may_be_dead)
        record = keep(z, value, lost, rows, best, record)
        stand = (~lost).nonzero().squeeze(1)
        if len(stand) == 0 or step == steps:
            break
        if len(stand) < len(rows):
            rows, z, gradient, x = rows[stand], z[stand], gradient[stand], x[stand]
            gain, threat = gain.take(stand), threat.take(stand)
        z = threat.project(z + step_size * threat.steepest(gradient, z), x)
    return best
