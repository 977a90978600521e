"""The attacks that an evaluation runs, with every parameter spelled out.

`standard` is the ensemble of Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", 2020 (L1: "Mind the box", 2021): APGD on cross-entropy, targeted APGD on the difference of
logits ratio, targeted FAB and Square, in this order, each on the examples that the ones before left standing.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from sparring.attacks.apgd import apgd
from sparring.attacks.eot import Averaged
from sparring.attacks.fab import fab, fab_targeted
from sparring.attacks.square import square
from sparring.attacks.targeted import targeted
from sparring.core.attack import Attack
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import Loss, TargetedLoss, cross_entropy, dlr, dlr_towards, margin, margin_towards
from sparring.core.pgd import fgsm, pgd
from sparring.core.threat import L1, L2, Linf, Threat
from sparring.evaluation.exploit import Challenge

_LOSSES: tuple[tuple[Loss | TargetedLoss, str], ...] = (
    (cross_entropy, "cross-entropy"),
    (margin, "margin"),
    (dlr, "dlr"),
    (dlr_towards, "targeted dlr"),
    (margin_towards, "targeted margin"),
)


@dataclass(frozen=True)
class Suite:
    """Attacks, and how they are run.

    Args:
        name: as a report calls it.
        challenges: in order.
        sequential: each attack sees only the examples that those before it left standing, so that its accuracy is that
            of all attacks up to it; otherwise each sees every example, and its accuracy is its own.
        grid: how many examples the grids and probes use at most.
        bound: what is known of how far the answer may be from that of `standard`.
        random: made for models that answer at random.
    """

    name: str
    challenges: tuple[Challenge, ...]
    sequential: bool = True
    grid: int = 500
    bound: str = ""
    random: bool = False


def foundation(threat: Threat, classes: int) -> Suite:  # noqa: ARG001 - as every maker of a suite
    """FGSM, PGD-20, and PGD-100 with two restarts on each of cross-entropy and margin, every attack on every example.

    Both losses, because a confident model's cross-entropy has no gradient left to follow; FGSM, because a model that
    stands against it alone has overfitted to it. For any threat model with a gradient.
    """
    challenges = (
        fgsm_challenge("fgsm", threat),
        pgd_challenge("pgd-20", threat, cross_entropy, steps=20),
        pgd_challenge("pgd-100", threat, cross_entropy, steps=100, restarts=2),
        pgd_challenge("pgd-100-margin", threat, margin, steps=100, restarts=2),
    )
    return Suite(
        "foundation", challenges, sequential=False, bound="PGD alone: no minimal-norm and no black-box attack."
    )


def quick(threat: Threat, classes: int) -> Suite:
    """APGD on cross-entropy, targeted APGD on the three strongest rivals, and a short Square where the threat is a
    ball. The attacks of `standard` with less than a tenth of its budget, for any threat model with a gradient."""
    challenges = [
        apgd_challenge("apgd-ce", threat, cross_entropy, steps=30),
        targeted_challenge("apgd-t", threat, classes, steps=20, count=3),
    ]
    if isinstance(threat, Linf | L2 | L1):
        challenges.append(square_challenge("square", queries=200))
    bound = (
        "An upper bound on what 'standard' finds, with less than a tenth of its budget: 0.7 to 2.4 points above it on "
        "four adversarially trained models (docs/results.md)."
    )
    return Suite("quick", tuple(challenges), grid=200, bound=bound)


def standard(threat: Threat, classes: int) -> Suite:
    """AutoAttack's `standard` version. Raises ValueError for a threat model that is no Linf, L2 or L1 ball.

    With fewer than four classes the ratio is undefined: the targeted attacks climb the margin towards the rival
    instead, and there are as many rivals as there are other classes.
    """
    _only_balls("standard", threat)
    sparse = isinstance(threat, L1)
    challenges = (
        apgd_challenge("apgd-ce", threat, cross_entropy, steps=100, restarts=5 if sparse else 1),
        targeted_challenge("apgd-t", threat, classes, steps=100, count=5 if sparse else 9),
        fab_challenge("fab-t", classes, steps=100, count=9),
        square_challenge("square", queries=5000),
    )
    return Suite("standard", challenges)


def plus(threat: Threat, classes: int) -> Suite:
    """AutoAttack's `plus` version: more restarts, untargeted DLR and FAB as well. Raises ValueError as `standard`."""
    _only_balls("plus", threat)
    challenges = [apgd_challenge("apgd-ce", threat, cross_entropy, steps=100, restarts=5)]
    if classes > 2:
        challenges.append(apgd_challenge("apgd-dlr", threat, dlr, steps=100, restarts=5))
    challenges += [
        fab_challenge("fab", classes, steps=100, restarts=5),
        square_challenge("square", queries=5000),
        targeted_challenge("apgd-t", threat, classes, steps=100, count=9),
        fab_challenge("fab-t", classes, steps=100, count=9),
    ]
    return Suite("plus", tuple(challenges))


