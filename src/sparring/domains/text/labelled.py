"""Labelled texts: what a data set is, and the one place where rows become texts and classes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sparring.domains.text.files import DataError
from sparring.domains.text.records import LABEL_COLUMNS, LONE, TEXT_COLUMNS, Aside, Records, column
from sparring.domains.text.tokens import Tokenizer

SPLIT = 20240607
"""Seed of the split of a set that comes as one table. It never changes: results stay comparable."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of one split.

    Args:
        strings: N of them; one may be empty.
        y: classes, int64 `[N]`.
        rows: the number of each one's row in its file, int64 `[N]`.
    """

    strings: tuple[str, ...]
    y: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.strings)

    def subset(self, rows: Tensor) -> Self:
        """The texts at these indices."""
        return type(self)(tuple(self.strings[i] for i in rows.tolist()), self.y[rows], self.rows[rows])


@dataclass(frozen=True, eq=False)
class TextData:
    """A set of labelled texts.

    Args:
        name: for records and messages.
        train, validation, test: the splits; validation is empty where the set has none.
        classes: label k means `classes[k]`.
        fingerprint: SHA-256 of all texts and labels.
        aside: rows that are not used, and why.
    """

    name: str
    train: Texts
    validation: Texts
    test: Texts
    classes: tuple[str, ...]
    fingerprint: str
    aside: tuple[Aside, ...] = ()


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as ids: a source of training batches (`sparring.engine.stream.Source`).

    Args:
        texts: the split.
        tokenizer: the model's.
        length: tokens of a text, at most: longer ones are cut.
    """

    texts: Texts
    tokenizer: Tokenizer
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", self.tokenizer.encode(self.texts.strings, self.length))

    @property
    def ids(self) -> Tensor:
        """All of them, int64 `[N, L]`."""
        ids: Tensor = self.__dict__["_ids"]
        return ids

    @property
    def y(self) -> Tensor:
        return self.texts.y

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(ids, y)` of the texts at these indices: ids int64 `[n, L]`, L the most tokens that one of them has."""
        ids = self.ids[rows]
        width = int((ids != self.tokenizer.pad).sum(1).max()) if len(ids) else 0
        return ids[:, :width], self.texts.y[rows]

    @property
    def truncated(self) -> Tensor:
        """The indices of the texts that are cut, int64."""
        return (self.tokenizer.count(self.texts.strings) > self.length).nonzero().squeeze(1)


@dataclass(frozen=True)
class Rows:
    """Rows of a split before classes are numbered: number, text, label; and the rows set aside."""

    where: str
    found: list[tuple[int, str, str]]
    aside: list[Aside]
    classes: tuple[str, ...] = ()


def labelled(records: Records, text: str | Sequence[str] | None = None, label: str | None = None) -> Rows:
    """Text and label of every row that has both.

    Args:
        records: of a file.
        text: the column, or several that are joined by a space; by default the likeliest.
        label: the column; by default the likeliest.

    Raises:
        DataError: where there is no such column; it names those there are.
    """
    wanted = (text,) if text is None or isinstance(text, str) else tuple(text)
    columns = [column(records, TEXT_COLUMNS, name, "text") for name in wanted]
    label = column(records, LABEL_COLUMNS, label, "label")
    found, aside = [], list(records.aside)
    for number, row in records.rows:
        cells, kind = [row.get(name) for name in columns], _label(row.get(label))
        if not all(isinstance(cell, str) for cell in cells):
            aside.append(Aside(records.where, number, "has no text"))
        elif not kind:
            aside.append(Aside(records.where, number, "has no label"))
        else:
            string = " ".join(map(str, cells))
            if LONE.search(string):
                aside.append(Aside(records.where, number, "is not UTF-8"))
            else:
                found.append((number, string, kind))
    return Rows(records.where, found, aside, records.classes)


def assembled(
    name: str,
    train: Rows,
    validation: Rows | None = None,
    test: Rows | None = None,
    names: dict[str, str] | None = None,
) -> TextData:
    """A data set of its splits; classes are those of the training rows, in the order of their labels: numbers by value,
    words by spelling.

    Args:
        name: for records and messages.
        train, validation, test: rows; where there is no test, validation is it, and where there is neither, a fifth of
            every class of the training rows is the test, the same rows always, and no text is in both.
        names: label -> what the class is called; by default the label itself.

    Raises:
        DataError: where there are fewer than two classes, or two that differ by case only, or a row whose label no
            training row has.
    """
    labels = sorted({kind for _, _, kind in train.found}, key=_order)
    if len(labels) < 2:
        raise DataError(f"{train.where} must have at least two classes. Got {', '.join(labels) or 'none'}.")
    spelled: dict[str, str] = {}
    for kind in labels:
        if spelled.setdefault(kind.lower(), kind) != kind:
            raise DataError(f"{train.where}: two labels differ by case only: {spelled[kind.lower()]!r} and {kind!r}.")
    known = {kind: k for k, kind in enumerate(labels)}
    if test is None:
        validation, test = None, validation
    fitted = _texts(train, known)
    if test is None:
        fitted, measured = (fitted.subset(part) for part in _divided(fitted))
    else:
        measured = _texts(test, known)
    chosen = fitted.subset(torch.empty(0, dtype=torch.long)) if validation is None else _texts(validation, known)
    aside = tuple(each for rows in (train, validation, test) if rows is not None for each in rows.aside)
    held = dict(enumerate(train.classes)) if train.classes else {}
    classes = tuple((names or {}).get(kind) or held.get(_number(kind), kind) for kind in labels)
    return TextData(name, fitted, chosen, measured, classes, fingerprint(fitted, chosen, measured), aside)


def fingerprint(*splits: Texts) -> str:
    """SHA-256 of all texts and labels."""
    digest = hashlib.sha256()
    for texts in splits:
        digest.update(texts.y.numpy().astype("<i8").tobytes())
        for string in texts.strings:
            digest.update(string.encode() + b"\0")
    return digest.hexdigest()


def _texts(rows: Rows, known: dict[str, int]) -> Texts:
    for number, _, kind in rows.found:
        if kind not in known:
            raise DataError(
                f"{rows.where}, row {number}: the label must be one of the training rows', "
                f"{', '.join(known)}. Got {kind!r}."
            )
    if not rows.found:
        raise DataError(f"{rows.where} must have at least one row that can be used. Got none.")
    numbers, strings, kinds = zip(*rows.found, strict=True)
    return Texts(tuple(strings), torch.tensor([known[kind] for kind in kinds]), torch.tensor(numbers))


def _divided(texts: Texts) -> tuple[Tensor, Tensor]:
    """Indices of four fifths and one fifth of every class; where a text is there twice, both are on one side."""
    first: dict[str, int] = {}
    for row, string in enumerate(texts.strings):
        first.setdefault(string, row)
    chance, distinct, chosen = np.random.RandomState(SPLIT), torch.tensor(sorted(first.values())), set[int]()
    for label in range(int(texts.y.max()) + 1):
        rows = distinct[texts.y[distinct] == label]
        chosen.update(rows[torch.from_numpy(chance.permutation(len(rows))[: len(rows) // 5])].tolist())
    if not chosen:
        raise DataError("A set without a test split must have at least 5 texts of a class, to take a fifth of it.")
    test = torch.tensor([first[string] in chosen for string in texts.strings])
    return (~test).nonzero().squeeze(1), test.nonzero().squeeze(1)


def _label(value: object) -> str:
    """A label as a word; empty where there is none."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _number(kind: str) -> int:
    return int(kind) if kind.isascii() and kind.isdigit() else -1


def _order(kind: str) -> tuple[bool, float, str]:
    try:
        return False, float(kind), kind
    except ValueError:
        return True, 0.0, kind
