"""A small discrete world in which everything can be enumerated: texts are tuples of ints, one int a word."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

Words = tuple[int, ...]
MISSING = -1


@dataclass(frozen=True)
class Swaps:
    """At most `budget` words replaced, each by any of `vocabulary` words."""

    vocabulary: int
    budget: int

    def sites(self, x: Words) -> Sequence[int]:
        return range(len(x))

    def edits(self, z: Words, x: Words, site: int) -> list[Words]:
        spent = sum(a != b for a, b in zip(z, x, strict=True))
        options = range(self.vocabulary) if z[site] != x[site] or spent < self.budget else ()
        return [(*z[:site], w, *z[site + 1 :]) for w in options if w != z[site]]

    def without(self, z: Words, site: int) -> Words:
        return (*z[:site], MISSING, *z[site + 1 :])

    def graft(self, z: Words, donor: Words, site: int) -> Words:
        return (*z[:site], donor[site], *z[site + 1 :])

    def contains(self, z: Words, x: Words) -> bool:
        return z in self.everything(x)

    def changes(self, z: Words, x: Words) -> int:
        return sum(a != b for a, b in zip(z, x, strict=True))

    def describe(self) -> dict[str, Any]:
        return {"name": "swaps"}

    def everything(self, x: Words) -> set[Words]:
        """Every allowed text, by brute force."""
        return _everything(x, self.vocabulary, self.budget)


@cache
def _everything(x: Words, vocabulary: int, budget: int) -> set[Words]:
    texts = itertools.product(range(vocabulary), repeat=len(x))
    return {z for z in texts if sum(a != b for a, b in zip(z, x, strict=True)) <= budget}


@dataclass
class Sum:
    """A gain that is a sum over places of a table's entries, lost above a threshold; a missing word counts nothing.

    Args:
        table: `[N, L, V]`.
        threshold: the value above which an example is lost.
        pairs: `[N, L, L]` added where both words differ from 0: what no single edit sees.
    """

    table: Tensor
    threshold: float = float("inf")
    pairs: Tensor | None = None
    calls: list[int] = field(default_factory=list)
    asked: list[tuple[int, Words]] = field(default_factory=list)
    gradients: int = 0

    def value(self, z: Words, row: int) -> float:
        total = sum(self.table[row, i, w].item() for i, w in enumerate(z) if w != MISSING)
        if self.pairs is not None:
            on = torch.tensor([float(w > 0) for w in z], dtype=torch.float64)
            total += (on @ self.pairs[row] @ on).item()
        return total

    def __call__(self, z: Sequence[Words], rows: Sequence[int], /) -> Tensor:
        return self.judge(z, rows)[0]

    def judge(self, z: Sequence[Words], rows: Sequence[int], /) -> tuple[Tensor, Tensor]:
        assert len(z) == len(rows) > 0
        self.calls.append(len(z))
        self.asked += zip(rows, z, strict=True)
        value = torch.tensor([self.value(text, row) for text, row in zip(z, rows, strict=True)], dtype=torch.float64)
        return value, value > self.threshold

    def queries(self, row: int) -> int:
        return sum(each == row for each, _ in self.asked)


@dataclass
class SlopedSum(Sum):
    """The same with gradients, which are exact because the sum is linear in one-hot words."""

    def slopes(self, z: Sequence[Words], rows: Sequence[int], /) -> list[Tensor]:
        self.gradients += len(z)
        return [self.table[row].norm(dim=1) for row in rows]

    def estimates(
        self, z: Sequence[Words], rows: Sequence[int], candidates: Sequence[Sequence[Words]], /
    ) -> list[Tensor]:
        self.gradients += len(z)
        return [
            torch.tensor([Sum.value(self, each, row) - Sum.value(self, text, row) for each in some])
            for text, row, some in zip(z, rows, candidates, strict=True)
        ]


def table(n: int, length: int, vocabulary: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn((n, length, vocabulary), generator=rng, dtype=torch.float64)


def best(gain: Sum, x: Words, row: int, threat: Swaps) -> float:
    """The highest value of any allowed text, by brute force."""
    return max(gain.value(z, row) for z in threat.everything(x))
