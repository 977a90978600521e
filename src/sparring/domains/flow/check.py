"""The independent check of changed flows: whether each row is one that could have been sent, and if not, why.

It shares no code with what makes the changes: it reads the relations with a parser of its own (the grammar is in
`schema.py`) and computes them in float64 with numpy. Nothing is evaluated as Python.

Two numbers are taken as equal where they differ by no more than 1e-6 of the larger, which is for rounding only.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table

ROUNDING = 1e-6
"""Relative, for comparisons; absolute in units of `step` for rates and in ones for integers."""

Mask = NDArray[np.bool_]
Columns = Mapping[str, NDArray[Any]]
Term = Callable[[Columns], tuple[Any, Any]]
"""The values of a sum, `[N]` or one for all rows, and where a division by zero makes them meaningless, as bool."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|'(?P<word>[^']*)'"
    r"|(?P<mark>=>|<=|>=|==|!=|[-<>+*/(){},]))"
)
_SIGNS = ("<=", ">=", "==", "!=", "<", ">")
_RESERVED = ("and", "in", "within")


@dataclass(frozen=True, eq=False)
class Violations:
    """What the check found.

    Args:
        broken: by what is broken (`src_bytes must not be lowered`, or the relation itself), which rows break it, bool
            `[N]`; only what some row breaks.
        feasible: which rows break nothing, bool `[N]`.
    """

    broken: dict[str, Mask]
    feasible: Mask

    def of(self, row: int) -> tuple[str, ...]:
        """What one row breaks."""
        return tuple(name for name, rows in self.broken.items() if rows[row])

    def counts(self) -> dict[str, int]:
        """How many rows break each, the most first."""
        found = {name: int(rows.sum()) for name, rows in self.broken.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def violations(original: Table, changed: Table) -> Violations:
    """What is wrong with rows that were changed, each on its own.

    Args:
        original: as the rows were.
        changed: the same rows, in the same order, after the change.

    Raises:
        ValueError: where the tables differ in their schema or in length, or a relation cannot be read.
    """
    schema = original.schema
    if changed.schema != schema:
        raise ValueError(f"The tables must be of one schema. Got {schema.name!r} and {changed.schema.name!r}.")
    if len(original) != len(changed):
        raise ValueError(f"The tables must be of one length. Got {len(original)} and {len(changed)}.")
    broken: dict[str, Mask] = {}
    for field in schema.fields:
        before, now = original.columns[field.name], changed.columns[field.name]
        broken |= _numbers(field, before, now) if field.numeric else {f"{field.name} must not change": now != before}
    for relation in schema.relations:
        broken[relation] = ~holds(relation, changed)
    broken = {name: np.asarray(rows, np.bool_) for name, rows in broken.items() if np.any(rows)}
    feasible = np.ones(len(original), np.bool_)
    for rows in broken.values():
        feasible &= ~rows
    return Violations(broken, feasible)


def _numbers(field: Field, before: NDArray[Any], now: NDArray[Any]) -> dict[str, Mask]:
    name, finite = field.name, np.isfinite(now)
    safe = np.where(finite, now, field.low if np.isfinite(field.low) else 0.0)
    broken = {
        f"{name} must be a finite number": ~finite,
        f"{name} must be >= {field.low:g}": ~_least(safe, np.float64(field.low)),
        f"{name} must be <= {field.high:g}": ~_least(np.float64(field.high), safe),
    }
    if field.kind == "integer":
        broken[f"{name} must be an integer"] = np.abs(safe - np.rint(safe)) > ROUNDING
    elif field.kind == "flag":
        broken[f"{name} must be 0 or 1"] = (safe != 0) & (safe != 1)
    elif field.kind == "rate":
        multiple = safe / field.step
        broken[f"{name} must be a multiple of {field.step:g}"] = np.abs(multiple - np.rint(multiple)) > ROUNDING
    if field.change in ("fixed", "up"):
        word = "change" if field.change == "fixed" else "be lowered"
        broken[f"{name} must not {word}"] = ~_least(safe, before)
    if field.change in ("fixed", "down"):
        word = "change" if field.change == "fixed" else "be raised"
        key = f"{name} must not {word}"
        broken[key] = broken.get(key, False) | ~_least(before, safe)
    return broken


def holds(relation: str, table: Table) -> Mask:
    """In which rows a relation holds, bool `[N]`.

    Raises:
        ValueError: where it cannot be read, or names what the schema does not have; the message says where.
    """
    when, then = _parsed(relation, table.schema)
    return ~_all(when, table) | then(table.columns)


def applies(relation: str, table: Table) -> Mask:
    """In which rows the conditions before `=>` are true, bool `[N]`; all of them where there are none."""
    return _all(_parsed(relation, table.schema)[0], table)


def understood(relation: str, schema: Schema) -> None:
    """Raises ValueError where a relation cannot be read, or names what the schema does not have."""
    _parsed(relation, schema)


def _all(conditions: "tuple[Condition, ...]", table: Table) -> Mask:
    rows = np.ones(len(table), np.bool_)
    for condition in conditions:
        rows &= condition(table.columns)
    return rows


def _least(a: NDArray[Any] | np.float64, b: NDArray[Any] | np.float64) -> Mask:
    """Whether a >= b but for rounding; False where one is NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray((a >= b) | (b - a <= ROUNDING * np.maximum(np.abs(a), np.abs(b))), np.bool_)


Condition = Callable[[Columns], Mask]


@cache
def _parsed(relation: str, schema: Schema) -> tuple[tuple[Condition, ...], Condition]:
    return _Parser(relation, schema).relation()


class _Parser:
    """Recursive descent over the tokens of one relation, one method for each line of the grammar."""

    def __init__(self, text: str, schema: Schema) -> None:
        self.text, self.schema, self.at = text, schema, 0
        self.tokens: list[tuple[str, str, int]] = []
        end, text = 0, text.rstrip()
        while end < len(text):
            found = _TOKEN.match(text, end)
            if not found or found.lastgroup is None:
                raise self.wrong("must be a relation", end)
            self.tokens.append((found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
            end = found.end()
        self.tokens.append(("end", "", end))

    def wrong(self, wanted: str, at: int | None = None) -> ValueError:
        place = self.tokens[self.at][2] if at is None else at
        rest = self.text[place : place + 20]
        found = repr(rest) if rest else "its end"
        return ValueError(f"The relation {self.text!r} {wanted} at character {place + 1}. Got {found} instead.")

    def took(self, *words: str) -> str | None:
        """Takes the next token where it is one of these."""
        kind, word, _ = self.tokens[self.at]
        if kind in ("mark", "name") and word in words:
            self.at += 1
            return word
        return None

    def need(self, *words: str) -> str:
        word = self.took(*words)
        if word is None:
            raise self.wrong(f"must have {' or '.join(words)}")
        return word

    def relation(self) -> tuple[tuple[Condition, ...], Condition]:
        conditions = [self.condition()]
        while self.took("and"):
            conditions.append(self.condition())
        if self.took("=>"):
            when, then = tuple(conditions), self.condition()
        elif len(conditions) == 1:
            when, then = (), conditions[0]
        else:
            raise self.wrong("must have => after its conditions")
        if self.tokens[self.at][0] != "end":
            raise self.wrong("must end")
        return when, then

    def condition(self) -> Condition:
        if self.tokens[self.at][0] == "name" and self.tokens[self.at + 1][:2] == ("name", "in"):
            return self.membership()
        start = self.at
        worded, left = self.sum()
        sign = self.need(*_SIGNS)
        also, right = self.sum()
        if worded != also or (worded and sign not in ("==", "!=")):
            self.at = start
            raise self.wrong("must compare numbers with numbers, or words with words by == or !=")
        width = 0.0
        if self.took("within"):
            if sign != "==" or worded:
                raise self.wrong("must have 'within' after an == of numbers only")
            width = self.number()
        if worded:
            return lambda c: np.asarray((left(c)[0] == right(c)[0]) == (sign == "=="), np.bool_)
        return lambda c: _compared(sign, left(c), right(c), width)

    def membership(self) -> Condition:
        name = self.field_name()
        if self.schema.field(name).numeric:
            raise self.wrong(f"must have a category before 'in', and {name!r} is none,")
        self.need("in")
        self.need("{")
        words = [self.word()]
        while self.took(","):
            words.append(self.word())
        self.need("}")
        return lambda c: np.logical_or.reduce([np.asarray(c[name] == word, np.bool_) for word in words])

    def sum(self) -> tuple[bool, Term]:
        return self.chain(self.product, ("+", "-"))

    def product(self) -> tuple[bool, Term]:
        return self.chain(self.factor, ("*", "/"))

    def chain(self, part: Callable[[], tuple[bool, Term]], signs: tuple[str, ...]) -> tuple[bool, Term]:
        worded, term = part()
        while sign := self.took(*signs):
            also, next_term = part()
            if worded or also:
                raise self.wrong("must not reckon with words")
            term = _combined(sign, term, next_term)
        return worded, term

    def factor(self) -> tuple[bool, Term]:
        kind, word, _ = self.tokens[self.at]
        if kind == "number":
            value = np.float64(self.number())
            return False, lambda _: (value, False)
        if kind == "word":
            self.at += 1
            return True, lambda _: (np.array(word, object), False)
        if self.took("("):
            inside = self.sum()
            self.need(")")
            return inside
        if word in ("max", "min") and self.tokens[self.at + 1][1] == "(":
            self.at += 2
            one, left = self.sum()
            self.need(",")
            two, right = self.sum()
            self.need(")")
            if one or two:
                raise self.wrong("must not reckon with words")
            return False, _combined(word, left, right)
        name = self.field_name()
        return not self.schema.field(name).numeric, lambda c: (c[name], False)

    def field_name(self) -> str:
        kind, word, _ = self.tokens[self.at]
        if kind != "name" or word in _RESERVED:
            raise self.wrong("must have a number, a field, a 'word' or a parenthesis")
        if word not in self.schema.names:
            raise self.wrong(f"must name fields of {self.schema.name!r}, and {word!r} is none,")
        self.at += 1
        return word

    def word(self) -> str:
        kind, word, _ = self.tokens[self.at]
        if kind != "word":
            raise self.wrong("must have a 'word' in quotes")
        self.at += 1
        return word

    def number(self) -> float:
        kind, word, _ = self.tokens[self.at]
        if kind != "number":
            raise self.wrong("must have a number")
        self.at += 1
        return float(word)


_REDUCE: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


def _combined(sign: str, left: Term, right: Term) -> Term:
    def term(columns: Columns) -> tuple[Any, Any]:
        (a, a_void), (b, b_void) = left(columns), right(columns)
        void = a_void | b_void
        if sign == "/":
            void = void | (b == 0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return _REDUCE[sign](a, b), void

    return term


def _compared(sign: str, left: tuple[Any, Any], right: tuple[Any, Any], width: float) -> Mask:
    (a, a_void), (b, b_void) = left, right
    with np.errstate(invalid="ignore"):
        if sign in ("==", "!="):
            slack = ROUNDING * np.maximum(np.abs(a), np.abs(b))
            equal = (a == b) | (np.abs(a - b) <= width + slack)
            true = equal if sign == "==" else ~equal
        elif sign in (">=", "<"):
            true = _least(a, b) if sign == ">=" else ~_least(a, b)
        else:
            true = _least(b, a) if sign == "<=" else ~_least(b, a)
    return np.asarray(true | a_void | b_void, np.bool_)
