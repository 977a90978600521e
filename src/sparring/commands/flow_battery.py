"""What a detector of flows is put through in a claim: feasible, generated, searched and infeasible adversarial rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring import systems
from sparring.commands.arms import as_bits
from sparring.commands.flow_attacks import EPS, against, ahead, drawn_rows, infeasible
from sparring.commands.flow_train import held_out_benign, scores
from sparring.commands.flow_trees import trees
from sparring.core.seeds import derive
from sparring.domains.flow import artefact
from sparring.domains.flow.data import MALICIOUS, FlowData
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.generator import Generator, mimic
from sparring.domains.flow.search import search
from sparring.evaluation.detection import auroc, threshold_at


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
    return drawn_rows(data, trial.n, trial.seed)


def attacked(folder: Path, data: FlowData, trial: Trial, seed: int, other: Generator) -> dict[str, Any]:
    """Everything about one detector: clean rates, and detection under each attack. `other` is a generator that no arm
    was trained with."""
    detector = artefact.load(folder / artefact.FILE)
    model, threshold = detector.model, detector.threshold
    rows = drawn(data, trial)
    x = data.test.x[rows]
    caught = {"clean": scores(model, x) > threshold}
    refused = 0
    for eps in trial.radii:
        z = against(model, x, Feasible(data.preprocessing, eps), seed)
        refused += int(infeasible(data, rows, x, z).sum())
        caught[f"feasible {eps:g}"] = caught["clean"] & (scores(model, z) > threshold)
    chance = torch.Generator().manual_seed(derive(seed, "mimic"))
    z = mimic(ahead(model), x, Feasible(data.preprocessing, trial.eps), generator=other, draws=50, rng=chance)
    refused += int(infeasible(data, rows, x, z).sum())
    caught[f"generated {trial.eps:g}"] = caught["clean"] & (scores(model, z) > threshold)
    loose = against(model, x, unconstrained(data.preprocessing, trial.eps), seed)
    caught[f"unconstrained {trial.eps:g}"] = caught["clean"] & (scores(model, loose) > threshold)
    return _facts(data, rows, caught, scores(model, data.test.x), threshold, refused)


def forest(folder: Path, data: FlowData, trial: Trial, seed: int) -> dict[str, Any]:
    """Gradient-boosted trees: attacked by what broke the standard network, and by a black-box search."""
    model = trees(data, systems.find("ddos").training.validation, seed)
    benign = held_out_benign(data, systems.find("ddos").training, seed)
    threshold = threshold_at(model(benign), trial.false_positives)
    rows = drawn(data, trial)
    x = data.test.x[rows]
    caught = {"clean": model(x) > threshold}
    substitute, refused = artefact.load(folder / artefact.FILE).model, 0
    for eps in trial.radii:
        threat = Feasible(data.preprocessing, eps)
        moved = against(substitute, x, threat, seed)
        caught[f"feasible {eps:g}"] = caught["clean"] & (model(moved) > threshold)
        if eps == trial.eps:
            rng = torch.Generator().manual_seed(derive(seed, "search"))
            found = search(lambda z, /: -model(z), x, threat, queries=200, rng=rng)
            refused += int(infeasible(data, rows, x, found).sum())
            caught[f"search {eps:g}"] = caught["clean"] & (model(found) > threshold)
            caught[f"feasible {eps:g}"] &= caught[f"search {eps:g}"]
        refused += int(infeasible(data, rows, x, moved).sum())
    return _facts(data, rows, caught, model(data.test.x), threshold, refused)


def _facts(
    data: FlowData, rows: Tensor, caught: dict[str, Tensor], every: Tensor, threshold: float, refused: int
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
        "infeasible": refused,
    }
