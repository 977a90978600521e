"""A run that is judged by a measure of its own: where inputs are words, PGD on them is none."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from jobs import job
from torch import Tensor, nn

from sparring.engine.run import train
from sparring.engine.stream import Source


class Judge:
    """Answers with a robust accuracy that peaks in the second epoch, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], float]] = []

    def __call__(self, model: nn.Module, source: Source, rows: Tensor, rng: torch.Generator) -> dict[str, Any]:
        self.asked.append((rows.tolist(), torch.rand((), generator=rng).item()))
        return {"clean": 0.9, "robust": (0.1, 0.7, 0.4)[len(self.asked) - 1], "n": len(rows)}


def test_checkpoints_are_chosen_by_the_measure_of_the_job(tmp_path: Path) -> None:
    judge = Judge()
    run = train(dataclasses.replace(job(guard="stop"), validation=judge), tmp_path / "run")
    assert [entry["validation"]["robust"] for entry in run["history"]] == [0.1, 0.7, 0.4]
    assert run["best"] == {"epoch": 2, "clean": 0.9, "robust": 0.7}
    assert "guard" not in run  # PGD on the inputs is no measure here, so nobody takes it


def test_every_epoch_is_judged_on_the_same_examples_with_the_same_chance(tmp_path: Path) -> None:
    judge = Judge()
    train(dataclasses.replace(job(), validation=judge), tmp_path / "run")
    assert len(judge.asked) == 3
    assert judge.asked[0] == judge.asked[1] == judge.asked[2]


def test_the_measure_changes_no_weight(tmp_path: Path) -> None:
    plain = train(job(guard="off"), tmp_path / "plain")
    other = train(dataclasses.replace(job(), validation=Judge()), tmp_path / "other")
    assert [entry["loss"] for entry in plain["history"]] == [entry["loss"] for entry in other["history"]]
