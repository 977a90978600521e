"""train, score and reproduce of nids-ensemble on small files in a published form."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.flow.flows import NSL_KDD, written

from sparring.cli import main
from sparring.commands import flow_attacks, nids_battery, nids_claim, nids_thresholds
from sparring.commands.arms import as_bits
from sparring.commands.nids_answer import CUT, answered
from sparring.commands.nids_battery import Trial, arms
from sparring.domains.flow.artefact import load
from sparring.domains.flow.data import load as load_data
from sparring.evaluation.layered import thresholds
from sparring.systems.nids_ensemble import Config

SMALL = ("--rounds", "1", "--trees", "4", "--folds", "2", "--epochs", "4", "--gan-steps", "2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training and a test file with six types of attack, and one in the test that training has not."""
    root = tmp_path_factory.mktemp("flows")
    folder = root / "nsl_kdd"
    folder.mkdir()
    normal, neptune, smurf = NSL_KDD
    rng = np.random.default_rng(0)

    def varied(line: str, count: int, name: str = "") -> list[str]:
        cells = line.split(",")
        made = []
        for _ in range(count):
            cells[4] = str(int(cells[4]) and int(rng.integers(100, 5000)))
            cells[22] = str(int(rng.integers(max(1, int(cells[23])), 512)))
            cells[41] = name or cells[41]
            made.append(",".join(cells))
        return made

    smurfs = [line for name in ("smurf", "pod", "teardrop") for line in varied(smurf, 20, name)]
    neptunes = [line for name in ("neptune", "satan", "portsweep") for line in varied(neptune, 20, name)]
    written(folder / "KDDTrain+_20Percent.txt", *varied(normal, 200), *smurfs, *neptunes)
    test = [*varied(normal, 80), *varied(smurf, 20), *varied(neptune, 20, "satan"), *varied(neptune, 10, "mailbomb")]
    written(folder / "KDDTest+.txt", *test)
    return root


