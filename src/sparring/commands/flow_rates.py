"""What a detector finds and raises for nothing, clean and attacked: at its threshold, at fixed rates, by kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.core.seeds import derive
from sparring.domains.flow.data import FlowData
from sparring.evaluation.detection import auroc, threshold_at
from sparring.evaluation.detection_curve import area, curve
from sparring.evaluation.interval import wilson

SHARES = (0.001, 0.01, 0.05)
"""Rates of false alarms at which detectors are compared."""

Fact = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Severities:
    """What the detector says, all float64, above 0 an alarm.

    Args:
        held_out: of benign training flows that no weight has seen.
        benign: of the test's benign flows.
        malicious: of all its malicious flows, as they came.
        attacked: of those that were attacked, each as it was worst for the detector.
        rows: which of the malicious flows were attacked, indices into `malicious`.
    """

    held_out: Tensor
    benign: Tensor
    malicious: Tensor
    attacked: Tensor
    rows: Tensor


def rates(found: Severities, data: FlowData, seed: int) -> Fact:
    """All figures that follow from the severities, as a record keeps them: `all` is of every malicious flow of the
    test as it came, `clean` of those that were attacked as they came, `attacked` of the same ones under attack."""
    malicious = data.test.table.malicious
    kinds, names = data.test.kinds[malicious].astype(str), data.test.names[malicious].astype(str)
    unseen = data.unseen[malicious]
    by_name = _by(found, names)
    for name, fact in by_name.items():
        first = int(np.flatnonzero(names == name)[0])
        fact |= {"kind": str(kinds[first]), "seen": not bool(unseen[first])}
    parts = _by(found, np.where(unseen, "unseen", "seen"))
    chance = torch.Generator().manual_seed(derive(seed, "resampling"))
    clean = found.malicious[found.rows]
    return {
        "detection": share(found.malicious > 0),
        "false_alarms": share(found.benign > 0),
        "at_rates": {f"{100 * each:g} %": _at(found, each) for each in SHARES},
        "auroc": {
            "all": area(found.benign, found.malicious, chance),
            "clean": area(found.benign, clean, chance),
            "attacked": area(found.benign, found.attacked, chance),
        },
        "roc": {
            "benign": len(found.benign),
            "malicious": len(found.attacked),
            "clean": curve(found.benign, clean),
            "attacked": curve(found.benign, found.attacked),
        },
        "kinds": _by(found, kinds),
        "names": by_name,
        "types": parts,
    }


def share(hits: Tensor) -> Fact | None:
    """`{"rate", "low", "high", "n"}` of bools `[n]` with Wilson's 95 % interval; None of none."""
    n, many = len(hits), int(hits.sum())
    if not n:
        return None
    low, high = wilson(many, n)
    return {"rate": many / n, "low": low, "high": high, "n": n}


def _at(found: Severities, allowed: float) -> Fact:
    """With a threshold that so many of the benign flows held out are above, at most."""
    threshold = threshold_at(found.held_out, allowed)
    return {
        "held_out": share(found.held_out > threshold),
        "false_alarms": share(found.benign > threshold),
        "all": share(found.malicious > threshold),
        "clean": share(found.malicious[found.rows] > threshold),
        "attacked": share(found.attacked > threshold),
    }


def _by(found: Severities, words: NDArray[Any]) -> dict[str, Fact]:
    """The same of every word that a malicious flow has, and how well its flows are told from the benign; of those that
    were attacked only where there are any."""
    drawn, clean = words[found.rows.numpy()], found.malicious[found.rows]
    facts = {}
    for word in sorted(set(words.tolist())):
        every = found.malicious[torch.from_numpy(words == word)]
        own = torch.from_numpy(drawn == word)
        facts[str(word)] = {
            "all": share(every > 0),
            "clean": share(clean[own] > 0),
            "attacked": share(found.attacked[own] > 0),
            "auroc": {
                "all": _auroc(found.benign, every),
                "attacked": _auroc(found.benign, found.attacked[own]) if own.any() else None,
            },
        }
    return facts


def _auroc(benign: Tensor, malicious: Tensor) -> float:
    labels: Sequence[bool] = [False] * len(benign) + [True] * len(malicious)
    return auroc(torch.cat([benign, malicious]), torch.tensor(labels))
