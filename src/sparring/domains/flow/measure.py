"""Which relations flows really satisfy: the share of rows of given ones, and a search for others.

A relation is worth imposing where it holds on all rows and has a reason. One that holds on nearly all tempts, and is
false: it makes flows that were sent look infeasible. Both are told apart here by counting.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.check import applies, holds
from sparring.domains.flow.schema import Field
from sparring.domains.flow.table import Table

RATIO_WITHIN = 0.02
"""How far a rate may be from a quotient of counts that it is proposed to be."""


@dataclass(frozen=True)
class Measured:
    """How far a relation holds.

    Args:
        relation: the line of text.
        share: of all rows, those in which it holds, in [0, 1].
        n: rows.
        by_class: the share within each class of rows.
        applying: rows in which what is before => is true; n where there is no =>.
        share_applying: of these, those in which the relation holds; 1 where there are none.
    """

    relation: str
    share: float
    n: int
    by_class: dict[str, float]
    applying: int
    share_applying: float


@dataclass(frozen=True)
class Proposed:
    """Relations that were found in a table.

    Args:
        hold: on every row.
        tempt: on nearly every row of those that they are about, and not on all.
    """

    hold: tuple[Measured, ...]
    tempt: tuple[Measured, ...]


def measured(table: Table, relations: Iterable[str], classes: NDArray[Any] | None = None) -> list[Measured]:
    """The share of rows in which each relation holds.

    Args:
        table: of flows, at least one.
        relations: lines of text in the grammar of the schema.
        classes: of each row, words `[N]`; by default the labels of the table.

    Raises:
        ValueError: where the table is empty, or a relation cannot be read.
    """
    if not len(table):
        raise ValueError("The table must have at least one row. Got none.")
    labels = (table.labels if len(table.labels) else np.full(len(table), "")) if classes is None else classes
    names, of = np.unique(labels.astype(str), return_inverse=True)
    sizes = np.bincount(of, minlength=len(names))
    found = []
    for relation in relations:
        good, about = holds(relation, table), applies(relation, table)
        per_class = np.bincount(of, weights=good, minlength=len(names)) / sizes
        by_class = {str(name): float(share) for name, share in zip(names, per_class, strict=True)}
        applying = int(about.sum())
        within = float(good[about].mean()) if applying else 1.0
        found.append(Measured(relation, float(good.mean()), len(table), by_class, applying, within))
    return found


def proposed(table: Table, tempting: float = 0.95, support: int = 30, classes: NDArray[Any] | None = None) -> Proposed:
    """Relations of a few families that hold on all rows of a table, or on nearly all.

    The families: a column that never varies; a <= b for columns of one unit; a + b <= 1.01 for rates; a rate that is a
    quotient of two counts; a category => a number or another category; a number above 0 => a category.

    Args:
        table: of flows, at least one.
        tempting: least share, among the rows that a relation is about, from which it tempts; in (0, 1).
        support: least rows that a relation is about; below, it is not proposed.
        classes: as `measured` takes them.

    Raises:
        ValueError: where the table is empty or `tempting` is not in range.
    """
    if not 0 < tempting < 1:
        raise ValueError(f"The 'tempting' parameter must be in the range (0, 1). Got {tempting!r} instead.")
    if not len(table):
        raise ValueError("The table must have at least one row. Got none.")
    likely = [relation for relation, share in _candidates(table, support) if share >= tempting]
    found = measured(table, likely, classes)
    return Proposed(
        tuple(each for each in found if each.share == 1),
        tuple(each for each in found if each.share < 1 and each.share_applying >= tempting),
    )


def _candidates(table: Table, support: int) -> Iterator[tuple[str, float]]:
    """Relations and the share of the rows that they are about in which they hold, in float64 without tolerance."""
    numeric, varying = [field for field in table.schema.fields if field.numeric], []
    for field in numeric:
        column = table.columns[field.name]
        if column.min() == column.max():
            yield f"{field.name} == {_written(column[0])}", float(column[0] >= 0)
        else:
            varying.append(field)
    if len(table) < support:
        return
    yield from _ordered(table, varying)
    yield from _rates(table, varying)
    for field in table.schema.fields:
        if not field.numeric:
            words, of = np.unique(table.columns[field.name].astype(str), return_inverse=True)
            usual = [word for word in words if "'" not in word]
            if len(usual) == len(words) > 1:
                yield from _from_category(table, field.name, words, of, varying, support)
                yield from _to_category(table, field.name, words, of, varying, support)


def _ordered(table: Table, fields: list[Field]) -> Iterator[tuple[str, float]]:
    for a, b in permutations([field for field in fields if field.unit], 2):
        if a.unit == b.unit:
            yield f"{a.name} <= {b.name}", float((table.columns[a.name] <= table.columns[b.name]).mean())


def _rates(table: Table, fields: list[Field]) -> Iterator[tuple[str, float]]:
    rates = [field.name for field in fields if field.kind == "rate"]
    counts = [field for field in fields if field.kind == "integer" and field.unit]
    for a, b in combinations(rates, 2):
        yield f"{a} + {b} <= 1.01", float((table.columns[a] + table.columns[b] <= 1.01 + 1e-9).mean())
    for above, below in permutations(counts, 2):
        if above.unit != below.unit:
            continue
        divisor = table.columns[below.name]
        quotient = table.columns[above.name] / np.where(divisor == 0, np.nan, divisor)
        text = f"{above.name} / {below.name}"
        for rate in rates:
            value, slack = table.columns[rate], RATIO_WITHIN + 1e-9
            void = divisor == 0
            yield f"{rate} == {text} within {RATIO_WITHIN}", float((void | (abs(value - quotient) <= slack)).mean())
            cut = abs(value - np.minimum(1, quotient)) <= slack
            yield f"{rate} == min(1, {text}) within {RATIO_WITHIN}", float((void | cut).mean())
            yield f"{rate} <= {text} + {RATIO_WITHIN}", float((void | (value <= quotient + slack)).mean())


def _from_category(
    table: Table, name: str, words: NDArray[Any], of: NDArray[Any], fields: list[Field], support: int
) -> Iterator[tuple[str, float]]:
    """A word => what the numbers and the other categories then are."""
    order, sizes = np.argsort(of, kind="stable"), np.bincount(of)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    common = np.flatnonzero(sizes >= support)
    for field in fields:
        column = table.columns[field.name][order]
        low, high = np.minimum.reduceat(column, starts), np.maximum.reduceat(column, starts)
        zeros = np.add.reduceat((column == 0).astype(np.float64), starts) / sizes
        for k in common:
            constant = low[k] == high[k] >= 0
            value, share = (low[k], 1.0) if constant else (0.0, float(zeros[k]))
            yield f"{name} == '{words[k]}' => {field.name} == {_written(value)}", share
    for field in table.schema.fields:
        if field.numeric or field.name == name:
            continue
        others, other = np.unique(table.columns[field.name].astype(str), return_inverse=True)
        joint = np.bincount(of * len(others) + other, minlength=len(words) * len(others)).reshape(len(words), -1)
        for k in common:
            most = int(joint[k].argmax())
            if "'" not in others[most]:
                yield f"{name} == '{words[k]}' => {field.name} == '{others[most]}'", float(joint[k, most] / sizes[k])


def _to_category(
    table: Table, name: str, words: NDArray[Any], of: NDArray[Any], fields: list[Field], support: int
) -> Iterator[tuple[str, float]]:
    """A number above 0 => which word it then is, or is not."""
    everywhere = np.bincount(of, minlength=len(words))
    for field in fields:
        above = table.columns[field.name] > 0
        rows = int(above.sum())
        if not support <= rows < len(table):
            continue
        counts = np.bincount(of[above], minlength=len(words))
        most = int(counts.argmax())
        yield f"{field.name} > 0 => {name} == '{words[most]}'", float(counts[most] / rows)
        for k in np.flatnonzero(everywhere >= max(support, len(table) // 20)):
            if counts[most] < rows and k != most and len(words) > 2:
                yield f"{field.name} > 0 => {name} != '{words[k]}'", 1 - float(counts[k] / rows)


def _written(value: float) -> str:
    """A number that is >= 0, as the grammar has it."""
    return repr(int(value)) if value == int(value) else repr(float(value))
