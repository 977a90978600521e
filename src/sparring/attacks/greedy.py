"""Greedy word substitution: rank the sites of an example by importance, then make the best edit at each in turn."""

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch

from sparring.attacks.lockstep import Question, Search, Slopes, Values, editable, lockstep
from sparring.core.discrete import Discrete, DiscreteGain

T = TypeVar("T")

Ranking = Literal["deletion", "saliency", "gradient", "gain"]

RANKINGS: tuple[Ranking, ...] = ("deletion", "saliency", "gradient", "gain")


def greedy(
    gain: DiscreteGain[T],
    x: Sequence[T],
    threat: Discrete[T],
    *,
    ranking: Ranking = "deletion",
    queries: int | None = None,
    rng: torch.Generator | None = None,
) -> list[T]:
    """Visit the sites of each example from the most important to the least; at each, try every allowed edit and keep
    the best if it raises the gain. An example is done at its first flip: of several flips at one site, that with the
    fewest changes.

    Rankings, by what a site's importance is:

    - `deletion`: how much the gain rises without its content. Jin et al., "Is BERT really robust?" (TextFooler), 2020.
    - `saliency`: the softmax over sites of that rise, times the rise of the best edit there. Ren et al., "Generating
      natural language adversarial examples through probability weighted word saliency" (PWWS), 2019.
    - `gradient`: the norm of the gradient at its word; one query instead of one for each site. Yoo & Qi, "Towards
      improving adversarial training of NLP models" (A2T), 2021. A site that is no word of the original comes last.
    - `gain`: the rise of the best edit there alone, which is exact for a gain that is a sum over sites.

    What these papers ask of a candidate (similar embeddings, the same part of speech) is the threat model's to say.

    Args:
        gain: `(texts, rows) -> [M]`; with slopes for the `gradient` ranking.
        x: the originals.
        threat: which edits are allowed.
        ranking: see above.
        queries: the most texts asked about for each example, the original among them; None for no bound.
        rng: nothing here is random; taken because every attack takes it.

    Returns:
        One allowed text for each original, see `sparring.attacks.lockstep.lockstep`.

    Raises:
        ValueError: for an unknown ranking, or a budget below one.
        TypeError: for the `gradient` ranking and a gain that has no slopes.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"The 'ranking' parameter must be one of {', '.join(RANKINGS)}. Got {ranking!r} instead.")
    return lockstep(gain, x, threat, _Greedy(threat, ranking), queries=queries, rng=rng)


@dataclass(frozen=True)
class _Greedy(Generic[T]):
    threat: Discrete[T]
    ranking: Ranking

    def __call__(self, x: T, value: float, dice: random.Random) -> Search[T]:
        found = editable(self.threat, x)
        if not found:
            return
        importance = [0.0] if len(found) == 1 else (yield from self._importance(x, value, found))
        order = sorted(range(len(found)), key=lambda i: -importance[i])
        z = x
        for i in order:
            edits = self.threat.edits(z, x, found[i][0])
            if not edits:
                continue
            values = yield Values(edits)
            best = max(range(len(edits)), key=values.__getitem__)
            if values[best] > value:
                z, value = edits[best], values[best]

    def _importance(
        self, x: T, value: float, found: Sequence[tuple[int, list[T]]]
    ) -> Generator[Question[T], list[float], list[float]]:
        if self.ranking == "gradient":
            slopes = yield Slopes(x)
            return [slopes[site] if site < len(slopes) else -math.inf for site, _ in found]
        saliency = [0.0] * len(found)
        if self.ranking != "gain":
            values = yield Values([self.threat.without(x, site) for site, _ in found], moves=False)
            saliency = [risen - value for risen in values]
            if self.ranking == "deletion":
                return saliency
        values = yield Values([edit for _, edits in found for edit in edits])
        heights = iter(values)
        rises = [max(next(heights) for _ in edits) - value for _, edits in found]
        weights = [math.exp(each - max(saliency)) for each in saliency]
        return [weight * rise for weight, rise in zip(weights, rises, strict=True)]
