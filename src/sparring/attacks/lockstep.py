"""Searches over texts, tokens or edges, one generator an example, run side by side: each step of all is one call.

A search is written for one example, as a generator that yields questions and is sent their answers. `lockstep` asks the
questions of every example that still stands together, so that a model sees large batches, keeps each example's best
move, ends a search at its first flip, and holds it to its budget.
"""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from sparring.core.discrete import Discrete, DiscreteGain, SlopedGain, chance, standing
from sparring.core.standing import check_count

T = TypeVar("T")


@dataclass(frozen=True)
class Values(Generic[T]):
    """Ask for the gain at each text: the answer is a list of floats. One query a text; what was asked before is
    remembered and costs nothing.

    Args:
        texts: what to ask about.
        moves: whether they are allowed moves, of which the best is kept; a probe (a text with a word taken out) is not.
    """

    texts: Sequence[T]
    moves: bool = True


@dataclass(frozen=True)
class Slopes(Generic[T]):
    """Ask for the norm of the gradient at each word of a text: the answer is a list of floats. One query."""

    text: T


@dataclass(frozen=True)
class Estimates(Generic[T]):
    """Ask for the first-order estimates of what each candidate gains over its text: the answer is one list of floats,
    the candidates of the first text first. One query a text."""

    texts: Sequence[T]
    candidates: Sequence[Sequence[T]]


Question = Values[T] | Slopes[T] | Estimates[T]

Search = Generator[Question[T], list[float], None]
"""One example's search: it yields questions, is sent their answers, and returns when it has no more."""

Begin = Callable[[T, float, random.Random], Search[T]]
"""`begin(x, value, dice)`: the search from one original, whose gain is known."""


def lockstep(
    gain: DiscreteGain[T],
    x: Sequence[T],
    threat: Discrete[T],
    begin: Begin[T],
    *,
    queries: int | None,
    rng: torch.Generator | None,
) -> list[T]:
    """Run one search for each example that is not lost as it is.

    Args:
        gain: `(texts, rows) -> [M]`; a `SlopedGain` where a search asks for slopes or estimates.
        x: the originals.
        threat: counts the changes of a move that flips its example.
        begin: starts the search of one example.
        queries: the most texts asked about for each example, the original and probes among them, a gradient counting as
            one; None for no bound.
        rng: the source of the searches' dice. All examples get the same throws, so that an example's answer does not
            depend on who is beside it.

    Returns:
        For each example the first move that flips it, of several found in one step that with the fewest changes, then
        with the highest gain; else the move with the highest gain; the original where nothing is higher.

    Raises:
        ValueError: for a budget below one.
        TypeError: where a search asks for gradients and the gain has none.
    """
    if queries is not None:
        check_count("queries", queries)
    seed = int(torch.randint(2**62, (), generator=chance(rng)).item())
    answer = list(x)
    if not answer:
        return answer
    value, rows = standing(gain, x)
    live: list[_Example[T]] = []
    for row in rows:
        start = float(value[row])
        search = begin(x[row], start, random.Random(seed))
        left = float("inf") if queries is None else queries - 1
        if (question := next(search, None)) is not None:
            live.append(_Example(row, x[row], search, question, {x[row]: (start, False)}, x[row], left))
    while live:
        live = _step(gain, threat, live, answer)
    return answer


@dataclass
class _Example(Generic[T]):
    """One standing example: its search, its open question, what is known of its texts (the gain, and whether it is
    lost there), its best move so far and how many queries it has left."""

    row: int
    x: T
    search: Search[T]
    question: Question[T]
    known: dict[T, tuple[float, bool]]
    best: T
    left: float
    reply: list[float] | None = None
    """The answer to the open question; None where the budget did not reach."""
    flipped: bool = False

    def new(self) -> list[T]:
        """The texts in question that were never asked about, each once, as many as the budget has left."""
        if not isinstance(self.question, Values):
            return []
        fresh = [text for text in dict.fromkeys(self.question.texts) if text not in self.known]
        return fresh[: int(min(self.left, len(fresh)))]

    def settle(self, question: Values[T], threat: Discrete[T]) -> None:
        """The reply to a question whose texts were asked about, and what it says of the best move."""
        found = [(text, *self.known[text]) for text in question.texts if text in self.known]
        self.reply = [value for _, value, _ in found] if len(found) == len(question.texts) else None
        if not question.moves:
            return
        won = [(threat.changes(text, self.x), -value, k) for k, (text, value, lost) in enumerate(found) if lost]
        if won:
            self.best, self.flipped = found[min(won)[2]][0], True
            return
        for text, value, _ in found:
            if value > self.known[self.best][0]:
                self.best = text


def _step(gain: DiscreteGain[T], threat: Discrete[T], live: list[_Example[T]], answer: list[T]) -> list[_Example[T]]:
    """Answer every open question; returns the examples that still stand and have another."""
    _ask_values(gain, live)
    _ask_slopes(gain, live)
    _ask_estimates(gain, live)
    standing = []
    for each in live:
        if isinstance(each.question, Values):
            each.settle(each.question, threat)
        if not each.flipped and each.reply is not None:
            try:
                each.question, each.reply = each.search.send(each.reply), None
                standing.append(each)
                continue
            except StopIteration:
                pass
        each.search.close()
        answer[each.row] = each.best
    return standing


def _ask_values(gain: DiscreteGain[T], live: list[_Example[T]]) -> None:
    fresh = [(each, text) for each in live for text in each.new()]
    if not fresh:
        return
    value, lost = gain.judge([text for _, text in fresh], [each.row for each, _ in fresh])
    for (each, text), height, flip in zip(fresh, value.tolist(), lost.tolist(), strict=True):
        each.known[text] = height, flip
        each.left -= 1


def _ask_slopes(gain: DiscreteGain[T], live: list[_Example[T]]) -> None:
    asking = [(each, each.question) for each in live if isinstance(each.question, Slopes) and each.left >= 1]
    if not asking:
        return
    slopes = sloping(gain).slopes([question.text for _, question in asking], [each.row for each, _ in asking])
    for (each, _), slope in zip(asking, slopes, strict=True):
        each.left -= 1
        each.reply = slope.tolist()


def _ask_estimates(gain: DiscreteGain[T], live: list[_Example[T]]) -> None:
    asking = [(each, q) for each in live if isinstance(q := each.question, Estimates) and each.left >= len(q.texts)]
    if not asking:
        return
    texts = [text for _, question in asking for text in question.texts]
    rows = [each.row for each, question in asking for _ in question.texts]
    found = sloping(gain).estimates(texts, rows, [options for _, question in asking for options in question.candidates])
    estimates = iter(found)
    for each, question in asking:
        each.left -= len(question.texts)
        each.reply = [rise for _ in question.texts for rise in next(estimates).tolist()]


def sloping(gain: DiscreteGain[T]) -> SlopedGain[T]:
    """The gain, once it is known that it has slopes."""
    if not isinstance(gain, SlopedGain):
        raise TypeError(
            "A search that follows gradients needs a gain with 'slopes' and 'estimates', such as "
            f"sparring.domains.text.gain.TextGain. Got {type(gain).__name__}."
        )
    return gain


def editable(threat: Discrete[Any], x: T) -> list[tuple[int, list[T]]]:
    """The sites of an original where something can be changed, with its edits there."""
    found = [(site, list(threat.edits(x, x, site))) for site in threat.sites(x)]
    return [(site, edits) for site, edits in found if edits]
