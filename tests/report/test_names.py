"""Runs on one page are told apart by what they differ in."""

from pathlib import Path
from typing import Any

import pytest

from sparring.report.read import names

Record = dict[str, Any]


def run(system: str = "egat", seed: int = 0, epochs: int = 20, **config: Any) -> Record:
    return {
        "system": system,
        "config": {"adversarial": 1.0, "mask": "none", "mix": 0.1, **config},
        "training": {"epochs": epochs, "ema_warmup": False},
        "data": {"name": "digits", "classes": ["a", "b"]},
        "model": {"spec": "small-conv"},
        "seed": seed,
    }


def called(*records: Record) -> list[str]:
    return names([Path(f"runs/{i}") for i in range(len(records))], list(records))


def test_a_system_that_is_there_once_needs_no_more() -> None:
    assert called(run("standard", seed=3), run("egat", adversarial=0.0)) == ["standard", "egat"]


def test_runs_of_a_system_are_named_by_the_settings_they_differ_in() -> None:
    found = called(run(), run("trades"), run(adversarial=0.0, mix=1.0), run(mask="given"))
    assert found == [
        *("egat, adversarial 1, mask none, mix 0.1", "trades"),
        *("egat, adversarial 0, mask none, mix 1", "egat, adversarial 1, mask given, mix 0.1"),
    ]


def test_data_model_and_training_are_settings_as_well() -> None:
    other = run(epochs=5)
    other["data"] = {"name": "mnist", "classes": ["a", "b"]}
    other["training"]["ema_warmup"] = True
    assert called(run(), other) == [
        "egat, data digits, epochs 20, ema_warmup off",
        "egat, data mnist, epochs 5, ema_warmup on",
    ]


def test_seeds_follow_the_settings() -> None:
    assert called(run(), run(seed=1)) == ["egat, seed 0", "egat, seed 1"]
    assert called(run(mix=0.0), run(seed=1)) == ["egat, mix 0, seed 0", "egat, mix 0.1, seed 1"]


def test_folders_name_what_settings_do_not_tell_apart() -> None:
    many = {"adversarial": 0.0, "mix": 0.0, "mask": "given"}
    assert called(run(), run()) == ["egat (0)", "egat (1)"]
    assert called(run(), run(epochs=5, **many)) == ["egat (0)", "egat (1)"]
    close = called(run(mix=0.12341), run(mix=0.12342), run(mix=0.5))
    assert close == ["egat (0)", "egat (1)", "egat, mix 0.5"]


@pytest.mark.parametrize("broken", [{}, {"system": 5}, {"config": 3, "seed": None, "data": []}])
def test_a_record_may_lack_anything(broken: Record) -> None:
    assert called(broken, {"system": "egat"}) == ["0", "egat"]
    lacking = called(run(), {"system": "egat", **{k: v for k, v in broken.items() if k != "system"}})
    assert len(set(lacking)) == 2
