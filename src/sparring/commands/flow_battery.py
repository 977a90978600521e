"""What a detector of flows is put through in a claim: feasible, generated, searched and infeasible adversarial rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring import systems
from sparring.attacks.apgd import apgd
from sparring.commands.arms import as_bits
from sparring.commands.flow_train import held_out_benign, scores
from sparring.commands.flow_trees import trees
from sparring.core.gradient import frozen
from sparring.core.payoff import margin
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.flow import artefact
from sparring.domains.flow.check import violations
from sparring.domains.flow.data import MALICIOUS, FlowData
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.generator import Generator, mimic
from sparring.domains.flow.search import search
from sparring.evaluation.detection import auroc, threshold_at

EPS = (0.05, 0.1, 0.2, 0.3)
"""Radii of the attacked detection rates, beside the trial's own."""


@dataclass(frozen=True)
class Trial:
    """How every arm is judged.

    Args:
        n: malicious test flows to attack; 0 attacks all.
        eps: radius of the attacks that have one radius.
        false_positives: share of held-out benign flows that may raise an alarm.
        seed: of the choice of flows.
    """

    n: int
    eps: float
    false_positives: float
    seed: int

    @property
    def radii(self) -> list[float]:
        """Of the attacks that have several."""
        return sorted({*EPS, self.eps})


def drawn(data: FlowData, trial: Trial) -> Tensor:
    """Malicious test rows, the same for every arm and seed."""
    rows = (data.test.y == MALICIOUS).nonzero().squeeze(1)
    if not trial.n or trial.n >= len(rows):
        return rows
    chance = torch.Generator().manual_seed(derive(trial.seed, "flows"))
    return rows[torch.randperm(len(rows), generator=chance)[: trial.n].sort().values]


def attacked(folder: Path, data: FlowData, trial: Trial, seed: int, other: Generator) -> dict[str, Any]:
    """Everything about one detector: clean rates, and detection under each attack. `other` is a generator that no arm
    was trained with."""
    detector = artefact.load(folder / artefact.FILE)
    model, threshold = detector.model, detector.threshold
    rows = drawn(data, trial)
    x = data.test.x[rows]
    caught = {"clean": scores(model, x) > threshold}
    infeasible = 0
    for eps in trial.radii:
        z = _strongest(model, x, Feasible(data.preprocessing, eps), seed)
        infeasible += _infeasible(data, rows, x, z)
        caught[f"feasible {eps:g}"] = caught["clean"] & (scores(model, z) > threshold)
    chance = torch.Generator().manual_seed(derive(seed, "mimic"))
    z = mimic(_margin(model), x, Feasible(data.preprocessing, trial.eps), generator=other, draws=50, rng=chance)
    infeasible += _infeasible(data, rows, x, z)
    caught[f"generated {trial.eps:g}"] = caught["clean"] & (scores(model, z) > threshold)
    loose = _strongest(model, x, unconstrained(data.preprocessing, trial.eps), seed)
    caught[f"unconstrained {trial.eps:g}"] = caught["clean"] & (scores(model, loose) > threshold)
    return _facts(data, rows, caught, scores(model, data.test.x), threshold, infeasible)


def _strongest(model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Tensor:
    """Auto-PGD on the margin, 50 steps from two random starts: of each row the z with the highest one."""
    parts = []
    with frozen(model) as seen:
        for k, part in enumerate(x.split(1000)):
            rng = torch.Generator().manual_seed(derive(seed, "attack", k))
            parts.append(apgd(_margin(seen), part, threat, steps=50, restarts=2, rng=rng))
    return torch.cat(parts)


def _margin(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """How far benign is ahead of malicious, `[B]`: what the attacker of malicious flows ascends."""

    def gain(z: Tensor, /) -> Tensor:
        return margin(model(z), torch.full((len(z),), MALICIOUS))

    return gain


def _infeasible(data: FlowData, rows: Tensor, x: Tensor, z: Tensor) -> int:
    """How many of the changed rows the independent check refuses, beyond what the originals break already."""
    original = data.test.table.take(rows.numpy())
    sound = violations(original, original).feasible
    moved = (z != x).any(1).numpy()
    changed = data.preprocessing.to_table(z, original)
    return int((~violations(original, changed).feasible & sound & moved).sum())


def forest(folder: Path, data: FlowData, trial: Trial, seed: int) -> dict[str, Any]:
    """Gradient-boosted trees: attacked by what broke the standard network, and by a black-box search."""
    model = trees(data, systems.find("ddos").training.validation, seed)
    benign = held_out_benign(data, systems.find("ddos").training, seed)
    threshold = threshold_at(model(benign), trial.false_positives)
    rows = drawn(data, trial)
    x = data.test.x[rows]
    caught = {"clean": model(x) > threshold}
    substitute, infeasible = artefact.load(folder / artefact.FILE).model, 0
    for eps in trial.radii:
        threat = Feasible(data.preprocessing, eps)
        moved = _strongest(substitute, x, threat, seed)
        caught[f"feasible {eps:g}"] = caught["clean"] & (model(moved) > threshold)
        if eps == trial.eps:
            rng = torch.Generator().manual_seed(derive(seed, "search"))
            found = search(lambda z, /: -model(z), x, threat, queries=200, rng=rng)
            infeasible += _infeasible(data, rows, x, found)
            caught[f"search {eps:g}"] = caught["clean"] & (model(found) > threshold)
            caught[f"feasible {eps:g}"] &= caught[f"search {eps:g}"]
        infeasible += _infeasible(data, rows, x, moved)
    return _facts(data, rows, caught, model(data.test.x), threshold, infeasible)


def _facts(
    data: FlowData, rows: Tensor, caught: dict[str, Tensor], every: Tensor, threshold: float, infeasible: int
) -> dict[str, Any]:
    malicious = data.test.y == MALICIOUS
    unseen = torch.from_numpy(data.unseen)
    called = every > threshold
    at_test = threshold_at(every[~malicious], 0.01)
    return {
        "caught": {name: as_bits(each) for name, each in caught.items()},
        "unseen rows": as_bits(unseen[rows]),
        "detection": called[malicious].double().mean().item(),
        "detection, seen types": called[malicious & ~unseen].double().mean().item(),
        "detection, unseen types": called[malicious & unseen].double().mean().item() if unseen.any() else None,
        "false positives": called[~malicious].double().mean().item(),
        "detection at 1 % false positives on the test": (every[malicious] > at_test).double().mean().item(),
        "AUROC": auroc(every, malicious),
        "threshold": threshold,
        "infeasible": infeasible,
    }
