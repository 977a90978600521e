"""Genetic search: a population of texts that are crossed and mutated."""

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from sparring.attacks.lockstep import Question, Search, Values, editable, lockstep
from sparring.core.discrete import Crossing, Discrete, DiscreteGain
from sparring.core.standing import check_count, check_positive

T = TypeVar("T")


def genetic(
    gain: DiscreteGain[T],
    x: Sequence[T],
    threat: Discrete[T],
    *,
    population: int = 20,
    generations: int = 20,
    temperature: float = 0.3,
    queries: int | None = None,
    rng: torch.Generator | None = None,
) -> list[T]:
    """Alzantot et al., "Generating natural language adversarial examples", 2018, Algorithm 1. A population starts as
    copies of the original, each with the best edit at a random site. Every generation keeps its best member and fills
    up with children: two parents are drawn, the fitter the likelier, each site's content comes from one of them at
    random, and the child is mutated by the best edit at a random site. Sites are drawn in proportion to how many edits
    they have.

    Departs from the paper: a child that the threat model does not allow is taken to its first parent; the paper's
    language model is not here, the threat model says which words may stand; equal members count once; populations of 20
    and not 60.

    Args:
        gain: `(texts, rows) -> [M]`.
        x: the originals.
        threat: which edits are allowed; it has to be able to `graft`.
        population: members, from 2.
        generations: after the first one.
        temperature: parents are drawn with probability softmax(gain / temperature); in units of the gain.
        queries: the most texts asked about for each example, the original among them; None for no bound.
        rng: source of sites, parents and crossings.

    Returns:
        One allowed text for each original, see `sparring.attacks.lockstep.lockstep`.

    Raises:
        ValueError: for a parameter out of its range.
        TypeError: for a threat that cannot graft.
    """
    for name, count in (("population", population), ("generations", generations)):
        check_count(name, count)
    if population < 2:
        raise ValueError(f"The 'population' parameter must be an int in the range [2, inf). Got {population} instead.")
    check_positive("temperature", temperature)
    if not isinstance(threat, Crossing):
        raise TypeError(f"A genetic search needs a threat model with 'graft'. Got {type(threat).__name__}.")
    begin = _Genetic(threat, population, generations, temperature)
    return lockstep(gain, x, threat, begin, queries=queries, rng=rng)


@dataclass(frozen=True)
class _Genetic(Generic[T]):
    threat: Crossing[T]
    population: int
    generations: int
    temperature: float

    def __call__(self, x: T, value: float, dice: random.Random) -> Search[T]:
        found = editable(self.threat, x)
        if not found:
            return
        sites, weights = [site for site, _ in found], [len(edits) for _, edits in found]
        starts = dice.choices(sites, weights, k=self.population)
        members = yield from self._mutated([x] * self.population, x, starts)
        for _ in range(self.generations):
            best = max(members, key=members.__getitem__)
            odds = [math.exp((height - members[best]) / self.temperature) for height in members.values()]
            pairs = [dice.choices(list(members), odds, k=2) for _ in range(self.population - 1)]
            children = [self._child(x, first, second, sites, dice) for first, second in pairs]
            places = dice.choices(sites, weights, k=len(children))
            elite = {best: members[best]}
            members = elite | (yield from self._mutated(children, x, places))

    def _mutated(
        self, texts: Sequence[T], x: T, places: Sequence[int]
    ) -> Generator[Question[T], list[float], dict[T, float]]:
        """Each text with its best edit at its place, whether or not that raises the gain; with the gain."""
        options = [self.threat.edits(z, x, site) or [z] for z, site in zip(texts, places, strict=True)]
        values = iter((yield Values([each for some in options for each in some])))
        heights = [[next(values) for _ in some] for some in options]
        tops = [max(range(len(some)), key=some.__getitem__) for some in heights]
        return {some[k]: risen[k] for some, risen, k in zip(options, heights, tops, strict=True)}

    def _child(self, x: T, first: T, second: T, sites: Sequence[int], dice: random.Random) -> T:
        child = first
        for site in sites:
            if dice.random() < 0.5:
                child = self.threat.graft(child, second, site)
        return child if self.threat.contains(child, x) else first
