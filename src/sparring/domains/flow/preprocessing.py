"""From rows of flows to the vectors that a model reads, and back: fitted on training rows, kept beside the model.

A vector has one coordinate in [0, 1] per numeric field, in schema order: log(1 + v) where the field says so, then
min-max over the training rows, cut to [0, 1] for rows outside them. Behind these comes one block of zeros and a one per
category field; a category that training never saw is a block of zeros.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.domains.flow.columns import Frame, check_columns
from sparring.domains.flow.scale import Scale
from sparring.domains.flow.schema import Field, Schema
from sparring.domains.flow.table import Table


@dataclass(frozen=True)
class Preprocessing:
    """What was fitted.

    Args:
        schema: of the rows.
        low, high: the least and the largest training value of each numeric field, in its own unit. A column that was
            constant has its unit (of the logarithm, where there is one) for a span instead of zero.
        categories: of each category field, the words of the training rows in sorted order.
    """

    schema: Schema
    low: tuple[float, ...]
    high: tuple[float, ...]
    categories: tuple[tuple[str, ...], ...]

    @classmethod
    def fit(cls, table: Table) -> "Preprocessing":
        """Fit on training rows, and on these only. Raises ColumnError for values that are not finite."""
        if len(table) == 0:
            raise ValueError("The 'table' parameter must have at least one row. Got 0 instead.")
        check_columns(table.schema, table.columns)
        columns = [table.columns[field.name] for field in table.schema.fields if field.numeric]
        words = [table.columns[field.name] for field in table.schema.fields if not field.numeric]
        return cls(
            table.schema,
            tuple(float(column.min()) for column in columns),
            tuple(float(column.max()) for column in columns),
            tuple(tuple(sorted(set(column.tolist()))) for column in words),
        )

    @cached_property
    def numeric(self) -> tuple[Field, ...]:
        """The numeric fields, in schema order: the first coordinates."""
        return tuple(field for field in self.schema.fields if field.numeric)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the coordinates: `src_bytes`, and `protocol_type=tcp` for those of a category."""
        words = [field.name for field in self.schema.fields if not field.numeric]
        blocks = (f"{name}={word}" for name, known in zip(words, self.categories, strict=True) for word in known)
        return (*(field.name for field in self.numeric), *blocks)

    @property
    def width(self) -> int:
        """The number of coordinates."""
        return len(self.names)

    @cached_property
    def blocks(self) -> dict[str, slice]:
        """Where the coordinates of each category field are."""
        words = [field.name for field in self.schema.fields if not field.numeric]
        ends = np.cumsum([len(self.numeric), *(len(known) for known in self.categories)]).tolist()
        return {name: slice(ends[k], ends[k + 1]) for k, name in enumerate(words)}

    @cached_property
    def scale(self) -> Scale:
        """Of the numeric fields, on the CPU."""
        return Scale.of(self.numeric, self.low, self.high)

    def encode(self, table: Table, dtype: torch.dtype = torch.float32) -> Tensor:
        """The vectors `[N, width]`. float32 tells integers up to about a million apart after the logarithm, and more
        without one; float64 tells all of them. Raises ColumnError as `check` does."""
        self.check(table.columns)
        raw = np.stack([table.columns[field.name] for field in self.numeric], axis=1).astype(np.float64)
        vectors = torch.zeros(len(table), self.width, dtype=dtype)
        vectors[:, : len(self.numeric)] = self.scale.encode(torch.from_numpy(raw)).clamp_(0.0, 1.0).to(dtype)
        for (name, block), known in zip(self.blocks.items(), self.categories, strict=True):
            index = {word: block.start + k for k, word in enumerate(known)}
            column = torch.tensor([index.get(word, -1) for word in table.columns[name].tolist()])
            seen = (column >= 0).nonzero().squeeze(1)
            vectors[seen, column[seen]] = 1.0
        return vectors

    def decode(self, u: Tensor, like: Tensor | None = None) -> Tensor:
        """The numeric values, float64 `[B, n_numeric]`, in their own units and not rounded to their types (`typed`).

        Args:
            u: vectors `[B, width]`.
            like: raw values `[B, n_numeric]` of the rows that u came from; where u still is what these encode to, bit
                for bit, they are given back, so that nothing that did not change is rounded or cut.
        """
        scale, n = self.scale.to(u.device), len(self.numeric)
        raw = scale.decode(u[:, :n].double())
        if like is None:
            return raw
        return torch.where(scale.encode(like).clamp(0.0, 1.0).to(u.dtype) == u[:, :n], like, raw)

    def typed(self, raw: Tensor) -> Tensor:
        """Raw values `[B, n_numeric]` at the nearest value of their type: an integer, a multiple of the step."""
        return self.scale.to(raw.device).typed(raw)

    def to_table(self, u: Tensor, original: Table) -> Table:
        """Rows of flows from vectors: what changed is rounded to its type, what did not is the original's value.

        Args:
            u: vectors `[N, width]`, of the dtype in which the original was encoded.
            original: the rows they came from.
        """
        if u.shape != (len(original), self.width):
            raise ValueError(
                f"The 'u' parameter must have shape {(len(original), self.width)}. Got {tuple(u.shape)} instead."
            )
        u = u.detach().cpu()
        kept = (u == self.encode(original, u.dtype)).numpy()
        raw = self.typed(self.decode(u)).numpy() + 0.0  # no -0
        columns: dict[str, NDArray[Any]] = {}
        for k, field in enumerate(self.numeric):
            columns[field.name] = np.where(kept[:, k], original.columns[field.name], raw[:, k])
        for (name, block), known in zip(self.blocks.items(), self.categories, strict=True):
            words = np.array(known, dtype=object)[u[:, block].argmax(1).numpy()]
            columns[name] = np.where(kept[:, block].all(1), original.columns[name], words)
        return Table(original.schema, {name: columns[name] for name in original.schema.names}, original.labels)

    def check(self, frame: Frame) -> None:
        """Raises ColumnError, with the column's name, where one is missing, not known, out of order or not of its
        type, or holds a number that is not finite."""
        check_columns(self.schema, frame)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types; a bound that is infinite is None."""
        fields = [
            {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in made.items()}
            for made in map(asdict, self.schema.fields)
        ]
        schema = {**asdict(self.schema), "fields": fields, "relations": list(self.schema.relations)}
        schema["benign"] = list(self.schema.benign)
        categories = [list(known) for known in self.categories]
        return {"schema": schema, "low": list(self.low), "high": list(self.high), "categories": categories}

    @classmethod
    def from_dict(cls, made: dict[str, Any]) -> "Preprocessing":
        """What `to_dict` gave."""
        schema = made["schema"]
        fields = tuple(_field(each) for each in schema["fields"])
        return cls(
            Schema(schema["name"], fields, tuple(schema["relations"]), schema["label"], tuple(schema["benign"])),
            tuple(made["low"]),
            tuple(made["high"]),
            tuple(map(tuple, made["categories"])),
        )


def _field(made: dict[str, Any]) -> Field:
    """From JSON, where a bound that is infinite is None."""
    values = dict(made)
    values["low"] = -inf if made["low"] is None else made["low"]
    values["high"] = inf if made["high"] is None else made["high"]
    return Field(**values)
