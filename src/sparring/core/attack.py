"""Attacks: pure functions `(gain, x, threat, ..., rng) -> z` that look for an allowed z where the gain is high.

They see no model and no label, so one `pgd` serves pixels, embeddings, flows and spectrograms. Bind hyper-parameters
with `functools.partial`; combine attacks with `restarts`, `best_of` and `each_member`, which take attacks and return
one. With `early_stop`, examples that are already lost leave the batch at once, which needs a gain that can judge
(`sparring.core.gain.ClassifierGain`); it reads the device once a step and is meant for evaluation, not training.
"""

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sparring.core.compose import Union
from sparring.core.gain import Gain, JudgingGain
from sparring.core.gradient import value_and_gradient
from sparring.core.threat import Threat


class Attack(Protocol):
    """What every attack looks like once its hyper-parameters are bound."""

    def __call__(self, gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor: ...


class DeadStartError(ValueError):
    """The gradient at an attack's start is at rounding level for every example: following it would follow noise."""


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
    x = _start(x)
    if step_size is None:
        step_size = threat.eps * (1.25 if random_start else 1.0)
    _check_positive("step_size", step_size)
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
    rng: torch.Generator | None = None,
) -> Tensor:
    """Projected steepest ascent, z <- project(z + step_size steepest(gradient)), keeping each example's best iterate.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be.
        steps: gradient steps; one forward pass more values the last iterate.
        step_size: in input units; by default 2.5 eps / steps, which can cross the ball from any start in it.
        random_start: start from a random allowed point instead of x.
        restarts: independent runs; each example keeps the best of them.
        early_stop: leave out examples that are already lost; needs a gain that can judge.
        rng: source of the random starts.

    Returns:
        z `[B, ...]`, allowed by the threat: of the start and all iterates, the one with the highest gain.

    Raises:
        DeadStartError: when no example's gradient at the start is above rounding level, as with a KL gain started at
            its own reference or a saturated softmax.
    """
    x = _start(x)
    _check_count("steps", steps)
    _check_count("restarts", restarts)
    if step_size is None:
        step_size = 2.5 * threat.eps / steps
    _check_positive("step_size", step_size)
    ascend = partial(_ascend, steps=steps, step_size=step_size, random_start=random_start, early_stop=early_stop)
    if len(x) == 0:
        return x
    if restarts == 1:
        return ascend(gain, x, threat, rng=rng)
    again = partial(ascend, may_be_dead=early_stop)  # what an alive run leaves standing may well be saturated
    return _best(gain, x, threat, (ascend, *(again,) * (restarts - 1)), early_stop, rng)


