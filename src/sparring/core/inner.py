"""What most systems share: an attack on a ball that may grow with training, a learner with the engine's hands."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from sparring.core.attack import Attack
from sparring.core.game import Adversary, Batch, Payoff
from sparring.core.pgd import fgsm, pgd
from sparring.core.players import Attacker, Curriculum, Descent, Objective
from sparring.core.schedule import ramp
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools


class InnerProblem(Protocol):
    """The fields that a system's `Config` declares when its adversary is `attacker`'s."""

    @property
    def threat(self) -> str: ...
    @property
    def eps(self) -> float: ...
    @property
    def attack(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def step_size(self) -> float | None: ...
    @property
    def random_start(self) -> bool: ...
    @property
    def eps_warmup(self) -> float: ...
    @property
    def steps_warmup(self) -> float: ...


def check(problem: InnerProblem) -> None:
    """Raises ValueError where a field is outside its range: called by every Config, so that a bad one is never made."""
    ball(problem.threat, problem.eps)
    if problem.attack not in ("pgd", "fgsm"):
        raise ValueError(f"The 'attack' parameter must be 'pgd' or 'fgsm'. Got {problem.attack!r} instead.")
    if isinstance(problem.steps, bool) or not isinstance(problem.steps, int) or problem.steps < 1:
        raise ValueError(f"The 'steps' parameter must be an int in the range [1, inf). Got {problem.steps!r} instead.")
    if problem.step_size is not None and not 0 < problem.step_size < float("inf"):
        raise ValueError(
            f"The 'step_size' parameter must be None or in the range (0, inf). Got {problem.step_size!r} instead."
        )
    for name in ("eps_warmup", "steps_warmup"):
        value = getattr(problem, name)
        if not 0 <= value <= 1:
            raise ValueError(f"The {name!r} parameter must be a number in the range [0, 1]. Got {value!r} instead.")


def descent(model: nn.Module, optimizer: torch.optim.Optimizer, objective: Objective, tools: Tools) -> Descent:
    """A learner with everything that the engine hands in: mixed precision, clipping, the weight-space adversary."""
    return Descent(
        model, optimizer, objective, backward=tools.backward, clip=tools.clip, perturbation=tools.perturbation
    )


def attacker(
    problem: InnerProblem,
    payoff: Payoff,
    threat: Threat | None,
    tools: Tools,
    *,
    reference: Callable[[nn.Module, Batch], Tensor] | None = None,
) -> Adversary:
    """The adversary that the problem describes, ascending `payoff` inside `threat` (by default the problem's own ball).

    With a warm-up it is a curriculum: eps grows linearly from a tenth to all of itself over the first `eps_warmup` of
    training, the number of steps from one to all over the first `steps_warmup`. Step sizes left to their default
    follow eps and steps; one that was given stays. PGD's last iterate is played. `reference` is the Attacker's.
    """
    full = ball(problem.threat, problem.eps) if threat is None else threat

    def at(progress: float) -> Attacker:
        share = ramp(progress, problem.eps_warmup)
        steps = max(1, round(problem.steps * ramp(progress, problem.steps_warmup, start=0.0)))
        within = full if share == 1 else full.scaled(share)
        return Attacker(payoff, within, _attack(problem, steps), tools.rng, view=tools.view, reference=reference)

    if problem.eps_warmup == 0 and problem.steps_warmup == 0:
        return at(1.0)
    return Curriculum(at, tools.progress)


def _attack(problem: InnerProblem, steps: int) -> Attack:
    if problem.attack == "fgsm":
        return partial(fgsm, step_size=problem.step_size, random_start=problem.random_start)
    return partial(pgd, steps=steps, step_size=problem.step_size, random_start=problem.random_start, keep_best=False)
