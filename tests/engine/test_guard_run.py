"""The guard inside a run: what each policy leaves, and that a killed run goes back and on exactly as one that lived."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.engine.jobs import Net, job

from sparring.engine import guard, record
from sparring.engine.job import LAST, InterruptedRunError
from sparring.engine.run import train

STEPS = 5
"""Of an epoch of the small job."""


@pytest.fixture(autouse=True)
def collapse_at_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was measured, the model has collapsed at step 10, the end of the second epoch, and never elsewhere."""

    def judge(now: guard.Reading, best: guard.Reading | None, constant: float) -> str:
        return "collapse" if now.step == 2 * STEPS and best is not None else "sound"

    monkeypatch.setattr(guard, "judge", judge)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / LAST)


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_to_warn_is_to_go_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    train(job(guard="off"), tmp_path / "off")
    facts = train(job(guard="warn"), tmp_path / "warn")
    assert same(tmp_path / "off", tmp_path / "warn")
    assert [(each["step"], each["action"]) for each in facts["guard"]] == [(10, "warn")]
    assert "Catastrophic overfitting by step 10" in facts["guard"][0]["message"]


def test_to_stop_is_to_end_there(tmp_path: Path) -> None:
    facts = train(job(guard="stop", epochs=3), tmp_path / "stop")
    assert facts["status"] == "done"
    assert [entry["epoch"] for entry in facts["history"]] == [1]
    assert facts["best"]["epoch"] == 1
    assert facts["guard"][0]["action"] == "stop"
    assert "Stopped." in facts["guard"][0]["message"]


def test_a_rollback_repeats_the_stretch_at_half_the_rate_and_otherwise(tmp_path: Path) -> None:
    """It collapses again each time, so the third rollback is the last: the run ends with the weights of step 5."""
    constant: dict[str, Any] = {"schedule": "constant", "epochs": 4}
    facts = train(job(guard="rollback", **constant), tmp_path / "rollback")
    assert [each["action"] for each in facts["guard"]] == ["rollback"] * 3 + ["stop"]
    assert facts["status"] == "done"
    train(job(guard="off", **constant | {"epochs": 1}), tmp_path / "first")
    assert same(tmp_path / "first", tmp_path / "rollback")
    assert [entry["epoch"] for entry in facts["history"]] == [1]


def test_a_run_that_is_rolled_back_once_goes_on_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = guard.judge
    rolled: list[int] = []

    def once(now: guard.Reading, best: guard.Reading | None, constant: float) -> str:
        kind = "sound" if rolled else judge(now, best, constant)
        rolled.extend([1] * (kind == "collapse"))
        return kind

    monkeypatch.setattr(guard, "judge", once)
    facts = train(job(guard="rollback", schedule="constant"), tmp_path / "run")
    assert [entry["epoch"] for entry in facts["history"]] == [1, 2, 3]
    assert [entry["learning_rate"] for entry in facts["history"]] == pytest.approx([2e-3, 1e-3, 1e-3])
    train(job(guard="off", schedule="constant"), tmp_path / "off")
    assert not same(tmp_path / "off", tmp_path / "run")


@pytest.mark.parametrize("at", [7, 12, 14])
def test_killed_around_a_rollback_a_run_ends_as_one_that_lived(tmp_path: Path, at: int) -> None:
    """Steps counted as they are played: 10 is the collapse, 11 to 15 repeat 6 to 10."""
    seen: list[int] = []

    class Stopping(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(1)
                if len(seen) == at:
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    settings: dict[str, Any] = {"guard": "rollback", "ema": 0.9}
    train(job(**settings), tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(job(model=Stopping, **settings), tmp_path / "killed", checkpoint_seconds=0.0)
    train(job(**settings), tmp_path / "killed")
    assert same(tmp_path / "whole", tmp_path / "killed")
    whole, killed = (record.read(tmp_path / name) for name in ("whole", "killed"))
    assert [each["action"] for each in whole["guard"]] == [each["action"] for each in killed["guard"]]


def test_more_than_one_check_an_epoch_finds_it_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(now: guard.Reading, best: guard.Reading | None, constant: float) -> str:
        return "collapse" if now.step > STEPS and best is not None else "sound"

    monkeypatch.setattr(guard, "judge", judge)
    facts = train(job(guard="stop", guard_checks=STEPS), tmp_path / "often")
    assert facts["guard"][0]["step"] == STEPS + 1
