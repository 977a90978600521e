"""Whether a frame has the columns that a model was trained on: refused by name, before anything is computed."""

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparring.domains.flow.schema import Field, Schema


class Frame(Protocol):
    """Columns by name, in an order: a dict of arrays or a pandas DataFrame."""

    def __iter__(self) -> Any: ...

    def __getitem__(self, name: str, /) -> Any: ...


class ColumnError(ValueError):
    """A frame does not have the columns that the model was trained on."""


def check_columns(schema: Schema, frame: Frame) -> None:
    """Raises ColumnError, with the column's name, where one is missing, not known, out of order or not of its type, or
    holds a number that is not finite, or a negative one under a logarithm."""
    got = [str(name) for name in frame]
    known, held = set(schema.names), set(got)
    for name in schema.names:
        if name not in held:
            raise ColumnError(f"The column {name!r} must be there. Got {_listed(got)} instead.")
    for name in got:
        if name not in known:
            raise ColumnError(
                f"The column {name!r} must be one of the {len(known)} of {schema.name!r}. Got it as well."
            )
    for place, (name, wanted) in enumerate(zip(got, schema.names, strict=False), start=1):
        if name != wanted:
            raise ColumnError(f"The column {wanted!r} must be number {place}. Got {name!r} there instead.")
    if len(got) > len(schema.names):
        twice = next(name for name in got if got.count(name) > 1)
        raise ColumnError(f"The column {twice!r} must be there once. Got it {got.count(twice)} times.")
    for field in schema.fields:
        _check_values(field, np.asarray(frame[field.name]))


def _check_values(field: Field, values: NDArray[Any]) -> None:
    if not field.numeric:
        wrong = None if values.dtype.kind == "U" else next((v for v in values.tolist() if not isinstance(v, str)), None)
        if wrong is not None or values.dtype.kind not in "OU":
            got = values.dtype if wrong is None else f"{wrong!r} ({type(wrong).__name__})"
            raise ColumnError(f"The column {field.name!r} must hold words. Got {got} instead.")
    elif values.dtype.kind not in "biuf":
        got = f"{values.dtype}, such as {values.flat[0]!r}" if values.size else f"{values.dtype}"
        raise ColumnError(f"The column {field.name!r} must hold numbers ({field.kind}). Got {got} instead.")
    elif not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise ColumnError(f"The column {field.name!r} must hold finite numbers. Got {float(wrong)!r} instead.")
    elif field.log and values.size and values.min() < 0:
        raise ColumnError(f"The column {field.name!r} must hold numbers >= 0. Got {float(values.min())!r} instead.")


def _listed(names: Iterable[str]) -> str:
    """The names, or the first few of many."""
    names = list(names)
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
