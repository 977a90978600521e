"""Threat models and gains over what no gradient moves: texts, sequences of tokens, sets of edges.

A discrete attack is a pure function `(gain, x, threat, rng=...) -> z` like any other. Its batch is a sequence of N
originals of some immutable, hashable type T (for text, `sparring.domains.text.words.Text`), and its answer is one z for
each. A search asks about many candidates of few examples at once, so a gain is told which example each candidate is of.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class Discrete(Protocol[T]):
    """What may become of an original x, one edit at a time.

    A site is a place where edits are made: a word, a gap between two, a slot after the last. Sites are numbered from 0
    and are the original's: they keep their numbers while z changes.
    """

    def sites(self, x: T) -> Sequence[int]:
        """Where edits may be made."""
        ...

    def edits(self, z: T, x: T, site: int) -> Sequence[T]:
        """Every allowed text that differs from z at this site only, without z itself; undoing an edit is one of them.

        Each of them satisfies `contains(·, x)` wherever z does: a budget that is used up leaves only what undoes or
        exchanges an edit. The order is a function of the arguments.
        """
        ...

    def without(self, z: T, site: int) -> T:
        """z with the content of this site taken out: what a search may ask about to learn how much it matters. No move:
        it need not be allowed."""
        ...

    def contains(self, z: T, x: T) -> bool:
        """Whether z is allowed, decided from z and x alone. Shares no code with `edits`: it is what verifies them."""
        ...

    def changes(self, z: T, x: T) -> int:
        """How many words of x are changed, or added to it."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a record needs to name it, as JSON types."""
        ...


@runtime_checkable
class Crossing(Discrete[T], Protocol[T]):
    """A threat model whose moves can be crossed: what a search over a population needs."""

    def graft(self, z: T, donor: T, site: int) -> T:
        """z with the content that the donor, another move from the same original, has at this site. Two allowed moves
        may have a child that is not: whoever grafts asks `contains`."""
        ...


class DiscreteGain(Protocol[T_contra]):
    """`gain(z, rows) -> [M]`: the payoff of candidate z[i] as a move against example rows[i] of the batch."""

    def __call__(self, z: Sequence[T_contra], rows: Sequence[int], /) -> Tensor: ...

    def judge(self, z: Sequence[T_contra], rows: Sequence[int], /) -> tuple[Tensor, Tensor]:
        """The value `[M]`, and whether the example is lost at it `[M]`, from one pass."""
        ...


@runtime_checkable
class SlopedGain(Protocol[T_contra]):
    """A gain that can be differentiated in whatever continuous space lies under T (embeddings)."""

    def __call__(self, z: Sequence[T_contra], rows: Sequence[int], /) -> Tensor: ...

    def judge(self, z: Sequence[T_contra], rows: Sequence[int], /) -> tuple[Tensor, Tensor]: ...

    def slopes(self, z: Sequence[T_contra], rows: Sequence[int], /) -> list[Tensor]:
        """For each z the norm of the gradient at each of its words, `[words]`: how much each matters (A2T)."""
        ...

    def estimates(
        self, z: Sequence[T_contra], rows: Sequence[int], candidates: Sequence[Sequence[T_contra]], /
    ) -> list[Tensor]:
        """For each z the first-order estimate of how much each of its candidates would gain over it (HotFlip)."""
        ...


DiscreteAttack = Callable[..., list[Any]]
"""`attack(gain, x, threat, rng=generator) -> z`, hyper-parameters bound: one allowed z for each of the originals, the
best found, the original itself where nothing better was."""


def standing(gain: DiscreteGain[T], x: Sequence[T]) -> tuple[Tensor, list[int]]:
    """The value `[N]` at the originals, and the examples that are not lost as they are: those an attack works on."""
    value, lost = gain.judge(x, range(len(x)))
    return value, (~lost).nonzero().squeeze(1).tolist()


def chance(rng: torch.Generator | None) -> torch.Generator:
    """A generator on the CPU: the given one, or a fresh one drawn from torch's global generator."""
    if rng is not None:
        return rng
    return torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
