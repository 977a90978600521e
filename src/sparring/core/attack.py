"""An attack is a pure function `(gain, x, threat, ..., rng) -> z` that looks for an allowed z where the gain is high.

It sees no model and no label, so one `pgd` serves pixels, embeddings, flows and spectrograms. Bind hyper-parameters
with `functools.partial`; combine attacks with `restarts`, `best_of` and `each_member`, which take attacks and return
one. The attacks themselves are in `sparring.core.pgd` and `sparring.attacks`.
"""

from typing import Protocol

import torch
from torch import Tensor

from sparring.core.compose import Union
from sparring.core.gain import Gain
from sparring.core.standing import better, check_count, judging, keep
from sparring.core.threat import Threat


class Attack(Protocol):
    """What every attack looks like once its hyper-parameters are bound."""

    def __call__(self, gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor: ...


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
    check_count("count", count)
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
                best, record = better(z, gain(z), best, record)
        return best
    standing = judging(gain)
    best, record = x.detach().clone(), torch.full((x.shape[0],), -torch.inf, device=x.device)
    rows = torch.arange(x.shape[0], device=x.device)
    for attack in attacks:
        here = standing.take(rows)
        z = attack(here, x[rows], threat.take(rows), rng=rng)
        with torch.no_grad():
            value, lost = here.judge(z)
        record = keep(z, value, lost, rows, best, record)
        rows = rows[~lost]
        if len(rows) == 0:
            break
    return best
