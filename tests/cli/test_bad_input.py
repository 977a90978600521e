"""Bad input gets a message that names the parameter, the constraint and the value, exits with 2, and loses nothing."""

import gzip
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparring
from sparring.cli import main
from sparring.systems import NAMES

QUICK = ["--epochs", "1", "--examples", "64", "--validation-steps", "1", "--device", "cpu"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that has to fail, and return what it said, on one line."""
    try:
        got = main(arguments)
    except SystemExit as stop:
        got = stop.code
    error = capsys.readouterr().err
    assert got == code, error
    assert "Traceback" not in error
    return re.sub(r"[\s│╭╮╰╯─]+", " ", error)


@pytest.mark.parametrize("eps", ["0", "-0.1", "nan", "inf", "-8/255"])
def test_an_eps_that_is_no_radius(eps: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["train", "pgd-at", f"--eps={eps}", *QUICK], capsys)
    assert "'eps' parameter of Linf must be a number in the range (0, inf)" in said


@pytest.mark.parametrize("eps", ["big", "8/0", "1/2/3", ""])
def test_an_eps_that_is_no_number(eps: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["train", "pgd-at", "--eps", eps, *QUICK], capsys)
    assert "--eps" in said
    assert "number such as 0.03 or 8/255" in said


def test_an_eps_in_0_to_255_warns_with_the_likely_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "standard", "--eps", "8", *QUICK, "--run", "wide"]) == 0
    said = capsys.readouterr().err
    assert "did you mean 8/255 = 0.03137?" in said
    assert main(["train", "standard", "--threat", "l2", "--eps", "128", *QUICK, "--run", "wider"]) == 0
    assert "did you mean 128/255" in capsys.readouterr().err


def test_an_unusual_eps_gets_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "standard", "--eps", "0.01", *QUICK, "--run", "small"]) == 0
    assert "the customary linf radius on digits is 0.15" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "pgd-at"], "Got 'trian' instead. Did you mean 'train'?"),
        (["train", "pgdat"], "Got 'pgdat' instead. Did you mean 'pgd-at'?"),
        (["train", "zzz"], f"The system must be one of {', '.join(name for name, _ in NAMES)}. Got 'zzz' instead."),
        (["cite", "pgd"], "Did you mean 'pgd-at'?"),
        (["cite"], "cite needs one of"),
        (["evaluate"], "evaluate needs one run folder"),
        (["report"], "report needs at least one run folder"),
        (["evaluate", "nowhere"], "nowhere is not a run folder: it has no record.json"),
        (["report", "nowhere"], "nowhere"),
        (["train", "pgd-at", "--data", "cifar"], "Did you mean 'cifar10'?"),
        (["train", "pgd-at", "--model", "resnet"], "Got 'resnet'"),
        (["train", "pgd-at", "--model", "nomodule:factory"], "nomodule"),
        (["train", "pgd-at", "--epochs", "0"], "'epochs' parameter must be an int >= 1. Got 0 instead."),
        (["train", "pgd-at", "--steps", "0"], "'steps' parameter must be an int in the range [1, inf). Got 0 instead."),
        (["train", "pgd-at", "--ema", "1"], "'ema' parameter must be a number in the range [0, 1)"),
        (["train", "pgd-at", "--bogus", "1"], "--bogus"),
        (["train", "pgd-at", "--schedule", "linear"], "linear"),
    ],
)
def test_names_and_ranges(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(arguments, capsys)


def test_data_that_is_absent_says_where_it_was_looked_for(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    said = refused(["train", "pgd-at", "--data", "mnist", "--data-root", str(workplace)], capsys)
    assert "mnist was not found" in said
    assert "--data-root" in said


def npz(path: Path, x: Any, y: Any) -> str:
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return str(path)


def good() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.random((60, 8, 8, 1), dtype=np.float32), np.arange(60) % 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x * 3, y), "[0, 1]"),
        (lambda x, y: (np.where(np.arange(60)[:, None, None, None] == 4, np.nan, x), y), "NaN"),
        (lambda x, y: (x, y - 1), "-1"),
        (lambda x, y: (x, y[:-1]), "59"),
    ],
)
def test_arrays_that_are_not_images_and_labels(
    workplace: Path, change: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(workplace / "bad.npz", *change(*good()))
    said = refused(["train", "pgd-at", "--data", path, *QUICK], capsys)
    assert words in said
    assert "bad.npz" in said


def test_files_that_are_cut_short_are_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Path(npz(workplace / "whole.npz", *good())).read_bytes()
    (workplace / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cut.npz" in refused(["train", "pgd-at", "--data", "cut.npz", *QUICK], capsys)
    (workplace / "idx").mkdir()
    for name in (
        "train-images-idx3-ubyte",
        "t10k-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        with gzip.open(workplace / "idx" / f"{name}.gz", "wb") as file:
            file.write(b"\x00\x00\x08\x03\x00\x00\x00\x64\x00\x00\x00\x1c\x00\x00\x00\x1c" + bytes(50))
    assert "idx3-ubyte.gz" in refused(["train", "pgd-at", "--data", "idx", *QUICK], capsys)


def test_an_empty_folder_says_what_was_looked_for(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "empty").mkdir()
    said = refused(["train", "pgd-at", "--data", "empty", *QUICK], capsys)
    assert "empty holds no images" in said
    assert "parquet" in said


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("def f(): raise KeyError('no such thing')", "KeyError"),
        ("def f(): return 3", "nn.Module"),
        ("import torch\ndef f(): return torch.nn.Flatten()", "[2, 10]"),
        ("import torch\ndef f(): return torch.nn.Conv2d(1, 10, 3)", "[2, 10]"),
        ("g = 3", "'f'"),
    ],
)
def test_a_factory_or_a_model_that_is_not_one(
    workplace: Path, factory: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"bad{abs(hash(factory))}"
    (workplace / f"{name}.py").write_text(factory)
    said = refused(["train", "pgd-at", "--model", f"{name}:f", *QUICK], capsys)
    assert words in said
    assert not list(workplace.glob("runs/*"))


def test_a_run_folder_with_another_configuration_is_left_as_it_is(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "pgd-at", *QUICK, "--run", "one"]) == 0
    before = {path.name: path.read_bytes() for path in (workplace / "one").iterdir()}
    said = refused(["train", "pgd-at", *QUICK, "--run", "one", "--eps", "0.1"], capsys)
    assert "config.eps: 0.15 != 0.1" in said
    assert {path.name: path.read_bytes() for path in (workplace / "one").iterdir()} == before


class Trap:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch sprung",)


def test_pickled_weights_are_refused_unread(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pgd-at", *QUICK, "--run", "one"]) == 0
    (workplace / "one/best.safetensors").write_bytes(pickle.dumps(Trap()))
    assert "not a whole safetensors file" in refused(["evaluate", "one"], capsys)
    torch.save(sparring.load("one", weights="last").state_dict(), workplace / "one/best.safetensors")
    assert "Pickled weights are not read" in refused(["evaluate", "one"], capsys)
    assert not (workplace / "sprung").exists()


def test_a_hostile_resume_state_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pgd-at", *QUICK, "--run", "one"]) == 0
    record = json.loads((workplace / "one/record.json").read_text())
    record["status"] = "running"
    (workplace / "one/record.json").write_text(json.dumps(record))
    (workplace / "one/resume.pt").write_bytes(pickle.dumps(Trap()))
    assert "cannot be read as a resume state" in refused(["train", "pgd-at", *QUICK, "--run", "one"], capsys)
    assert not (workplace / "sprung").exists()


def test_weights_of_another_architecture_are_refused_by_name(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "pgd-at", *QUICK, "--run", "one"]) == 0
    from sparring.engine.checkpoint import save_weights

    save_weights(workplace / "one/best.safetensors", torch.nn.Linear(3, 2).state_dict())
    said = refused(["evaluate", "one"], capsys)
    assert "does not fit the model" in said
    assert "weight is not in the model" in said


def test_a_broken_record_is_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "one").mkdir()
    (workplace / "one/record.json").write_text("{")
    assert "record.json is not valid JSON" in refused(["evaluate", "one"], capsys)


def test_a_record_of_another_version_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pgd-at", *QUICK, "--run", "one"]) == 0
    facts = json.loads((workplace / "one/record.json").read_text())
    facts["config"]["gone"] = 1
    (workplace / "one/record.json").write_text(json.dumps(facts))
    assert "has a config that pgd-at does not take" in refused(["evaluate", "one"], capsys)


def test_data_that_changed_since_training_is_noticed(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = good()
    npz(workplace / "own.npz", x, y)
    assert main(["train", "pgd-at", "--data", "own.npz", *QUICK, "--run", "one"]) == 0
    npz(workplace / "own.npz", 1 - x, y)
    assert "must be what the run saw" in refused(["evaluate", "one"], capsys)


def test_a_loss_that_is_not_a_number_exits_with_one(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "nanmodel.py").write_text(
        "import torch\nclass M(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.f = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        out = self.f(x.flatten(1))\n"
        "        return out * float('nan') if self.training else out\n"
    )
    said = refused(["train", "pgd-at", *QUICK, "--model", "nanmodel:M", "--run", "one"], capsys, code=1)
    assert "The loss became NaN or infinite at step 1" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["train", "pgd-at", "--epochs", "1", "--device", "cuda", "--run", "one"], capsys)
    assert "'device' parameter must be a device that is there" in said


def test_a_failed_check_is_fatal_when_asked(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "hidden.py").write_text(
        "import torch\nclass M(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.f = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        x = x if self.training else (x * 2).round() / 2\n"
        "        return self.f(x.flatten(1))\n"
    )
    assert main(["train", "standard", "--epochs", "5", "--model", "hidden:M", "--run", "one", "--device", "cpu"]) == 0
    assert main(["evaluate", "one", "--examples", "50"]) == 0
    assert main(["evaluate", "one", "--examples", "50", "--fail-on-check"]) == 1


class Hostile:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> Any:
        return (open, ("gotcha", "w"))


def test_pickled_weights_are_refused_before_they_are_read(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "hostilemodel.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    )
    (workplace / "evil.pt").write_bytes(pickle.dumps(Hostile()))
    (workplace / "evil.safetensors").write_bytes(pickle.dumps(Hostile()))
    command = ["evaluate", "--model", "hostilemodel:net", "--data", "digits", "--examples", "10", "--weights"]
    assert "must be a .safetensors file (pickled weights can run code" in refused([*command, "evil.pt"], capsys)
    assert "not a whole safetensors file" in refused([*command, "evil.safetensors"], capsys)
    assert "There is no weights file" in refused([*command, "absent.safetensors"], capsys)
    assert not (workplace / "gotcha").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "mine.safetensors"], "A weights file needs its model and its data"),
        ([], "evaluate needs one run folder"),
        (["--run", "absent"], "is not a run folder"),
    ],
)
def test_an_evaluation_of_nothing_says_what_it_needs(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(["evaluate", *arguments], capsys)
