"""A schema of your own, from a short TOML file. The file is data: nothing in it is evaluated.

    name = "our-flows"
    label = "kind"                       # the column that says what a row is; leave it out where there is none
    benign = ["ok"]                      # the labels that mean no attack
    relations = ["bytes_out <= 1500 * packets_out"]

    [[field]]
    name = "bytes_out"                   # as in the header of the files
    kind = "integer"                     # real, integer, rate, flag or category
    change = "up"                        # fixed (the default), up, down or free
    low = 0                              # the default
    high = 1e9                           # no limit, by default
    log = true                           # false, by default
    unit = "bytes"

A rate also has a `step`. A relation can only name fields whose names are letters, digits and underscores; files may
write them with blanks, capitals and other signs between (`Bytes Out`).
"""

import tomllib
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import Any

from sparring.domains.flow.check import understood
from sparring.domains.flow.layout import DataError
from sparring.domains.flow.schema import Field, Schema

_KEYS = {"name": str, "label": str, "benign": list, "relations": list, "field": list}
_FIELD_KEYS = {
    "name": str,
    "kind": str,
    "change": str,
    "low": float,
    "high": float,
    "step": float,
    "log": bool,
    "unit": str,
}
_KINDS_OF = {str: "a string", float: "a number", bool: "true or false", list: "a list"}


def declared(path: str | Path) -> Schema:
    """The schema that a TOML file declares.

    Raises:
        DataError: where the file is not there or is no TOML, a key is unknown, missing or of another type, a value is
            not allowed, or a relation cannot be read; the message names the file and the key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise DataError(f"{path} must be a TOML file. It cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} must be a TOML file: {error}") from error
    _check(content, _KEYS, ("name", "field"), str(path), "")
    words = {key: _strings(content.get(key, []), str(path), key) for key in ("benign", "relations")}
    fields = tuple(_field(each, str(path), f"field[{k}]") for k, each in enumerate(content["field"]))
    label = content.get("label", "")
    if label in [field.name for field in fields]:
        raise DataError(f"{path}: 'label' must not be a field, which the model reads. Got {label!r}.")
    if label and not words["benign"]:
        raise DataError(f"{path}: 'benign' must say which labels mean no attack, as there is a 'label'. Got none.")
    try:
        schema = Schema(content["name"], fields, words["relations"], label, words["benign"])
    except ValueError as error:
        raise DataError(f"{path}: 'field': {error}") from error
    for k, relation in enumerate(schema.relations):
        try:
            understood(relation, schema)
        except ValueError as error:
            raise DataError(f"{path}: 'relations[{k}]': {error}") from error
    return schema


def _field(entry: object, file: str, key: str) -> Field:
    if not isinstance(entry, dict):
        raise DataError(f"{file}: {key!r} must be a table, [[field]]. Got {entry!r} instead.")
    _check(entry, _FIELD_KEYS, ("name", "kind"), file, f"{key}.")
    limits: dict[str, Any] = {"high": 1.0} if entry["kind"] in ("flag", "rate") else {}
    numbers = {name: float(value) for name, value in entry.items() if _FIELD_KEYS[name] is float}
    try:
        return Field(**{**limits, **entry, **numbers})
    except ValueError as error:
        raise DataError(f"{file}: {key!r}: {error}") from error


def _check(entry: Mapping[str, Any], keys: Mapping[str, type], needed: tuple[str, ...], file: str, at: str) -> None:
    for key, value in entry.items():
        if key not in keys:
            raise DataError(f"{file}: the keys must be {', '.join(keys)}. Got '{at}{key}'.")
        wanted = keys[key]
        right = isinstance(value, wanted)
        if wanted is float:
            right = isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value)
        if not right:
            raise DataError(f"{file}: '{at}{key}' must be {_KINDS_OF[wanted]}. Got {value!r} instead.")
    for key in needed:
        if not entry.get(key):
            how = ": one [[field]] for each column" if key == "field" else ""
            raise DataError(f"{file}: '{at}{key}' must be given{how}.")


def _strings(value: list[Any], file: str, key: str) -> tuple[str, ...]:
    for k, each in enumerate(value):
        if not isinstance(each, str):
            raise DataError(f"{file}: '{key}[{k}]' must be a string. Got {each!r} instead.")
    return tuple(value)
