"""Random edits: what a search has to beat with the same number of queries."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from sparring.attacks.lockstep import Search, Values, editable, lockstep
from sparring.core.discrete import Discrete, DiscreteGain
from sparring.core.standing import check_count

T = TypeVar("T")

PATIENCE = 200
"""Draws in a row that were all known before, after which the space counts as exhausted."""


def random_edits(
    gain: DiscreteGain[T],
    x: Sequence[T],
    threat: Discrete[T],
    *,
    queries: int = 100,
    at_once: int = 20,
    rng: torch.Generator | None = None,
) -> list[T]:
    """Random allowed texts, each made from the original by a random number of random edits at random sites; the best
    of them. A control: an attack that does no better with as many queries has found nothing by searching.

    Args:
        gain: `(texts, rows) -> [M]`.
        x: the originals.
        threat: which edits are allowed.
        queries: texts asked about for each example, the original among them; fewer where one flips it, or where there
            are no more.
        at_once: how many are asked about before looking for a flip.
        rng: source of the edits.

    Returns:
        One allowed text for each original, see `sparring.attacks.lockstep.lockstep`.

    Raises:
        ValueError: for a count below one.
    """
    check_count("queries", queries)
    check_count("at_once", at_once)
    return lockstep(gain, x, threat, _Random(threat, at_once), queries=queries, rng=rng)


@dataclass(frozen=True)
class _Random(Generic[T]):
    threat: Discrete[T]
    at_once: int

    def __call__(self, x: T, value: float, dice: random.Random) -> Search[T]:
        sites = [site for site, _ in editable(self.threat, x)]
        seen = {x}
        while sites:
            fresh: list[T] = []
            misses = 0
            while len(fresh) < self.at_once and misses < PATIENCE:
                z = scattered(self.threat, x, dice.sample(sites, dice.randint(1, len(sites))), dice)
                misses = misses + 1 if z in seen else 0
                if z not in seen:
                    seen.add(z)
                    fresh.append(z)
            if not fresh:
                return
            yield Values(fresh)


def scattered(threat: Discrete[T], x: T, sites: Sequence[int], dice: random.Random) -> T:
    """x with one random edit at each of these sites in turn, as far as the threat model allows."""
    z = x
    for site in sites:
        edits = threat.edits(z, x, site)
        if edits:
            z = edits[dice.randrange(len(edits))]
    return z
