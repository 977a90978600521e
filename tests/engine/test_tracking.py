"""Experiment trackers: what they are told is what the record holds, and a missing one is named before anything runs."""

from pathlib import Path
from typing import Any

import pytest
from jobs import job

from sparring.engine import tracking
from sparring.engine.run import train


def test_tensorboard_shows_the_record_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    facts = train(job(epochs=2), tmp_path / "run", log="tensorboard")
    shown = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert set(shown.Tags()["scalars"]) >= {"loss", "learning_rate", "validation.clean", "validation.robust", "seconds"}
    for name, values in (
        ("loss", [entry["loss"] for entry in facts["history"]]),
        ("validation.robust", [entry["validation"]["robust"] for entry in facts["history"]]),
    ):
        told = shown.Scalars(name)
        assert [event.step for event in told] == [1, 2]
        assert [event.value for event in told] == pytest.approx(values)


class Notebook:
    """A tracker that remembers what it was told."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        self.parameters, self.told, self.done = parameters, [], None
        books.append(self)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.told.append((step, metrics))

    def close(self, *, done: bool) -> None:
        self.done = done


books: list[Notebook] = []


def test_a_tracker_is_told_the_configuration_every_epoch_and_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.clear()
    monkeypatch.setattr(tracking, "TRACKERS", (("tensorboard", Notebook),))
    monkeypatch.setattr(tracking, "check", lambda name: None)
    facts = train(job(epochs=2), tmp_path / "run", log="tensorboard")
    with pytest.raises(RuntimeError):
        train(job(epochs=2, learning_rate=1e30), tmp_path / "broken", log="tensorboard")
    good, broken = books
    assert good.parameters["training.epochs"] == 2
    assert good.parameters["config.eps"] == 0.15
    assert good.told == [(entry["epoch"], tracking.flat(entry)) for entry in facts["history"]]
    assert (good.done, broken.done) == (True, False)


def test_a_tracker_that_is_not_installed_is_named_with_its_extra_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"--log wandb needs the extra 'wandb': pip install 'sparring\[wandb\]'"):
        train(job(), tmp_path / "run", log="wandb")
    assert not (tmp_path / "run").exists()


def test_nested_names_are_joined_by_a_dot() -> None:
    assert tracking.flat({"a": {"b": 1, "c": {"d": "e"}}, "f": 2}) == {"a.b": 1, "a.c.d": "e", "f": 2}
