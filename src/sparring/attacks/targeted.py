"""Attacks that pull each example to one rival at a time: where every way at once misleads, one of them may not."""

import torch
from torch import Tensor

from sparring.core.attack import Attack
from sparring.core.gain import Gain, RivalGain
from sparring.core.standing import DeadStartError, check_count, floating, keep
from sparring.core.threat import Threat


def targeted(attack: Attack, *, count: int = 9) -> Attack:
    """The attack run towards each example's strongest rival at the clean input, then towards its second, and so on.

    With `partial(apgd, early_stop=True)` inside and `ClassifierGain(pull=dlr_towards)` (`margin_towards` with fewer
    than four classes) this is APGD-T of Croce & Hein, "Reliable evaluation of adversarial robustness", 2020, section 4.
    It needs a `RivalGain`. An example is left alone once it is lost, also where it is lost already at x; a place in the
    order that no rival holds (fewer than `count` ways to win, or those at -inf) is passed over.

    Args:
        attack: what climbs `gain.towards(rival)`.
        count: how many rivals, in [1, inf); never more than there are.

    Returns:
        an attack whose z is, example by example, the one that lost it, or else the highest by the gain itself, not by
        any pull; x where nothing was higher.

    Raises, when attacking:
        TypeError: when the gain has no rivals.
        DeadStartError: when the attack raised it for every rival.
    """
    check_count("count", count)

    def attack_rivals(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        x = floating(x)
        return x if len(x) == 0 else _each_rival(attack, count, gain, x, threat, rng)

    return attack_rivals


def _each_rival(
    attack: Attack, count: int, gain: Gain, x: Tensor, threat: Threat, rng: torch.Generator | None
) -> Tensor:
    if not isinstance(gain, RivalGain):
        raise TypeError(
            "A targeted attack needs a gain with 'rivals' and 'towards', such as sparring.core.gain.ClassifierGain. "
            f"Got {type(gain).__name__}."
        )
    with torch.no_grad():
        ahead, order = gain.rivals(x).sort(dim=1, descending=True)
        record, lost = gain.judge(x)
    best, dead, alive = x.clone(), False, False
    standing = ~lost
    for place in range(min(count, order.shape[1])):
        rows = (standing & (ahead[:, place] > -torch.inf)).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        here = gain.take(rows)
        try:
            z = attack(here.towards(order[rows, place]), x[rows], threat.take(rows), rng=rng)
        except DeadStartError:
            dead = True
            continue
        alive = True
        with torch.no_grad():
            value, lost = here.judge(z)
        record = keep(z, value, lost, rows, best, record)
        standing[rows[lost]] = False
    if dead and not alive:
        raise DeadStartError("The attack found no gradient above rounding level towards any rival.")
    return best
