"""The attacks on detectors of flows that claims and evaluations share, and the check of what they return."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparring.attacks.apgd import apgd
from sparring.core.gain import Gain
from sparring.core.gradient import frozen
from sparring.core.payoff import margin
from sparring.core.pgd import pgd
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.flow.check import violations
from sparring.domains.flow.data import MALICIOUS, FlowData

EPS = (0.05, 0.1, 0.2, 0.3)
"""Radii of the attacked detection rates, beside the one that is asked about."""

STEPS, RESTARTS = 50, 2
"""Of Auto-PGD."""

BATCH = 1000
"""Flows that are attacked at once."""


def drawn_rows(data: FlowData, n: int, seed: int) -> Tensor:
    """Malicious test rows, n of them drawn by the seed, in their order; all with 0, or where there are no more."""
    rows = (data.test.y == MALICIOUS).nonzero().squeeze(1)
    if not n or n >= len(rows):
        return rows
    chance = torch.Generator().manual_seed(derive(seed, "flows"))
    return rows[torch.randperm(len(rows), generator=chance)[:n].sort().values]


def ahead(model: torch.nn.Module) -> Gain:
    """How far benign is ahead of malicious, `[B]`: what the attacker of malicious flows ascends."""

    def gain(z: Tensor, /) -> Tensor:
        return margin(model(z), torch.full((len(z),), MALICIOUS))

    return gain


def strongest(gain: Gain, x: Tensor, threat: Threat, seed: int) -> Tensor:
    """Auto-PGD, 50 steps from two random starts: of each row the z with the highest gain."""
    return in_parts(partial(apgd, steps=STEPS, restarts=RESTARTS), gain, x, threat, seed)


def climbed(gain: Gain, x: Tensor, threat: Threat, seed: int, steps: int) -> Tensor:
    """PGD with steps of eps / 4 from one random start, so that a longer run contains a shorter one."""
    return in_parts(partial(pgd, steps=steps, step_size=threat.eps / 4), gain, x, threat, seed)


def in_parts(attack: Callable[..., Tensor], gain: Gain, x: Tensor, threat: Threat, seed: int) -> Tensor:
    """An attack, a thousand rows at a time, each part from random numbers of its own."""
    parts = []
    for k, part in enumerate(x.split(BATCH)):
        rng = torch.Generator().manual_seed(derive(seed, "attack", k))
        parts.append(attack(gain, part, threat, rng=rng))
    return torch.cat(parts)


def against(model: torch.nn.Module, x: Tensor, threat: Threat, seed: int) -> Tensor:
    """`strongest` against a classifier, which is left as it was found."""
    with frozen(model) as seen:
        return strongest(ahead(seen), x, threat, seed)


def infeasible(data: FlowData, rows: Tensor, x: Tensor, z: Tensor) -> Tensor:
    """Which of the changed test rows the independent check refuses, beyond what the originals break already, `[n]`."""
    original = data.test.table.take(rows.numpy())
    sound = violations(original, original).feasible
    changed = data.preprocessing.to_table(z, original)
    refused = ~violations(original, changed).feasible & sound & (z != x).any(1).numpy()
    return torch.from_numpy(refused)