@pytest.fixture(scope="module")
def place(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run in it."""
    root = tmp_path_factory.mktemp("work")
    words = ["train", "nids-ensemble", "--data-root", str(files), "--run", str(root / "run"), *SMALL]
    assert main(words) == 0
    return root


def test_a_run_is_one_detector_that_scores_and_says_which_layer_decided(
    files: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    facts = json.loads(Path("run/record.json").read_text())
    assert facts["status"] == "done"
    assert facts["data"]["schema"] == "nsl-kdd"
    assert facts["data"]["kinds"] == ["all"]
    assert [entry["epoch"] for entry in facts["history"]] == [1, 2]
    detector = load("run/detector.safetensors")
    assert detector.spec == "stack"
    assert facts["thresholds"]["classifier"] == detector.threshold
    capsys.readouterr()
    assert main(["score", "run", str(files / "nsl_kdd" / "KDDTest+.txt"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert set(summary["alarms_by_layer"]) == {"classifier", "autoencoder"}
    with open("scored.csv", newline="") as file:
        scored = list(csv.DictReader(file))
    data = load_data("nsl-kdd", files)
    first, second = nids_thresholds.of_layers(detector.model, detector.layers[0].model, data.test.x)
    wanted = (first > detector.threshold) | (second > detector.layers[0].threshold)
    assert [row["verdict"] == "attack" for row in scored] == wanted.tolist()
    assert main(["list", "--run", "run"]) == 0
    assert main(["report", "run"]) == 0


def test_both_thresholds_raise_the_stated_rate_on_the_benign_flows_held_out(files: Path, place: Path) -> None:
    from sparring.engine.stream import hold_out

    data, detector = load_data("nsl-kdd", files), load(place / "run/detector.safetensors")
    _, rows = hold_out(data.train.y, 0.2, 0)
    x, y = data.train.take(rows)
    first, second = nids_thresholds.of_layers(detector.model, detector.layers[0].model, x[y == 0])
    called = (first > detector.threshold) | (second > detector.layers[0].threshold)
    assert int(called.sum()) <= int(0.01 * len(called))
    share = json.loads((place / "run/record.json").read_text())["thresholds"]["share of the classifier"]
    at = thresholds(first, second, 0.01, share)
    assert (at.first, at.second) == (detector.threshold, detector.layers[0].threshold)


def test_a_killed_run_goes_on_after_its_last_round_and_ends_with_the_same_detector(
    files: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.systems import nids_ensemble

    words = ["train", "nids-ensemble", "--data-root", str(files), "--run", str(tmp_path / "run"), *SMALL]
    respond, answers = nids_ensemble.Forgers.respond, []

    def once(self: Any, model: Any, batch: Any) -> Any:
        answers.append(model)
        if len(answers) == 2:
            raise KeyboardInterrupt
        return respond(self, model, batch)

    monkeypatch.setattr(nids_ensemble.Forgers, "respond", once)
    assert main(words) == 130
    assert json.loads((tmp_path / "run/record.json").read_text())["status"] == "running"
    assert not (tmp_path / "run/detector.safetensors").exists()
    monkeypatch.setattr(nids_ensemble.Forgers, "respond", respond)
    assert main(words) == 0
    kept = (tmp_path / "run/detector.safetensors").read_bytes()
    assert kept == (place / "run/detector.safetensors").read_bytes()
    assert main([*words[:-1], "3"]) == 2, "another configuration is another run"


def test_types_are_dealt_once_each_and_only_where_every_group_has_two() -> None:
    groups = nids_thresholds.dealt([f"t{k}" for k in range(7)] * 3, 0)
    assert sorted(name for group in groups for name in group) == [f"t{k}" for k in range(7)]
    assert [len(group) for group in groups] == [3, 2, 2]
    assert nids_thresholds.dealt(["a", "b", "c", "d", "e"], 0) == []


def test_every_arm_is_held_to_the_same_rate_of_false_alarms() -> None:
    rng = torch.Generator().manual_seed(0)
    benign = {name: torch.rand(2000, generator=rng, dtype=torch.float64) for name in ("forest", "stack", "autoencoder")}
    for rate in nids_battery.RATES:
        for name, called in arms(benign, rate, 0.8).items():
            assert int(called(benign).sum()) == round(2000 * rate), name


def test_reproduce_gives_a_verdict_on_each_question(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = partial(Config, rounds=1, trees=4, folds=2, epochs=2, gan_steps=1)
    monkeypatch.setattr(nids_claim, "Config", small)
    monkeypatch.setattr(flow_attacks, "STEPS", 3)
    monkeypatch.setattr(flow_attacks, "RESTARTS", 1)
    monkeypatch.setattr(nids_battery, "KAPPAS", (0.1,))
    monkeypatch.setattr(nids_battery, "EPS", (0.2,))
    words = ["reproduce", "nids-ensemble", "--data-root", str(files), "--seeds", "2", "--n", "15", "--queries", "12"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer) == ["verdict", "effect", "arms", "seeds", "command"]
    names = [arm["name"] for arm in answer["arms"]]
    assert len(names) == len(set(names)) == 18
    assert all(arm["infeasible"] == 0 for arm in answer["arms"])
    for arm in answer["arms"]:
        assert all(0 <= figure["mean"] <= 1 for figure in arm["figures"].values())
        for where in ("held out, 1%", "test, 5%"):
            figures = {key.removeprefix(f"{where}: "): value["mean"] for key, value in arm["figures"].items()}
            assert figures["clean"] >= figures["FGSM 0.1"] >= figures["adaptive"]
        assert arm["figures"]["test, 5%: false positives"]["mean"] <= 0.05
    assert {name[:3] for name in answer["effect"]["claims"]} == {"(a)", "(b)", "(c)", "(d)"}
    headline = answer["effect"]["claims"]["(b) stack + autoencoder over stack, plain, thresholds on held out, 1%"]
    assert answer["verdict"] == headline["verdict"]
    assert answer["effect"]["difference"] == headline["difference"]
    monkeypatch.setattr(nids_claim, "attacked", lambda *_: pytest.fail("found again, not attacked again"))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "infeasible adversarial rows (must be 0): 0" in said
    assert f"verdict: {answer['verdict']}" in said
    assert main(["reproduce", "nids-ensemble", "--n", "-1"]) == 2
    assert "'n' parameter must be an int >= 0" in capsys.readouterr().err


def test_an_answer_follows_from_what_is_caught(files: Path) -> None:
    """Built by hand: both layers catch two flows more than the stack under each attack, on every seed."""
    data = load_data("nsl-kdd", files)
    attacks = ["clean", "FGSM 0.1", "FGSM 0.1, any row", "APGD 0.1", "GAN 0.1", "search, stack", "search, both"]

    def judged(clean: int, under: int) -> dict[str, Any]:
        bits = {name: as_bits(torch.arange(40) < (clean if name == "clean" else under)) for name in attacks}
        rates = {"detection": 0.5, "false positives": 0.01, "F1": 0.5, "by kind": {}}
        return {"caught": bits, **rates}

    made = {
        "stack": judged(30, 10),
        "stack + autoencoder": judged(30, 22),
        "stack + autoencoder, even split": judged(9, 9),
    }
    one = {
        "judged": {f"{where}, {rate}": made for where in ("held out", "test") for rate in ("1%", "5%")},
        "AUROC": dict.fromkeys(made, 0.5),
        "share": 0.9,
        "transfer": {"APGD 0.1": None},
        "infeasible": {"FGSM 0.1": 0},
    }
    found = {defence: dict.fromkeys(range(3), one) for defence in ("plain", "hardened")}
    answer = answered(found, data, Trial(40, 0.1, 10, 1, 0), "nsl-kdd", "sparring ...")
    claims = answer["effect"]["claims"]
    assert answer["verdict"] == "supported"
    assert answer["effect"]["difference"] == pytest.approx(12 / 40)
    cut = claims["(a) FGSM 0.1 cuts what the stack detects, thresholds on test, 1%"]
    assert (cut["difference"], cut["least_effect"]) == (pytest.approx(20 / 40), CUT)
    assert claims["(c) stack, hardened over plain, thresholds on test, 1%"]["verdict"] == "inconclusive"
    left = claims["(d) stack + autoencoder, even split over stack, plain, adaptive, thresholds on test, 1%"]
    assert left["difference"] == pytest.approx(-1 / 40)
