"""The benchmarks that a reader is sent to still run: the GPU recipe in the small, and the fits by closed form."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.domains.image import data as image_data
from sparring.domains.image import models
from sparring.domains.image.source import Dataset

FOLDER = Path(__file__).parent.parent / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cifar_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits as colour images of CIFAR's size: the recipe's path without its data."""
    digits = image_data.load("digits")

    class Large:
        def __init__(self, source: Any) -> None:
            self.source = source

        def __len__(self) -> int:
            return 128

        def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            x, y = self.source.take(rows)
            return nn.functional.interpolate(x, size=32).expand(-1, 3, -1, -1).contiguous(), y

    class Both:
        train, test = Large(digits.train), Large(digits.test)

    def load(*_: Any) -> Dataset:
        return Both()  # type: ignore[return-value]

    monkeypatch.setattr(image_data, "load", load)


def test_the_speed_run_runs_in_the_small_on_a_cpu(
    cifar_like: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--model small-conv --examples 128 --epochs 2 --batch-size 32 --steps 2 --n 16 --suite quick --compile off"
    monkeypatch.setattr(sys, "argv", ["speedrun_cifar10.py", *small.split(), "--device", "cpu"])
    speedrun = benchmark("speedrun_cifar10")
    one = speedrun.pgd_challenge
    monkeypatch.setattr(
        speedrun, "pgd_challenge", lambda *a, **k: one(*a, **{**k, "steps": 2, "restarts": 1, "step_size": None})
    )
    speedrun.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(found) == {"seconds", "hardware", "n", "clean", "pgd-50-10", "quick"}
    assert 0 <= found["quick"] <= found["clean"] <= 1


def test_the_whitened_stem_makes_patches_white() -> None:
    """With the ridge of 1e-2 taken off, the covariance of the filters' answers is the identity: v / (v + ridge)."""
    torch.manual_seed(0)
    model = models.build("preact-resnet18", (3, 32, 32), 10, (0.0,) * 3, (1.0,) * 3)
    x = nn.functional.avg_pool2d(torch.rand(200, 3, 36, 36), 5, 1)  # smooth, as pictures are
    benchmark("speedrun_cifar10").whitened(model, x)
    stem = model[1]
    answers = nn.functional.conv2d(x, stem.weight[:27]).permute(1, 0, 2, 3).flatten(1)
    variance = answers.var(dim=1)
    patches = nn.functional.unfold(x, 3).permute(1, 0, 2).flatten(1)
    values = torch.linalg.eigvalsh(torch.cov(patches).double()).flip(0).float()
    torch.testing.assert_close(variance, values / (values + 1e-2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(stem.weight[27:54], -stem.weight[:27])


def test_the_exponent_of_a_power_law_is_found() -> None:
    exponent = benchmark("cost_growth").exponent
    assert exponent([1, 2, 4, 8], [3 * size**1.5 for size in (1, 2, 4, 8)]) == pytest.approx(1.5)
