"""The attacks that an evaluation runs, with every parameter spelled out, and the worst case over them."""

from functools import partial
from typing import Any

from sparring.core.payoff import Loss, cross_entropy, margin
from sparring.core.pgd import fgsm, pgd
from sparring.core.threat import Threat
from sparring.evaluation.exploit import Challenge

_LOSSES: tuple[tuple[Loss, str], ...] = ((cross_entropy, "cross-entropy"), (margin, "margin"))


def foundation(threat: Threat) -> tuple[Challenge, ...]:
    """FGSM, PGD-20, and PGD-100 with two restarts on each of cross-entropy and margin.

    Both losses, because a confident model's cross-entropy has no gradient left to follow; FGSM, because a model that
    stands against it alone has overfitted to it.
    """
    return (
        fgsm_challenge("fgsm", threat),
        pgd_challenge("pgd-20", threat, cross_entropy, steps=20),
        pgd_challenge("pgd-100", threat, cross_entropy, steps=100, restarts=2),
        pgd_challenge("pgd-100-margin", threat, margin, steps=100, restarts=2),
    )


def pgd_challenge(
    name: str, threat: Threat, loss: Loss, *, steps: int, restarts: int = 1, step_size: float | None = None
) -> Challenge:
    """PGD from random starts, with step size 2.5 eps / steps where none is given."""
    step_size = 2.5 * threat.eps / steps if step_size is None else step_size
    attack = partial(pgd, steps=steps, step_size=step_size, restarts=restarts, early_stop=True)
    return Challenge(name, attack, loss, _parameters("pgd", loss, steps, step_size, True, restarts))


def fgsm_challenge(name: str, threat: Threat) -> Challenge:
    """One step of length eps from the clean input."""
    attack = partial(fgsm, step_size=threat.eps)
    return Challenge(name, attack, cross_entropy, _parameters("fgsm", cross_entropy, 1, threat.eps, False, 1))


def _parameters(
    attack: str, loss: Loss, steps: int, step_size: float, random_start: bool, restarts: int
) -> dict[str, Any]:
    return {
        "attack": attack,
        "loss": dict(_LOSSES)[loss],
        "steps": steps,
        "step_size": step_size,
        "random_start": random_start,
        "restarts": restarts,
    }