def rand(threat: Threat, classes: int, *, draws: int = 20) -> Suite:
    """AutoAttack's `rand` version for models that answer at random: APGD on the mean of 20 answers. An example stands
    when it does so in one answer more, drawn after the attack."""
    loss = dlr if classes > 2 else margin
    challenges = tuple(
        apgd_challenge(name, threat, loss, steps=100, draws=draws)
        for name, loss in (("apgd-ce", cross_entropy), (f"apgd-{dict(_LOSSES)[loss]}", loss))
    )
    return Suite("rand", challenges, random=True)


SUITES = (
    ("quick", quick),
    ("standard", standard),
    ("plus", plus),
    ("rand", rand),
    ("foundation", foundation),
)
"""The names that a command line uses."""


def pgd_challenge(
    name: str, threat: Threat, loss: Loss, *, steps: int, restarts: int = 1, step_size: float | None = None
) -> Challenge:
    """PGD from random starts, with step size 2.5 eps / steps where none is given."""
    step_size = 2.5 * threat.eps / steps if step_size is None else step_size
    attack = partial(pgd, steps=steps, step_size=step_size, restarts=restarts, early_stop=True)
    facts = {"attack": "pgd", "steps": steps, "step_size": step_size, "random_start": True, "restarts": restarts}
    return _challenge(name, attack, loss, facts, forwards=(steps + 1) * restarts)


def fgsm_challenge(name: str, threat: Threat) -> Challenge:
    """One step of length eps from the clean input."""
    facts = {"attack": "fgsm", "steps": 1, "step_size": threat.eps, "random_start": False, "restarts": 1}
    return _challenge(name, partial(fgsm, step_size=threat.eps), cross_entropy, facts, forwards=1)


def apgd_challenge(
    name: str, threat: Threat, loss: Loss, *, steps: int, restarts: int = 1, draws: int = 1
) -> Challenge:
    """Auto-PGD, which starts with steps of 2 eps and halves them where it stalls; on the mean of several draws if
    asked."""
    facts = {"attack": "apgd", "steps": steps, "step_size": 2 * threat.eps, "random_start": True, "restarts": restarts}
    attack = partial(apgd, steps=steps, restarts=restarts, early_stop=True)
    if draws == 1:
        return _challenge(name, attack, loss, facts, forwards=(steps + 1) * restarts)

    def averaged(gain: ClassifierGain, _: Tensor) -> Averaged:
        return Averaged(gain, draws)

    facts["draws"] = draws
    return _challenge(name, attack, loss, facts, forwards=(steps + 1) * restarts * draws, gain=averaged)


def targeted_challenge(name: str, threat: Threat, classes: int, *, steps: int, count: int) -> Challenge:
    """Auto-PGD towards each of the strongest rivals."""
    count, pull = min(count, classes - 1), dlr_towards if classes >= 4 else margin_towards
    facts = {"attack": "targeted apgd", "steps": steps, "step_size": 2 * threat.eps, "random_start": True}
    facts |= {"restarts": 1, "targets": count, "loss": dict(_LOSSES)[pull]}
    attack = targeted(partial(apgd, steps=steps, early_stop=True), count=count)
    return _challenge(name, attack, margin, facts, forwards=(steps + 1) * count + 1, pull=pull)


def fab_challenge(name: str, classes: int, *, steps: int, restarts: int = 1, count: int | None = None) -> Challenge:
    """FAB, from all rivals at once or, with a count, towards each of the strongest."""
    facts = {"attack": "fab" if count is None else "targeted fab", "steps": steps, "restarts": restarts}
    attack: Attack
    if count is None:
        attack, forwards = partial(fab, steps=steps, restarts=restarts, early_stop=True), 2 * steps * restarts
    else:
        facts["targets"] = count = min(count, classes - 1)
        attack = partial(fab_targeted, steps=steps, count=count, early_stop=True)
        forwards = 2 * steps * count
    return _challenge(name, attack, margin, facts, forwards=forwards, minimal=True)


def square_challenge(name: str, *, queries: int) -> Challenge:
    """Random search with squares on the margin, without gradients."""
    facts = {"attack": "square", "queries": queries, "restarts": 1}
    return _challenge(name, partial(square, queries=queries), margin, facts, forwards=queries)


def _challenge(
    name: str, attack: Attack, loss: Loss, facts: dict[str, Any], *, forwards: int, **rest: Any
) -> Challenge:
    return Challenge(name, attack, loss, {"loss": dict(_LOSSES)[loss], **facts}, forwards=forwards, **rest)


def _only_balls(suite: str, threat: Threat) -> None:
    if not isinstance(threat, Linf | L2 | L1):
        raise ValueError(
            f"The {suite!r} suite is defined for Linf, L2 and L1 balls. Got {type(threat).__name__}; use 'quick' or "
            "'foundation', whose attacks need no more than a projection and a steepest step."
        )
