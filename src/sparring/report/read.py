"""Run folders into `Run`s: plain files in, plain values out. A record may lack anything: look-ups may say None."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.report.tensors import Stored, examples, maps, outcomes

FORMAT = 1
"""The version of the record's layout that this reader knows."""

MOST = 3
"""Settings in a run's name, at most: where runs differ in more, their folders tell them apart."""


class ReportError(ValueError):
    """A run folder cannot be reported on; the message names its path."""


@dataclass(frozen=True)
class Estimate:
    """A share of n examples, or another figure of them, and the ends of its 95 % interval; None for what the record
    does not say."""

    value: float
    low: float | None
    high: float | None
    n: int | None


@dataclass(frozen=True)
class Run:
    """One run folder.

    Args:
        folder: where it was read from.
        index: its place in the report, from 0; gives it a colour and a marker.
        letter: "A" for the first: how plots and tables name it.
        name: the system, with whatever tells it from another run of the same system.
        record: the parsed record, as found.
        examples: a few attacked inputs, as `sparring.report.tensors.examples` has them.
        outcomes: which test examples are right after each attack, likewise.
        maps: explanations of a few inputs, likewise.
    """

    folder: Path
    index: int
    letter: str
    name: str
    record: Mapping[str, Any]
    examples: Stored
    outcomes: Stored
    maps: Stored


def load(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, lettered in order. Raises ReportError."""
    if not folders:
        raise ReportError("The 'runs' parameter must name at least one run folder. Got none.")
    records = [_record(Path(folder)) for folder in folders]
    called = names([Path(folder) for folder in folders], records)
    runs = []
    for i, (folder, record, name) in enumerate(zip(folders, records, called, strict=True)):
        at = Path(folder)
        stored = (
            examples(at / "examples.safetensors"),
            outcomes(at / "outcomes.safetensors"),
            maps(at / "explanations.safetensors"),
        )
        runs.append(Run(at, i, letter(i), name, record, *stored))
    return runs


def letter(i: int) -> str:
    """0 -> "A", 25 -> "Z", 26 -> "AA"."""
    return (letter(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def find(record: Any, *keys: str) -> Any:
    """The value under nested keys, or None where the path breaks off."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def number(record: Any, *keys: str) -> float | None:
    """The finite number under nested keys, or None."""
    value = find(record, *keys)
    return float(value) if is_number(value) else None


def count(record: Any, *keys: str) -> int | None:
    """The whole number under nested keys, or None."""
    value = number(record, *keys)
    return int(value) if value is not None and value == int(value) else None


def text(record: Any, *keys: str) -> str:
    """The string under nested keys, or ""."""
    value = find(record, *keys)
    return value if isinstance(value, str) else ""


def items(record: Any, *keys: str) -> list[Mapping[str, Any]]:
    """The objects of the list under nested keys; other members are passed over."""
    value = find(record, *keys)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def mapping(record: Any, *keys: str) -> Mapping[str, Any]:
    """The object under nested keys, or an empty one."""
    value = find(record, *keys)
    return value if isinstance(value, Mapping) else {}


def estimate(record: Any, key: str = "accuracy", *, n: int | None = None) -> Estimate | None:
    """The estimate `{key, low, high, n}`, or None if its value is missing; n is for a record that has it elsewhere."""
    value = number(record, key)
    if value is None:
        return None
    own = count(record, "n")
    return Estimate(value, number(record, "low"), number(record, "high"), n if own is None else own)


def is_number(value: Any) -> bool:
    """Whether value is an int or a finite float. json reads NaN too, which diverged runs write."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"'{folder}' is no run folder: it has no record.json.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ReportError(f"'{path}' must hold a JSON object. Got {type(record).__name__} instead.")
    if record.get("format", FORMAT) != FORMAT:
        raise ReportError(f"'{path}' must be a record of format {FORMAT}. Got {record['format']!r} instead.")
    return record


def names(folders: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of each run: "egat" alone where the system is unique; else with the settings and the seed in which the
    runs of that system differ, "egat, adversarial 0, mix 1"; where these do not settle it, with the folder.

    Args:
        folders: of the runs.
        records: what was found there, in the same order; any part may be lacking.
    """
    systems = [text(record, "system") or folder.name or "run" for folder, record in zip(folders, records, strict=True)]
    found = list(systems)
    for system in set(systems):
        where = [i for i, other in enumerate(systems) if other == system]
        apart = _apart([records[i] for i in where])
        for i, words in zip(where, apart, strict=True):
            settled = bool(words) and apart.count(words) == 1
            if len(where) > 1:
                found[i] = f"{system}, {words}" if settled else f"{system} ({folders[i].name})"
    return found


def _apart(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings and the seed in which records differ, in words for each; nothing where they are too many."""
    settings = [_settings(record) for record in records]
    fields = list(dict.fromkeys(name for each in settings for name in each))
    differing = [name for name in fields if len({each.get(name) for each in settings}) > 1]
    seeds = [_word(find(record, "seed")) for record in records]
    if len(differing) > MOST:
        return [""] * len(records)
    if len(set(seeds)) > 1 and "" not in seeds:
        settings = [{**each, "seed": seed} for each, seed in zip(settings, seeds, strict=True)]
        differing.append("seed")
    return [", ".join(f"{name} {each[name]}" for name in differing if name in each) for each in settings]


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a run that is a plain value, in words: its data and model, its system's, and how it trained."""
    found = {"data": text(record, "data", "name"), "model": text(record, "model", "spec")}
    for part in ("config", "training"):
        found |= {name: _word(value) for name, value in mapping(record, part).items()}
    return {name: word for name, word in found.items() if word}


def _word(value: Any) -> str:
    """A plain value as a reader would write it; nothing for any other."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value) if isinstance(value, int | str) else ""
