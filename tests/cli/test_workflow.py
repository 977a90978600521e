"""The command line as a newcomer uses it: train, evaluate, report, list, cite; and a user's own model and data."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sparring
from sparring.cli import main
from sparring.commands.evaluate import _drawn
from sparring.commands.train import flags_of
from sparring.engine.training import Training
from sparring.systems import find

QUICK = ["--epochs", "2", "--examples", "200", "--steps", "2", "--validation-steps", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and evaluated run."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "pgd-at", "--run", str(folder), *QUICK]) == 0
    assert main(["evaluate", str(folder), "--examples", "60"]) == 0
    return folder


def test_the_record_holds_the_evaluation_and_the_command(run: Path) -> None:
    record = json.loads((run / "record.json").read_text())
    assert record["command"].startswith("sparring train pgd-at --run")
    assert record["evaluation"]["n"] == 60
    assert record["evaluation"]["weights"] == "best"
    assert record["commit"] is None or re.fullmatch(r"[0-9a-f]{12}\+?", record["commit"])


def test_json_is_one_object_of_the_promised_shape(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json", "--examples", "40", "--seed", "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 40
    assert result["threat"] == {"norm": "linf", "eps": 0.15, "low": 0.0, "high": 1.0}
    assert result["suite"]["name"] == "quick"
    assert list(result["results"]) == ["clean", "apgd-ce", "apgd-t", "square", "worst"]
    for name, row in result["results"].items():
        assert {"accuracy", "low", "high", "n"} <= set(row)
        assert ("parameters" in row) == (name not in ("clean", "worst"))
    assert set(result["calibration"]) == {"clean", "attacked"}
    assert all(set(check) == {"name", "verdict", "figure", "advice"} for check in result["checks"])


def test_another_threat_can_be_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json", "--examples", "20", "--threat", "l2", "--eps", "1/2"]) == 0
    assert json.loads(capsys.readouterr().out)["threat"]["eps"] == 0.5


def test_the_report_is_written_for_one_run_and_for_several(run: Path, tmp_path: Path) -> None:
    assert main(["report", str(run)]) == 0
    assert main(["report", str(run), str(run), "--run", str(tmp_path / "both")]) == 0
    for folder in (run, tmp_path / "both"):
        assert "worst" in (folder / "report.md").read_text().lower()
        assert json.loads((folder / "report.json").read_text())["runs"]
        assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_the_test_images_are_drawn_by_the_seed_not_taken_from_the_front() -> None:
    rows = _drawn(450, 60, 0)
    assert torch.equal(rows, _drawn(450, 60, 0))
    assert not torch.equal(rows, _drawn(450, 60, 1))
    assert len(rows.unique()) == 60
    assert rows.max() > 300
    assert torch.equal(_drawn(450, 0, 0), torch.arange(450))
    assert torch.equal(_drawn(450, 1000, 0), torch.arange(450))


def test_load_gives_the_trained_model_back(run: Path) -> None:
    model = sparring.load(run)
    assert not model.training
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    last = sparring.load(str(run), weights="last")
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), last.parameters(), strict=True)) or (
        json.loads((run / "record.json").read_text())["best"]["epoch"] == 2
    )


def test_list_names_systems_data_models_and_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--run", str(run.parent)]) == 0
    out = capsys.readouterr().out
    for word in ("standard", "pgd-at", "mixed-at", "digits", "cifar10", "preact-resnet18", str(run), "worst case"):
        assert word in out


def test_cite_prints_bibtex_for_a_system_and_for_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite", "pgd-at"]) == 0
    by_name = capsys.readouterr().out
    assert main(["cite", "--run", str(run)]) == 0
    assert capsys.readouterr().out == by_name
    assert by_name.startswith("@inproceedings{madry2018towards")


@pytest.mark.parametrize("command", ["train", "evaluate", "report", "list", "cite"])
def test_every_command_explains_itself_and_takes_run_and_seed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command, "pgd-at", "--help"] if command == "train" else [command, "--help"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--run" in out
    assert "--seed" in out


def test_a_reader_that_has_seen_enough_gets_no_complaint() -> None:
    done = subprocess.run(
        f"{sys.executable} -m sparring train pgd-at --help | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("usage: sparring train pgd-at")
    assert done.stderr == ""


def test_the_help_of_a_system_is_its_card(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "pgd-at", "--help"])
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    for words in ("min_theta", "Madry", "--eps", "8/255", "--steps", "--data-root"):
        assert words in out


def test_radius_and_recipe_start_from_the_data_set_and_flags_override_them() -> None:
    def chosen(*arguments: str) -> Any:
        return flags_of(find("pgd-at"), arguments)

    digits, cifar, l2 = chosen(), chosen("--data", "cifar10"), chosen("--data=cifar10", "--threat", "l2")
    assert (digits.config.eps, digits.training.learning_rate) == (0.15, 8e-3)
    assert (cifar.config.eps, cifar.training.optimizer, cifar.training.augment) == (8 / 255, "sgd", "pad-crop-flip")
    assert (l2.config.threat, l2.config.eps) == ("l2", 0.5)
    own = chosen("--data", "cifar10", "--eps", "4/255", "--learning-rate", "0.05", "--optimizer", "adamw")
    assert (own.config.eps, own.training.learning_rate, own.training.optimizer) == (4 / 255, 0.05, "adamw")
    assert own.training.weight_decay == 5e-4
    assert chosen("--data", "some/folder").training == Training()


def test_by_default_a_run_gets_a_new_folder_under_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(2):
        assert main(["train", "standard", "--epochs", "1", "--examples", "64", "--device", "cpu"]) == 0
        folders.append(capsys.readouterr().out.strip())
    assert folders[0] != folders[1]
    for folder in folders:
        assert (tmp_path / folder / "record.json").exists()
        assert Path(folder).parent == Path("runs")


FACTORY = """
import torch
def small(shape, classes):
    d = shape[0] * shape[1] * shape[2]
    first, second = torch.nn.Linear(d, 32), torch.nn.Linear(32, classes)
    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), second)
