"""The texts of a file that an attack is pointed at: rows with a text and a class, and those set aside."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.domains.text.files import DataError
from sparring.domains.text.labelled import labelled
from sparring.domains.text.records import LABEL_COLUMNS, Aside, column, read
from sparring.domains.text.words import Text

ANY = "any"
"""Stands in the place of a label where a file has none."""


@dataclass(frozen=True)
class Given:
    """Texts to attack.

    Args:
        numbers: of their rows in the file.
        strings: the texts, none without a word.
        labels: their classes, as indices; None where the file has no labels.
        aside: rows that are not used, and why.
    """

    numbers: list[int]
    strings: list[str]
    labels: list[int] | None
    aside: list[Aside]


def given(
    path: Path, classes: Sequence[str], *, text: str | None = None, label: str | None = None, limit: int = 0
) -> Given:
    """The rows of a file that can be used; the others are set aside and stop nothing.

    Args:
        path: TSV, CSV, JSONL, JSON or parquet.
        classes: of the model. A label is the name of one, in any case, or its number from 0.
        text, label: columns; by default the likeliest by name. A file without any for the label has no labels.
        limit: rows used at most, the first ones; 0 for all.

    Raises:
        DataError: where the file cannot be read, a column that was asked for is not there, or no row can be used.
    """
    records = read(path, label=label)
    has_labels = True
    try:
        column(records, LABEL_COLUMNS, label, "label")
    except DataError:
        if label is not None:
            raise
        has_labels, label = False, ANY
        rows = [(number, {**row, ANY: ANY}) for number, row in records.rows]
        records = replace(records, columns=(*records.columns, ANY), rows=rows)
    found = labelled(records, text, label)
    names = {name.lower(): k for k, name in enumerate(classes)}
    names |= {str(k): k for k in range(len(classes)) if str(k) not in names}
    aside, kept = list(found.aside), []
    for number, string, kind in found.found:
        if not len(Text.of(string)):
            aside.append(Aside(found.where, number, "has no words"))
        elif has_labels and kind.lower() not in names:
            allowed = ", ".join(classes)
            aside.append(Aside(found.where, number, f"has the label {kind!r}, which is none of {allowed}"))
        else:
            kept.append((number, string, names.get(kind.lower(), 0)))
    aside.sort(key=lambda each: each.row)
    if not kept:
        why = f" The first row set aside, row {aside[0].row}, {aside[0].reason}." if aside else ""
        raise DataError(f"{path} must have at least one row that can be used. Got none.{why}")
    kept = kept[:limit] if limit else kept
    numbers, strings, labels = (list(part) for part in zip(*kept, strict=True))
    return Given(numbers, strings, labels if has_labels else None, aside)
