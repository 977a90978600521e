"""Rows of flows in memory: one array per column, as they were in the file, and what each row is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.schema import Schema


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a schema.

    Args:
        schema: what the columns are.
        columns: by field name, `[N]`: float64 for numbers, str objects for categories.
        labels: what each row is, as the file says (`normal`, `neptune`), `[N]` str objects; empty where the file says
            nothing.
    """

    schema: Schema
    columns: dict[str, NDArray[Any]]
    labels: NDArray[Any]

    def __post_init__(self) -> None:
        if tuple(self.columns) != self.schema.names:
            raise ValueError(
                f"The columns must be those of {self.schema.name!r} in their order. Got {', '.join(self.columns)}."
            )
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) > 1 or (len(self.labels) and {len(self.labels)} != lengths):
            raise ValueError(f"All columns and the labels must be of one length. Got {sorted(lengths)}.")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def malicious(self) -> NDArray[np.bool_]:
        """Which rows are attacks, bool `[N]`."""
        return ~np.isin(self.labels.astype(str), self.schema.benign)

    def take(self, rows: NDArray[Any]) -> "Table":
        """Some of the rows, by index or mask."""
        labels = self.labels[rows] if len(self.labels) else self.labels
        return Table(self.schema, {name: column[rows] for name, column in self.columns.items()}, labels)