def broken():
    raise KeyError("no such thing")
def wrong(shape, classes):
    return torch.nn.Flatten()
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's model, data in two formats, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "ownmodel.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.clip(rng.normal(60 + 60 * y[:, None, None, None], 20, (120, 6, 6, 3)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    for i in range(120):
        folder = tmp_path / "images" / ("train" if i < 90 else "test") / "abc"[y[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(folder / f"{i}.png")
    return tmp_path


OWN = ["--model", "ownmodel:small", "--epochs", "3", "--steps", "2", "--eps", "8/255", "--device", "cpu"]


@pytest.mark.parametrize("data", ["own.npz", "images"])
def test_a_users_own_model_and_data(workplace: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pgd-at", "--data", data, *OWN, "--run", "mine"]) == 0
    assert main(["evaluate", "mine", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert result["n"] == 30
    assert main(["report", "mine"]) == 0


def test_a_factory_that_only_a_record_names_is_not_imported(
    workplace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder from somewhere else may name anything; importing it would run it."""
    assert main(["train", "pgd-at", "--data", "own.npz", *OWN, "--run", "mine"]) == 0
    (workplace / "trap.py").write_text("open('sprung', 'w').write('x')\ndef factory(): ...\n")
    record = json.loads((workplace / "mine/record.json").read_text())
    record["model"]["spec"] = "trap:factory"
    (workplace / "mine/record.json").write_text(json.dumps(record))
    assert main(["evaluate", "mine"]) == 2
    assert "which you have not used here" in capsys.readouterr().err
    assert not (workplace / "sprung").exists()
    assert main(["evaluate", "mine", "--model", "ownmodel:small", "--examples", "5"]) == 0


def test_the_same_command_resumes_after_a_kill_without_a_run_folder_of_its_own(workplace: Path) -> None:
    """The default folder of an unfinished run is found again by what was asked for."""
    command = [sys.executable, "-m", "sparring", "train", "pgd-at", "--data", "own.npz", *OWN, "--epochs", "400"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=workplace)
    while not list(workplace.glob("runs/*/resume.pt")):
        assert child.poll() is None, child.communicate()
    child.kill()
    child.communicate()
    (folder,) = (workplace / "runs").iterdir()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=workplace, check=True)
    assert done.stdout.strip() == str(folder.relative_to(workplace))
    assert json.loads((folder / "record.json").read_text())["status"] == "done"


TINY = """
from torch import nn

def tiny(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own model, with its weights saved as safetensors, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "tinymodel.py").write_text(TINY)
    torch.manual_seed(0)
    save_file({"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}, tmp_path / "tiny.safetensors")
    return tmp_path


def test_a_model_that_sparring_did_not_train_is_evaluated_and_reported(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = ["--model", "tinymodel:tiny", "--weights", "tiny.safetensors", "--data", "digits"]
    assert main(["evaluate", *mine, "--run", "out", "--examples", "30", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["threat"]["norm"] == "linf"
    assert result["n"] == 30
    assert main(["evaluate", "out", "--examples", "30", "--json", "--eps", "0.2"]) == 0  # the folder is a run like any
    assert json.loads(capsys.readouterr().out)["threat"]["eps"] == 0.2
    assert main(["report", "out"]) == 0
    assert "external" in (own / "out" / "report.md").read_text()


def test_several_threats_and_what_is_beyond_the_ball_are_written_into_the_record(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    more = ["--threat", "linf", "l2", "--shift", "--unseen", "--explain", "--outside", "cifar-like.npz"]
    images = {"x_train": np.zeros((4, 9, 9, 3), np.uint8), "y_train": np.arange(4) % 2}
    noise = np.random.default_rng(0).integers(0, 255, (20, 9, 9, 3)).astype(np.uint8)
    np.savez(tmp_path / "cifar-like.npz", **images, x_test=noise, y_test=np.arange(20) % 2)
    more[-1] = str(tmp_path / "cifar-like.npz")
    assert main(["evaluate", str(copy), "--examples", "20", *more]) == 0
    said = capsys.readouterr().out
    for word in (
        "union",
        "patch",
        "rotation",
        "linf (trained against)",
        "corruptions, mean",
        "AUROC of energy",
        "ECE clean",
    ):
        assert word in said
    facts = json.loads((copy / "record.json").read_text())["evaluation"]
    assert set(facts["unseen"]) == {"linf", "l2", "patch", "frame", "rotation", "flow", "colour"} | (
        {"l1"} & set(facts["unseen"])
    )
    assert len(facts["shift"]["corruptions"]) == 15
    assert [other["threat"]["norm"] for other in facts["others"]] == ["l2"]
    assert (copy / "explanations.safetensors").exists()
    assert not (copy / ".evaluation").exists()
    outcomes = load_file(copy / "outcomes.safetensors")
    assert outcomes["worst"].sum().item() / 20 == facts["results"]["worst"]["accuracy"]
    assert main(["evaluate", str(copy), "--examples", "20", "--reference", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shift"]["mce"] == pytest.approx(1.0)


def test_an_evaluation_that_was_killed_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    command = ["evaluate", str(copy), "--examples", "60", "--batch-size", "16", "--suite", "standard"]
    command += ["--precision", "32"]  # auto asks a clock which view to attack, and two evaluations may hear two answers
    with subprocess.Popen([sys.executable, "-m", "sparring", *command], stderr=subprocess.DEVNULL) as process:
        while not list(copy.glob(".evaluation/*.safetensors")):
            time.sleep(0.05)
        process.kill()
    kept = {file.name: file.stat().st_mtime_ns for file in copy.glob(".evaluation/*.safetensors")}
    assert kept
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert "going on with what an interrupted evaluation left" in captured.err
    resumed = json.loads(captured.out)
    fresh = tmp_path / "fresh"
    shutil.copytree(run, fresh)
    assert main(["evaluate", str(fresh), *command[2:], "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    for name, row in whole["results"].items():
        assert {**resumed["results"][name], "seconds": 0} == {**row, "seconds": 0}