def best_of(*attacks: Attack, early_stop: bool = False) -> Attack:
    """The attack that runs each of these and keeps, for each example, the z with the highest gain.

    With `early_stop` an example that one attack has won is not attacked again.
    """
    if not attacks:
        raise ValueError("best_of needs at least one attack. Got none.")

    def attack(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        return _best(gain, x, threat, attacks, early_stop, rng)

    return attack


def restarts(attack: Attack, count: int, *, early_stop: bool = False) -> Attack:
    """The attack run `count` times with fresh randomness, keeping each example's best."""
    _check_count("count", count)
    return best_of(*(attack,) * count, early_stop=early_stop)


def each_member(attack: Attack) -> Attack:
    """The attack run on every member of a `Union` in turn, keeping each example's best; on any other threat, itself.

    The "max" strategy of Tramer & Boneh, "Adversarial training and robustness for multiple perturbations", 2019.
    """

    def attack_members(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        if not isinstance(threat, Union):
            return attack(gain, x, threat, rng=rng)

        def against(member: Threat) -> Attack:
            return lambda gain, x, _, /, *, rng=None: attack(gain, x, member, rng=rng)

        return _best(gain, x, threat, tuple(against(member) for member in threat.members), False, rng)

    return attack_members


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
        return _ascend_standing(_judging(gain), x, threat, steps, step_size, random_start, may_be_dead, rng)
    best = z = threat.sample(x, rng) if random_start else x
    record = torch.full((x.shape[0],), -torch.inf, device=x.device)
    alive = torch.zeros((), dtype=torch.bool, device=x.device)
    for step in range(steps):
        value, gradient = value_and_gradient(gain, z)
        if step == 0:
            alive = _alive(gradient)
        best, record = _better(z, value, best, record)
        z = threat.project(z + step_size * threat.steepest(gradient, z), x)
    with torch.no_grad():
        best, record = _better(z, gain(z), best, record)
    _refuse_dead(alive)  # read once, after the loop: nothing inside it waits for the device
    return best


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
        value, lost, gradient = _judged(gain, z, with_gradient=step < steps)
        if step == 0:
            _refuse_dead(_alive(gradient) | lost.any() | may_be_dead)
        record = _keep(z, value, lost, rows, best, record)
        stand = (~lost).nonzero().squeeze(1)
        if len(stand) == 0 or step == steps:
            break
        if len(stand) < len(rows):
            rows, z, gradient, x = rows[stand], z[stand], gradient[stand], x[stand]
            gain, threat = gain.take(stand), threat.take(stand)
        z = threat.project(z + step_size * threat.steepest(gradient, z), x)
    return best


def _best(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    attacks: tuple[Attack, ...],
    early_stop: bool,
    rng: torch.Generator | None,
) -> Tensor:
    if not early_stop:
        best, record = x.detach(), torch.full((x.shape[0],), -torch.inf, device=x.device)
        for attack in attacks:
            z = attack(gain, x, threat, rng=rng)
            with torch.no_grad():
                best, record = _better(z, gain(z), best, record)
        return best
    judging = _judging(gain)
    best, record = x.detach().clone(), torch.full((x.shape[0],), -torch.inf, device=x.device)
    rows = torch.arange(x.shape[0], device=x.device)
    for attack in attacks:
        here = judging.take(rows)
        z = attack(here, x[rows], threat.take(rows), rng=rng)
        with torch.no_grad():
            value, lost = here.judge(z)
        record = _keep(z, value, lost, rows, best, record)
        rows = rows[~lost]
        if len(rows) == 0:
            break
    return best


def _better(z: Tensor, value: Tensor, best: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
    wins = value > record
    return torch.where(wins.reshape(-1, *[1] * (z.dim() - 1)), z, best), torch.where(wins, value, record)


def _keep(z: Tensor, value: Tensor, lost: Tensor, rows: Tensor, best: Tensor, record: Tensor) -> Tensor:
    """Write into best, at these rows, each z that is lost or higher than the record; returns the new record."""
    record = record.to(torch.promote_types(record.dtype, value.dtype))
    rise = lost | (value > record[rows])
    best[rows[rise]], record[rows[rise]] = z[rise], value[rise].to(record.dtype)
    return record


def _judged(gain: JudgingGain, z: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    z = z.detach().requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        value, lost = gain.judge(z)
    gradient = torch.autograd.grad(value.sum(), z)[0] if with_gradient else torch.empty(0)
    return value.detach(), lost, gradient


def _alive(gradient: Tensor) -> Tensor:
    """Whether any example's gradient stands above rounding level (of logits of order ten, whose softmax it passed).

    Losses widen half precision to float32, so that is the finest rounding there is to follow. A gradient of NaN is not
    dead but broken, and left to show in the loss.
    """
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return (~(gradient.abs() <= 8 * torch.finfo(wide).eps)).any()


def _refuse_dead(alive: Tensor) -> None:
    if not alive:
        raise DeadStartError(
            "The start of pgd must have a gradient above rounding level for some example. Got none: a gain at its "
            "own minimum needs random_start=True (TRADES' KL at the clean point), a saturated model the margin payoff."
        )


def _judging(gain: Gain) -> JudgingGain:
    if not isinstance(gain, JudgingGain):
        raise TypeError(
            "early_stop=True needs a gain with 'judge' and 'take', such as sparring.core.gain.ClassifierGain. "
            f"Got {type(gain).__name__}."
        )
    return gain


def _start(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor in input units. Got {x.dtype}.")
    return x.detach()


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"The {name!r} parameter must be an int in the range [1, inf). Got {value!r} instead.")


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"The {name!r} parameter must be a number in the range (0, inf). Got {value!r} instead.")
