"""Universal triggers: one short sequence of words that, put into any text of a batch, raises the gain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from sparring.attacks.lockstep import sloping
from sparring.core.discrete import DiscreteGain, chance
from sparring.core.standing import check_count

T = TypeVar("T")
W = TypeVar("W")

Place = Callable[[T, tuple[W, ...]], T]
"""`place(x, words)`: the text with the trigger in it. Always at the same place, whatever the words."""


@dataclass(frozen=True)
class Trigger(Generic[W]):
    """What was found.

    Attributes:
        words: the trigger.
        gain: the mean gain over the examples with it in.
        lost: the share of them that is lost with it in.
        queries: texts asked about for each example.
    """

    words: tuple[W, ...]
    gain: float
    lost: float
    queries: int


def trigger(
    gain: DiscreteGain[T],
    x: Sequence[T],
    place: Place[T, W],
    vocabulary: Sequence[W],
    *,
    words: int = 3,
    method: Literal["hotflip", "search"] = "hotflip",
    sweeps: int = 3,
    beam: int = 1,
    tries: int = 20,
    rng: torch.Generator | None = None,
) -> Trigger[W]:
    """Wallace et al., "Universal adversarial triggers for attacking and analyzing NLP", 2019. From random words, each
    position in turn is given the word that raises the mean gain over all examples most, for as long as a sweep over the
    positions finds a better one. With `hotflip` the gradient at the trigger picks the words that are asked about, with
    `search` chance does, and no gradient is needed.

    Against one class, hand in the examples of that class; against all, hand in all.

    Args:
        gain: `(texts, rows) -> [M]`, with `estimates` for `hotflip`.
        x: the originals, at least one.
        place: how a trigger goes into a text. Triggers of any words of the vocabulary have to be allowed there.
        vocabulary: the words to choose from, at least one.
        words: length of the trigger, from 1.
        method: see above.
        sweeps: over all positions, at most.
        beam: triggers that are followed, from 1.
        tries: words asked about at each position for each of them, from 1.
        rng: source of the first words, and of the words that `search` tries.

    Raises:
        ValueError: for a parameter out of its range, no examples or no vocabulary.
        TypeError: for `hotflip` and a gain that has no estimates.
    """
    for name, count in (("words", words), ("sweeps", sweeps), ("beam", beam), ("tries", tries)):
        check_count(name, count)
    if method not in ("hotflip", "search"):
        raise ValueError(f"The 'method' parameter must be hotflip or search. Got {method!r} instead.")
    if not x or not vocabulary:
        raise ValueError(
            f"A trigger needs at least one example and one word. Got {len(x)} examples and {len(vocabulary)} words."
        )
    dice = chance(rng)
    asked = _Asked(gain, x, place)
    first = tuple(vocabulary[k] for k in torch.randint(len(vocabulary), (words,), generator=dice).tolist())
    followed = asked.best([first], beam)
    for _ in range(sweeps):
        before = followed[0]
        for position in range(words):
            options = [_swaps(each, position, vocabulary) for each in followed]
            if method == "hotflip":
                chosen = [asked.promising(z, some, tries) for z, some in zip(followed, options, strict=True)]
            else:
                orders = [torch.randperm(len(some), generator=dice)[:tries].tolist() for some in options]
                chosen = [[some[k] for k in order] for some, order in zip(options, orders, strict=True)]
            followed = asked.best([*followed, *(each for some in chosen for each in some)], beam)
        if followed[0] == before:
            break
    best = followed[0]
    height, lost = asked.known[best]
    return Trigger(best, height, lost, asked.queries)


def _swaps(words: tuple[W, ...], position: int, vocabulary: Sequence[W]) -> list[tuple[W, ...]]:
    return [(*words[:position], w, *words[position + 1 :]) for w in vocabulary if w != words[position]]


class _Asked(Generic[T, W]):
    """What is known of triggers: their mean gain over the examples, and the share that is lost."""

    def __init__(self, gain: DiscreteGain[T], x: Sequence[T], place: Place[T, W]) -> None:
        self.gain, self.x, self.place = gain, x, place
        self.known: dict[tuple[W, ...], tuple[float, float]] = {}
        self.queries = 0

    def best(self, triggers: Sequence[tuple[W, ...]], count: int) -> list[tuple[W, ...]]:
        """The triggers of the highest mean gain; those not known are asked about in one call."""
        fresh = [each for each in dict.fromkeys(triggers) if each not in self.known]
        if fresh:
            texts = [self.place(x, each) for each in fresh for x in self.x]
            value, lost = self.gain.judge(texts, [*range(len(self.x))] * len(fresh))
            means = [part.double().view(len(fresh), -1).mean(1).tolist() for part in (value, lost)]
            self.known |= {each: (height, share) for each, height, share in zip(fresh, *means, strict=True)}
            self.queries += len(fresh)
        return sorted(dict.fromkeys(triggers), key=lambda each: -self.known[each][0])[:count]

    def promising(self, words: tuple[W, ...], options: Sequence[tuple[W, ...]], count: int) -> list[tuple[W, ...]]:
        """The options that the gradient at these words, summed over the examples, promises most of."""
        if not options:
            return []
        texts = [self.place(x, words) for x in self.x]
        candidates = [[self.place(x, each) for each in options] for x in self.x]
        rises: list[Tensor] = sloping(self.gain).estimates(texts, range(len(self.x)), candidates)
        self.queries += 1
        total = torch.stack([rise.double() for rise in rises]).sum(0)
        return [options[k] for k in total.topk(min(count, len(options))).indices.tolist()]
