"""Frozen records with some fields changed: by `(name, value)` pairs, or by `key=value` words of a command line."""

import difflib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from sparring.commands.flags import parse
from sparring.engine.system import Changes

T = TypeVar("T")


def replaced(facts: T, changes: Changes) -> T:
    """The record with those fields changed that it has."""
    known = {field.name for field in fields(facts)}  # type: ignore[arg-type]
    return replace(facts, **{name: value for name, value in changes if name in known})  # type: ignore[type-var]


def changed(facts: T, words: Sequence[str], flag: str) -> T:
    """The record with the fields that `key=value` words change. Raises ValueError for a word that is none."""
    known_only(words, (facts,), flag)
    arguments = []
    for word in words:
        key, _, value = word.partition("=")
        dashed = key.replace("_", "-")
        if not isinstance(getattr(facts, key), bool):
            arguments += [f"--{dashed}", value]
        elif value.lower() in ("true", "false"):
            arguments.append(f"--{dashed}" if value.lower() == "true" else f"--no-{dashed}")
        else:
            raise ValueError(f"--{flag} {key} must be true or false. Got {value!r} instead.")
    return parse(type(facts), arguments, prog=f"--{flag}", description="", default=facts) if arguments else facts


def known_only(words: Sequence[str], records: Sequence[Any], flag: str) -> None:
    """Raises ValueError for a word that is no `key=value`, or whose key is a field of none of the records."""
    known = sorted({field.name for each in records for field in fields(each)})
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"--{flag} takes key=value, as in {known[0]}=... . Got {word!r} instead.")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"The key of --{flag} must be one of {', '.join(known)}. Got {key!r} instead.{hint}")
