"""Attacks along eps and along the number of steps, on the same examples and from the same random draws."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparring.core.payoff import margin
from sparring.core.pgd import ShortAttackWarning
from sparring.core.threat import Threat
from sparring.evaluation.exploit import Challenge, Exploit, Ledger, Tick, exploit
from sparring.evaluation.identity import Named
from sparring.evaluation.interval import accuracy
from sparring.evaluation.subject import Subject
from sparring.evaluation.suite import pgd_challenge

EPS_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
STEPS = (1, 2, 5, 10, 20, 50, 100)

Grid = tuple[list[dict[str, Any]], list[Tensor]]
"""The rows of a table, and which examples stand in each, `[n]` bool."""

Watch = Callable[[str], Tick]
"""`watch(stage)` begins a stage of the evaluation, and gives what to tell how far it is."""


@dataclass(frozen=True)
class Bench:
    """Attacks on the first `count` examples of a subject, as one call each.

    Args:
        subject: all examples.
        threat: the threat model.
        seed: of every draw.
        count: how many examples.
        watch: told of every stage.
        ledger: where finished chunks are kept.
    """

    subject: Subject
    threat: Threat
    seed: int
    count: int
    watch: Watch
    ledger: Ledger | None

    @property
    def some(self) -> Subject:
        """The first examples."""
        s = self.subject
        return replace(s, x=s.x[: self.count], y=s.y[: self.count], logits=s.logits[: self.count])

    def attack(self, challenge: Challenge, threat: Threat, *, draw: str, targets: Tensor | None = None) -> Exploit:
        """Attacks with the same `draw` start from the same random draws."""
        tick = self.watch(f"{challenge.name} at eps {threat.eps:.3g}")
        named = replace(challenge, name=draw)
        ledger = None if self.ledger is None else Named(self.ledger, f"{challenge.name}-{threat.eps:.9g}")
        return exploit(self.some, threat, named, seed=self.seed, targets=targets, ledger=ledger, tick=tick)

    def along_eps(self) -> Grid:
        """Accuracy under PGD-20 with the margin loss, along eps."""
        rights = [self.some.clean_right]
        rows: list[dict[str, Any]] = [{"eps": 0.0, **accuracy(rights[0])}]
        for factor in EPS_FACTORS:
            within = self.threat.scaled(factor)
            challenge = pgd_challenge("pgd-20-margin", within, margin, steps=20)
            rights.append(self.attack(challenge, within, draw="eps").right)
            rows.append({"eps": within.eps, **accuracy(rights[-1]), "parameters": challenge.parameters})
        return rows, rights

    def along_steps(self) -> Grid:
        """The same along the number of steps of eps / 4, so that a longer run contains a shorter."""
        rows, rights = [], []
        for steps in STEPS:
            size = self.threat.eps / 4
            challenge = pgd_challenge(f"pgd-{steps}-margin", self.threat, margin, steps=steps, step_size=size)
            with warnings.catch_warnings():  # how weak the first of them are is what the grid shows
                warnings.simplefilter("ignore", ShortAttackWarning)
                rights.append(self.attack(challenge, self.threat, draw="steps").right)
            rows.append({"steps": steps, **accuracy(rights[-1]), "parameters": challenge.parameters})
        return rows, rights

    def at_grey(self, low: float, high: float) -> tuple[float | None, float]:
        """Accuracy under 50 steps at the smallest eps that lets every input become grey (None where none does), and
        that eps."""
        factor = reaching_grey(self.threat, self.some.x, low, high)
        if factor is None:
            return None, self.threat.eps
        within = self.threat.scaled(factor)
        challenge = pgd_challenge("pgd-50-margin", within, margin, steps=50)
        return self.attack(challenge, within, draw="large eps").right.double().mean().item(), within.eps


def reaching_grey(threat: Threat, x: Tensor, low: float, high: float) -> float | None:
    """The smallest power-of-two multiple of the threat's eps that lets every x become mid-grey; None if none does."""
    grey = torch.full_like(x, (low + high) / 2)
    for power in range(1, 13):
        if threat.scaled(math.ldexp(1.0, power)).contains(grey, x).all():
            return math.ldexp(1.0, power)
    return None
