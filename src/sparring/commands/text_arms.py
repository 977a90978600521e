"""The arms of a claim about text classifiers: trained from the same seeds, attacked on the same texts, kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparring import systems
from sparring.commands.arms import as_bits, digest, from_bits
from sparring.commands.flags import say
from sparring.commands.text_battery import Budget
from sparring.commands.text_evaluate import drawn
from sparring.commands.text_material import Material, Where
from sparring.commands.text_measured import Measured, measured
from sparring.commands.text_train import train_run
from sparring.domains.text import artefact
from sparring.engine import checkpoint, record
from sparring.engine.system import Changes
from sparring.evaluation.claim import Arm, over_seeds
from sparring.evaluation.claim_table import share

WORST = "worst"
"""The metric: whether a text stands under every attack on it."""


@dataclass(frozen=True)
class Sizes:
    """What is spent: runs of each arm, their epochs, training texts (0 uses all) and test texts to attack."""

    seeds: int
    epochs: int
    examples: int
    n: int

    def changed(self, flags: Any) -> "Sizes":
        """With what the flags say. Raises ValueError for a bad one."""
        given = {
            name: value for name in ("seeds", "epochs", "examples", "n") if (value := getattr(flags, name)) is not None
        }
        for name, least in (("seeds", 1), ("epochs", 1), ("examples", 0), ("n", 2)):
            if given.get(name, least) < least:
                raise ValueError(f"The {name!r} parameter must be an int >= {least}. Got {given[name]} instead.")
        return replace(self, **given)


@dataclass(frozen=True)
class Contest:
    """What all arms of a claim share.

    Args:
        system: its name.
        where: data, tokenizer, model and substitutes.
        sizes: what is spent.
        budget: what the attacker may do.
        root: the folder of the runs.
        made: the material that `where` gives, for judging.
        command: what the user typed.
    """

    system: str
    where: Where
    sizes: Sizes
    budget: Budget
    root: Path
    made: Material
    command: str

    def folder(self, name: str, changes: Changes, seed: int) -> Path:
        """Of a run; another for any other configuration."""
        same = [asdict(replace(self.where, run=None, seed=0, data_root=None)), self.sizes.epochs]
        same += [self.sizes.examples, changes]
        return self.root / self.system / f"{name}-{digest(json.loads(json.dumps(same, default=str)))}-{seed}"

    def judged(self, name: str, changes: Changes, seed: int) -> dict[str, Any]:
        """Train and attack, or read what was found before."""
        folder = self.folder(name, changes, seed)
        if not ((folder / artefact.FILE).exists() and record.read(folder)["status"] == "done"):
            system = systems.find(self.system)
            config = replace(system.config(), **dict(changes))
            training = replace(system.training, epochs=self.sizes.epochs, examples=self.sizes.examples, device="cpu")
            folder.parent.mkdir(parents=True, exist_ok=True)
            train_run(system, config, training, replace(self.where, run=folder, seed=seed), self.command)
        file = folder / f"attacked-{digest([asdict(self.budget), self.sizes.n])}.json"
        if not file.exists():
            say(f"attacking {name}, seed {seed}")
            checkpoint.write(file, json.dumps(self._attacked(folder), allow_nan=False).encode())
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def _attacked(self, folder: Path) -> dict[str, Any]:
        classifier = artefact.load(folder / artefact.FILE)
        rows = drawn(self.made, classifier, self.sizes.n, 0)
        found = measured(classifier, self.made, self.made.data.test, rows, self.budget, 0)
        timing = record.read(folder)["timing"]
        return {**in_json(found), "step_ratio": timing["step_ratio"], "seconds": timing["seconds"]}


def in_json(found: Measured) -> dict[str, Any]:
    """What a claim keeps of an evaluation."""
    queries = [one["queries"] for one in found.results.values() if "queries" in one]
    changed = [one["changed"] for one in found.results.values() if one.get("changed") is not None]
    flagged = {f"false alarms, {name}": one["accuracy"] for name, one in (found.false_positives or {}).items()}
    return {
        "right": {name: as_bits(each) for name, each in found.outcomes.items()},
        "doubts": [one["name"] for one in found.checks if one["verdict"] == "fail"],
        "single": {
            "queries": sum(queries),
            **({"words changed": sum(changed) / len(changed)} if changed else {}),
            **flagged,
        },
    }


def arm(name: str, by_seed: Mapping[int, Mapping[str, Any]]) -> Arm:
    """An arm as claims take it, with the standing of every text under each attack."""
    results = {seed: {key: from_bits(bits) for key, bits in one["right"].items()} for seed, one in by_seed.items()}
    return Arm(name, results, tuple(sorted({doubt for one in by_seed.values() for doubt in one["doubts"]})))


def figures(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds of every figure, as JSON types; attack success is on the texts that are right when clean."""
    ones = list(by_seed.values())
    found: dict[str, list[float]] = {}
    for one in ones:
        right = {name: from_bits(bits) for name, bits in one["right"].items()}
        clean = right["clean"]
        for name, each in right.items():
            found.setdefault(name, []).append(each.double().mean().item())
        success = (clean & ~right[WORST]).sum().item() / max(1, int(clean.sum()))
        single = {"success of the worst": success, **one["single"], "times a standard step": one["step_ratio"]}
        for name, value in single.items():
            found.setdefault(name, []).append(value)
    return {name: {**over_seeds(each), "by_seed": each} for name, each in found.items()}


COUNTS = ("queries", "times a standard step")
"""Figures that are no shares."""


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms as a table: one a column, one figure a line; shares in percent with the standard error over seeds."""
    keys = list(dict.fromkeys(key for row in rows for key in row["figures"]))
    width = max(map(len, keys))
    found = ["  " + " " * width + "".join(str(row["name"]).rjust(13) for row in rows)]
    for key in keys:
        cells = [_cell(key, row["figures"].get(key)) for row in rows]
        found.append("  " + key.ljust(width) + "".join(each.rjust(13) for each in cells))
    return found


def _cell(key: str, figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['mean']:.1f}" if key in COUNTS else share(figure)
