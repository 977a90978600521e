"""What each run of a report is called: its system, and what tells it from the other runs of the same system."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MOST = 3
"""Settings in a name, at most: where runs differ in more, their folders tell them apart."""

PLACES = ("config", "training")
"""Parts of a record whose fields are settings."""


def names(folders: Sequence[Path], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of each run: "egat" alone where the system is unique; else with the settings and the seed in which the
    runs of that system differ, "egat, adversarial 0, mix 1"; where these do not settle it, with the folder.

    Args:
        folders: of the runs.
        records: what was found there, in the same order; any part may be lacking.
    """
    systems = [
        _text(record.get("system")) or folder.name or "run" for folder, record in zip(folders, records, strict=True)
    ]
    found = [""] * len(systems)
    for system in set(systems):
        where = [i for i, other in enumerate(systems) if other == system]
        apart = _apart([records[i] for i in where])
        for i, words in zip(where, apart, strict=True):
            settled = words is not None and apart.count(words) == 1
            found[i] = (
                system if len(where) == 1 else f"{system}, {words}" if settled else f"{system} ({folders[i].name})"
            )
    return found


def _apart(records: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """The settings and the seed in which records differ, as words for each; None where there are none or too many."""
    settings = [_settings(record) for record in records]
    fields = list(dict.fromkeys(name for each in settings for name in each))
    differing = [name for name in fields if len({each.get(name) for each in settings}) > 1]
    seeds = [_word(record.get("seed")) for record in records]
    if len(differing) > MOST:
        return [None] * len(records)
    if len(set(seeds)) > 1 and "" not in seeds:
        settings = [{**each, "seed": seed} for each, seed in zip(settings, seeds, strict=True)]
        differing.append("seed")
    return [", ".join(f"{name} {each[name]}" for name in differing if name in each) or None for each in settings]


def _settings(record: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a run that is a plain value, in words: its data and model, its system's, and how it trained."""
    found = {"data": _word(_part(record, "data").get("name")), "model": _word(_part(record, "model").get("spec"))}
    for place in PLACES:
        found |= {name: _word(value) for name, value in _part(record, place).items()}
    return {name: word for name, word in found.items() if word}


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _word(value: Any) -> str:
    """A plain value as a reader would write it; nothing for any other."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value) if isinstance(value, int | str) else ""
