"""One row of text: its values, or the reason why it is refused. And the same tests on whole columns at once."""

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.layout import Layout
from sparring.domains.flow.schema import Field
from sparring.domains.flow.table import Table

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)

LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Refused:
    """A row that is not in the table.

    Args:
        line: its number in the file, from 1; in parquet, the row's number, from 1.
        text: the row as it is in the file, or the beginning of a very long one.
        reason: which column, which value and which constraint.
    """

    line: int
    text: str
    reason: str


def comma_separated(line: str) -> list[str]:
    """The cells of a line of CSV.

    Raises:
        csv.Error: where quotes are not closed.
    """
    return next(csv.reader([line], strict=True), [])


@dataclass(frozen=True)
class Reading:
    """What is needed to read the rows of one file.

    Args:
        layout: what the columns are.
        places: which cell is which field; the label's may be missing.
        width: cells of a row.
        split: a line into cells.
        quote: the character that may enclose a cell.
        comment: what a line that is not a row begins with; empty where there are none.
        allowed: words that the file itself declares for a category or the label; no entry: any.
    """

    layout: Layout
    places: Mapping[str, int]
    width: int
    split: Callable[[str], list[str]] = comma_separated
    quote: str = '"'
    comment: str = ""
    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name of the label's column, empty where the file has none."""
        name = self.layout.schema.label
        return name if name in self.places else ""


def examine(reading: Reading, text: str) -> tuple[list[float | str], str] | str:
    """The values of a row in schema order and its label; or, as one string, the reason why it is refused."""
    try:
        cells = reading.split(text)
    except (csv.Error, ValueError) as error:
        return f"the row cannot be split into cells: {error}"
    if len(cells) != reading.width:
        return f"the row must have {reading.width} cells. Got {len(cells)}."
    values: list[float | str] = []
    for each in reading.layout.schema.fields:
        cell = cells[reading.places[each.name]].strip()
        value = _number(reading, each, cell, cells) if each.numeric else _word(reading, each.name, cell)
        if value is None:
            return fault(each, cell)
        values.append(value)
    name = reading.label
    if not name:
        return values, ""
    cell = cells[reading.places[name]].strip()
    if cell not in reading.layout.spellings and _word(reading, name, cell) is None:
        return f"{name!r} must be {_words(reading, name)}. Got {cell!r}."
    return values, reading.layout.spellings.get(cell, cell)


def _number(reading: Reading, each: Field, cell: str, cells: list[str]) -> float | None:
    if not _NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    divisor = reading.layout.undefined.get(each.name)
    if divisor and not isfinite(value) and _is_zero(cells[reading.places[divisor]]):
        value = 0.0
    within = isfinite(value) and each.low <= value <= each.high
    return value if within and not (each.kind == "integer" and value != int(value)) and _flag(each, value) else None


def _flag(each: Field, value: float) -> bool:
    return each.kind != "flag" or value in (0.0, 1.0)


def _is_zero(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell.strip())) and float(cell) == 0


def _word(reading: Reading, name: str, cell: str) -> str | None:
    return cell if cell and cell in reading.allowed.get(name, (cell,)) else None


def _words(reading: Reading, name: str) -> str:
    return f"one of {', '.join(sorted(reading.allowed[name]))}" if name in reading.allowed else "a word"


def fault(each: Field, cell: str) -> str:
    """What is wrong with a cell, given that something is."""
    wanted = {"integer": "an integer", "flag": "0 or 1", "category": "a word that the file declares"}
    kind = wanted.get(each.kind, "a number")
    limits = "" if each.kind in ("flag", "category") else f" in the range [{each.low:g}, {each.high:g}]"
    limits = limits.replace("inf]", "inf)").replace("[-inf", "(-inf")
    return f"{each.name!r} must be {kind}{limits}. Got {cell!r}."


def faulty(reading: Reading, table: Table) -> NDArray[np.bool_]:
    """Which rows `examine` would refuse, bool `[N]`, from their values; missing cells are NaN or the empty word."""
    bad = np.zeros(len(table), np.bool_)
    for each in reading.layout.schema.fields:
        column = table.columns[each.name]
        if each.numeric:
            good = (column >= max(each.low, -LARGEST)) & (column <= min(each.high, LARGEST))
            if each.kind == "integer":
                good &= column == np.rint(column)
            elif each.kind == "flag":
                good &= (column == 0) | (column == 1)
            bad |= ~good
        else:
            bad |= _unknown(reading, each.name, column)
    if reading.label:
        unknown = _unknown(reading, reading.label, table.labels)
        for ours in reading.layout.spellings.values():
            unknown &= table.labels != ours
        bad |= unknown
    return bad


def _unknown(reading: Reading, name: str, words: NDArray[Any]) -> NDArray[np.bool_]:
    if name not in reading.allowed:
        return np.asarray(words == "", np.bool_)
    return ~np.isin(words, tuple(reading.allowed[name]))
