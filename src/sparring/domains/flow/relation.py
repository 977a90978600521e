"""Relations between columns, read from their text (the grammar is in `schema`) and valued on batches of rows.

A condition is valued by its slack: at most 0 exactly where it holds, and above 0 by as much as the row is off. All of
it is float64, and numbers that differ by less than 1e-9 count as equal, since 0.1 + 0.2 is not 0.3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = 1e-9
"""Below which a difference is rounding."""

Numbers = Callable[[str], Tensor]
"""The values of a numeric field by its name, in raw units, float64 `[B]`."""

Words = Callable[[str, str], Tensor]
"""Which rows have this word in this category field, bool `[B]`."""


@dataclass(frozen=True)
class Number:
    value: float


@dataclass(frozen=True)
class Column:
    name: str


@dataclass(frozen=True)
class Operation:
    """`sign` is one of + - * / max min."""

    sign: str
    left: "Term"
    right: "Term"


Term = Number | Column | Operation


@dataclass(frozen=True)
class Comparison:
    """`sign` is one of <= >= == != < >; `within` loosens ==."""

    left: Term
    sign: str
    right: Term
    within: float = 0.0

    def slack(self, numbers: Numbers, words: Words) -> Tensor:
        """`[B]`, see above. Where a division by zero is part of it, it holds."""
        undefined: list[Tensor] = []
        d = _valued(self.left, numbers, undefined) - _valued(self.right, numbers, undefined)
        assert isinstance(d, Tensor)  # a condition names a field
        slack = comparison_slack(d, self.sign, self.within)
        for zero in undefined:
            slack = slack.masked_fill(zero, -1.0)
        return slack

    @property
    def fields(self) -> frozenset[str]:
        return columns(self.left) | columns(self.right)


@dataclass(frozen=True)
class Membership:
    """The category is one of these words, or with `negated` none of them."""

    name: str
    among: tuple[str, ...]
    negated: bool = False

    def slack(self, numbers: Numbers, words: Words) -> Tensor:
        """-1 where it holds, and 1 where it does not, float64 `[B]`."""
        inside = torch.stack([words(self.name, word) for word in self.among]).any(0)
        return torch.where(inside != self.negated, -1.0, 1.0).double()

    @property
    def fields(self) -> frozenset[str]:
        return frozenset({self.name})


Condition = Comparison | Membership


@dataclass(frozen=True)
class Relation:
    """Where all premises hold, the conclusion does.

    Args:
        text: as it was written.
        premises: may be none.
        conclusion: what has to hold.
    """

    text: str
    premises: tuple[Condition, ...]
    conclusion: Condition

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Premises first."""
        return (*self.premises, self.conclusion)

    @property
    def fields(self) -> frozenset[str]:
        """The names that occur in it."""
        return frozenset().union(*(condition.fields for condition in self.conditions))

    @property
    def target(self) -> "Target | None":
        """The field that the conclusion says the value of, and what it says; None where it does not."""
        told = self.conclusion
        if not isinstance(told, Comparison) or told.sign != "==":
            return None
        for one, other in ((told.left, told.right), (told.right, told.left)):
            if isinstance(one, Column) and one.name not in columns(other):
                return Target(one.name, other, told.within)
        return None

    def slack(self, numbers: Numbers, words: Words) -> Tensor:
        """`[B]`: that of the conclusion where all premises hold, else how far the nearest premise is from holding,
        below 0."""
        slack = self.conclusion.slack(numbers, words)
        if self.premises:
            worst = torch.stack([premise.slack(numbers, words) for premise in self.premises]).amax(0)
            slack = torch.where(worst <= 0, slack, -worst)
        return slack

    def violation(self, numbers: Numbers, words: Words) -> Tensor:
        """By how much a row is off, in the units of the conclusion, `[B]`: 0 exactly where the relation holds."""
        return self.slack(numbers, words).clamp(min=0.0)


@dataclass(frozen=True)
class Target:
    """The field `name` equals `term`, within so much."""

    name: str
    term: Term
    within: float


def comparison_slack(d: Tensor, sign: str, within: float = 0.0) -> Tensor:
    """Of a comparison whose left side is d above its right side."""
    match sign:
        case "<=":
            return d - TOLERANCE
        case ">=":
            return -d - TOLERANCE
        case "<":
            return d + TOLERANCE
        case ">":
            return TOLERANCE - d
        case "==":
            return d.abs() - (within + TOLERANCE)
        case _:
            return TOLERANCE - d.abs()


def columns(term: Term) -> frozenset[str]:
    """The names that occur in a term."""
    match term:
        case Column(name):
            return frozenset({name})
        case Operation(_, left, right):
            return columns(left) | columns(right)
        case _:
            return frozenset()


def value(term: Term, numbers: Numbers, otherwise: Tensor) -> Tensor:
    """The value of a term `[B]`; `otherwise` where it divides by zero."""
    undefined: list[Tensor] = []
    valued = _valued(term, numbers, undefined)
    told = valued if isinstance(valued, Tensor) else torch.full_like(otherwise, valued)
    for zero in undefined:
        told = torch.where(zero, otherwise, told)
    return told


def linear(term: Term) -> dict[str, float] | None:
    """The coefficients of a term, by name, with the constant under "": or None for a term that is not linear."""
    match term:
        case Number(number):
            return {"": number}
        case Column(name):
            return {name: 1.0}
        case Operation(sign, left, right):
            a, b = linear(left), linear(right)
            if a is None or b is None:
                return None
            if sign in "+-":
                side = 1.0 if sign == "+" else -1.0
                return {name: a.get(name, 0.0) + side * b.get(name, 0.0) for name in a | b}
            if sign == "*" and set(b) == {""}:
                return {name: each * b[""] for name, each in a.items()}
            if sign == "*" and set(a) == {""}:
                return {name: each * a[""] for name, each in b.items()}
            if sign == "/" and set(b) == {""}:
                return {name: each / b[""] for name, each in a.items()}
    return None


def _valued(term: Term, numbers: Numbers, undefined: list[Tensor]) -> "Tensor | float":
    """The value of a term, a float where no field is in it; where a denominator is zero goes to `undefined`, and the
    value there means nothing."""
    match term:
        case Number(number):
            return number
        case Column(name):
            return numbers(name)
        case Operation(sign, left, right):
            a, b = _valued(left, numbers, undefined), _valued(right, numbers, undefined)
    match sign:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "max" | "min":
            return _extreme(sign, a, b)
    if isinstance(b, float):
        return a / b  # the parser refuses a constant zero
    zero = b == 0
    undefined.append(zero)
    return a / b.masked_fill(zero, 1.0)


def _extreme(sign: str, a: "Tensor | float", b: "Tensor | float") -> "Tensor | float":
    if isinstance(a, float):
        a, b = b, a
    if isinstance(a, float):
        assert isinstance(b, float)
        return max(a, b) if sign == "max" else min(a, b)
    if isinstance(b, float):
        return a.clamp(min=b) if sign == "max" else a.clamp(max=b)
    return torch.maximum(a, b) if sign == "max" else torch.minimum(a, b)
