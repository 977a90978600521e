"""HotFlip: edits chosen by the gradient, with a beam."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Generic, TypeVar

import torch

from sparring.attacks.lockstep import Estimates, Search, Values, lockstep, sloping
from sparring.core.discrete import Discrete, DiscreteGain
from sparring.core.standing import check_count

T = TypeVar("T")


def hotflip(
    gain: DiscreteGain[T],
    x: Sequence[T],
    threat: Discrete[T],
    *,
    steps: int = 10,
    beam: int = 3,
    tries: int = 5,
    queries: int | None = None,
    rng: torch.Generator | None = None,
) -> list[T]:
    """Ebrahimi et al., "HotFlip: white-box adversarial examples for text classification", 2018. At each step the
    gradient at every text of the beam estimates what each of its edits would gain, at all sites at once; the most
    promising are asked about, and the best of those are the next beam. It goes on as long as a step raises the gain.

    Departs from the paper: the beam is ranked by the gain, not by the sum of estimates.

    Args:
        gain: `(texts, rows) -> [M]`, with `estimates`.
        x: the originals.
        threat: which edits are allowed.
        steps: the most edits in a row, from 1.
        beam: texts that are followed, from 1.
        tries: edits asked about for each of them, from 1.
        queries: the most texts asked about for each example, the original among them, a gradient counting as one; None
            for no bound.
        rng: nothing here is random; taken because every attack takes it.

    Returns:
        One allowed text for each original, see `sparring.attacks.lockstep.lockstep`.

    Raises:
        ValueError: for a count below one.
        TypeError: for a gain that has no estimates.
    """
    for name, count in (("steps", steps), ("beam", beam), ("tries", tries)):
        check_count(name, count)
    return lockstep(sloping(gain), x, threat, _HotFlip(threat, steps, beam, tries), queries=queries, rng=rng)


@dataclass(frozen=True)
class _HotFlip(Generic[T]):
    threat: Discrete[T]
    steps: int
    beam: int
    tries: int

    def __call__(self, x: T, value: float, dice: random.Random) -> Search[T]:
        followed, highest = [x], value
        for _ in range(self.steps):
            options = [[e for site in self.threat.sites(x) for e in self.threat.edits(z, x, site)] for z in followed]
            followed = [z for z, some in zip(followed, options, strict=True) if some]
            options = [some for some in options if some]
            if not options:
                return
            estimates = iter((yield Estimates(followed, options)))
            promising = [nlargest(self.tries, [(next(estimates), -k) for k in range(len(some))]) for some in options]
            tried = list(dict.fromkeys(
                some[-k] for some, best in zip(options, promising, strict=True) for _, k in best
            ))  # fmt: skip
            values = yield Values(tried)
            top = nlargest(self.beam, range(len(tried)), key=values.__getitem__)
            if values[top[0]] <= highest:
                return
            followed, highest = [tried[k] for k in top], values[top[0]]
