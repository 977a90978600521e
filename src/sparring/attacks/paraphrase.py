"""Paraphrases: whatever a callable proposes, held to the threat model, the best by the gain."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from sparring.attacks.lockstep import Search, Values, lockstep
from sparring.core.discrete import Discrete, DiscreteGain
from sparring.core.standing import check_count

T = TypeVar("T")


def paraphrase(
    gain: DiscreteGain[T],
    x: Sequence[T],
    threat: Discrete[T],
    *,
    rewrite: Callable[[T], Sequence[T]],
    rounds: int = 1,
    queries: int | None = None,
    rng: torch.Generator | None = None,
) -> list[T]:
    """Ask a callable for other ways to say it (back-translation, templates, a language model), drop what the threat
    model does not allow, and keep the best; in later rounds the best so far is rewritten again.

    Args:
        gain: `(texts, rows) -> [M]`.
        x: the originals.
        threat: what is allowed; only its `contains` and `changes` are used.
        rewrite: the proposals for one text, in any number and order; called once for each example and round.
        rounds: from 1.
        queries: the most texts asked about for each example, the original among them; None for no bound.
        rng: nothing here is random unless `rewrite` is; taken because every attack takes it.

    Returns:
        One allowed text for each original, see `sparring.attacks.lockstep.lockstep`.

    Raises:
        ValueError: for a count below one.
    """
    check_count("rounds", rounds)
    return lockstep(gain, x, threat, _Paraphrase(threat, rewrite, rounds), queries=queries, rng=rng)


@dataclass(frozen=True)
class _Paraphrase(Generic[T]):
    threat: Discrete[T]
    rewrite: Callable[[T], Sequence[T]]
    rounds: int

    def __call__(self, x: T, value: float, dice: random.Random) -> Search[T]:
        z = x
        for _ in range(self.rounds):
            allowed = [each for each in self.rewrite(z) if self.threat.contains(each, x)]
            if not allowed:
                return
            values = yield Values(allowed)
            best = max(range(len(allowed)), key=values.__getitem__)
            if values[best] <= value:
                return
            z, value = allowed[best], values[best]
