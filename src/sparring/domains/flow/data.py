"""A set of flows ready to train on: vectors and labels, fitted preprocessing, and what kind of traffic each row is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.domains.flow.layout import DataError
from sparring.domains.flow.nsl_kdd import classes as nsl_kdd_classes
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.read import NAMES, read
from sparring.domains.flow.schema import Schema
from sparring.domains.flow.table import Table

CLASSES = ("benign", "malicious")
MALICIOUS = 1
"""The label of a row that is an attack."""

SPLIT = 20240607
"""Seed of the split of a set that comes as one table."""

CUSTOMARY = {"nsl-kdd": ("dos",)}
"""Kinds of attack that are kept where nobody says which, by schema; all of the others."""


@dataclass(frozen=True, eq=False)
class Flows:
    """Rows as a model sees them.

    Args:
        table: as they were in the file.
        x: vectors `[N, d]`, float32 in [0, 1].
        y: 0 benign, 1 malicious, int64 `[N]`.
        kinds: `benign`, or the kind of attack, `[N]` str objects.
        names: the attack by name, or the label of a benign row, `[N]` str objects.
    """

    table: Table
    x: Tensor
    y: Tensor
    kinds: NDArray[Any]
    names: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """`(x, y)` of these rows."""
        return self.x[rows], self.y[rows]


@dataclass(frozen=True, eq=False)
class FlowData:
    """A set of flows.

    Args:
        name: for records and messages.
        train, test: the rows.
        preprocessing: fitted on the training rows.
        fingerprint: SHA-256 of labels and vectors.
        kinds: of attack that were kept beside benign rows; none means all.
    """

    name: str
    train: Flows
    test: Flows
    preprocessing: Preprocessing
    fingerprint: str
    kinds: tuple[str, ...] = ()

    @property
    def unseen(self) -> NDArray[np.bool_]:
        """Which test rows are attacks by a name that no training row has, bool `[N]`."""
        return self.test.table.malicious & ~np.isin(self.test.names.astype(str), sorted(set(self.train.names.tolist())))


def load(
    name: str,
    root: str | Path | None = None,
    *,
    kinds: tuple[str, ...] | None = (),
    schema: Schema | None = None,
) -> FlowData:
    """A set of flows by name or path.

    Args:
        name: `nsl-kdd`, `unsw-nb15`, `cic-ddos2019`, or a path, as `sparring.domains.flow.read` takes it. Where there
            is one table, a fixed quarter of every kind of traffic is the test.
        root: folder that named sets are looked for in; by default the environment variable SPARRING_DATA.
        kinds: of attack to keep, beside benign rows; none or `all` keeps all, None what is customary. NSL-KDD: dos,
            probe, r2l, u2r; others by label.
        schema: what the rows of a file are, where they are not those of a published set.

    Raises:
        DataError: where there is no such data, it holds no benign or no malicious rows, or a kind is not in it.
    """
    tables = read(name, root, schema)
    if schema is not None and not schema.label:
        raise DataError(f"The schema {schema.name!r} must name the column that says what a row is ('label').")
    if not all(len(table.labels) for table in tables):
        raise DataError(f"{name} must have the column {tables[0].schema.label!r}, which says what a row is.")
    kinds = CUSTOMARY.get(tables[0].schema.name, ()) if kinds is None else kinds
    train, test = tables if len(tables) == 2 else _divided(_one(tables))
    train, test = (_kept(part, kinds) for part in (train, test))
    preprocessing = Preprocessing.fit(train)
    parts = [_flows(part, preprocessing) for part in (train, test)]
    for part, where in zip(parts, ("train", "test"), strict=True):
        if len(part.y.unique()) < 2:
            raise DataError(f"{name} {where}: there must be benign and malicious rows. Got one of the two only.")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.y.numpy().astype("<i8").tobytes())
        digest.update(part.x.numpy().astype("<f4").tobytes())
    return FlowData(Path(name).name, parts[0], parts[1], preprocessing, digest.hexdigest(), kinds)


def kinds_of(table: Table) -> NDArray[Any]:
    """What kind of traffic each row is: `benign`, else the class of its attack where the set has classes, else its
    label, `[N]` str objects."""
    labels = table.labels.astype(object)
    if table.schema.name == NAMES[0]:
        labels = nsl_kdd_classes(labels)
    return np.where(table.malicious, labels, "benign").astype(object)


def _flows(table: Table, preprocessing: Preprocessing) -> Flows:
    y = torch.from_numpy(table.malicious.astype(np.int64))
    return Flows(table, preprocessing.encode(table), y, kinds_of(table), table.labels)


def _kept(table: Table, kinds: tuple[str, ...]) -> Table:
    if kinds in ((), ("all",)):
        return table
    found = kinds_of(table)
    for kind in kinds:
        if kind not in found:
            raise DataError(f"The kinds of attack must be among {', '.join(sorted(set(found)))}. Got {kind!r}.")
    return table.take(np.isin(found.astype(str), ("benign", *kinds)))


def _one(tables: tuple[Table, ...]) -> Table:
    """Several files of one set as one table."""
    if len(tables) == 1:
        return tables[0]
    columns = {name: np.concatenate([t.columns[name] for t in tables]) for name in tables[0].schema.names}
    return Table(tables[0].schema, columns, np.concatenate([t.labels for t in tables]))


def _divided(table: Table) -> tuple[Table, Table]:
    """Three quarters and one quarter of every kind of traffic, the same rows always."""
    chance, test = np.random.RandomState(SPLIT), np.zeros(len(table), bool)
    found = kinds_of(table)
    for kind in sorted(set(found)):
        rows = np.flatnonzero(found == kind)
        test[chance.permutation(rows)[: len(rows) // 4]] = True
    return table.take(~test), table.take(test)
