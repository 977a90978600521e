"""`sparring reproduce`: one JSON object, runs found again, arms that differ as asked, refusals that say why."""

import importlib.util
import json
import re
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparring import systems
from sparring.cli import main
from sparring.commands import arms
from sparring.commands.comparison import Flags, entrants_of, planned
from sparring.commands.flags import parse
from sparring.commands.measures import LOWER_IS_BETTER, MEASURES, measured
from sparring.commands.reproduce import _credited
from sparring.domains.image.data import customary
from sparring.evaluation.claim import Verdict
from sparring.systems import NAMES

ONE = ["--seeds", "1", "--epochs", "2", "--examples", "64", "--n", "10", "--suite", "quick", "--device", "cpu"]
ONE += ["--config", "steps=1", "--training", "validation_steps=1"]
TINY = ["--seeds", "2", *ONE[2:]]
PRICES = {"pgd-at": 6.0, "mixed-at": 12.0, "standard": 1.0}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(autouse=True)
def elsewhere(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("XDG_STATE_HOME", str(workplace / "state"))


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices that no clock has measured."""
    monkeypatch.setattr(
        arms.Entrant,
        "price",
        lambda self, *_: {"step_ratio": PRICES.get(self.system.name, 6.0), "seconds": 0.01, "rows": 1347},
    )


def answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["reproduce", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def flags(*words: str) -> Flags:
    return parse(Flags, words, prog="sparring reproduce", description="")


def test_json_is_one_object_of_the_promised_shape(priced: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(["mixed-at", *TINY], capsys)
    assert list(found) == ["verdict", "effect", "arms", "seeds", "command"]
    assert found["verdict"] in ("supported", "not supported", "inconclusive")
    assert found["seeds"] == [0, 1]
    assert found["command"].startswith("sparring reproduce mixed-at --seeds 2")
    effect = found["effect"]
    assert effect["low"] <= effect["difference"] <= effect["high"]
    assert (effect["arm"], effect["metric"], effect["n"]) == ("equal-time", "robust accuracy", 10)
    assert [(arm["role"], arm["epochs"]) for arm in found["arms"]] == [
        ("baseline", 2), ("equal-epochs", 2), ("equal-time", 1)
    ]  # fmt: skip
    for arm in found["arms"]:
        assert len(arm["curve"]) == len(arm["runs"]) == 2
        assert [json.loads(Path(run, "record.json").read_text())["seed"] for run in arm["runs"]] == [0, 1]
        for curve in arm["curve"]:
            assert [point["epoch"] for point in curve] == list(range(1, arm["epochs"] + 1))
            assert all(a["seconds"] < b["seconds"] for a, b in pairwise(curve))
        for figure in ("clean", "robust", "clean_last", "robust_last", "gap", "seconds", "step_ratio"):
            assert arm[figure]["n"] == 2
        gaps = zip(arm["gap"]["by_seed"], arm["robust"]["by_seed"], arm["robust_last"]["by_seed"], strict=True)
        for gap, best, last in gaps:
            assert gap == pytest.approx(best - last, abs=1e-12)
    means = {arm["role"]: arm["robust"]["mean"] for arm in found["arms"]}
    assert effect["difference"] == pytest.approx(means["equal-time"] - means["baseline"])
    kept = list(Path("runs/reproduce/mixed-at").glob("claim-digits-*.json"))
    assert [json.loads(file.read_text()) for file in kept] == [found]


def test_a_second_call_trains_nothing_and_a_killed_one_goes_on(
    priced: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answer(["mixed-at", *TINY], capsys)
    trained: list[Path] = []
    train_run = arms.train_run

    def counted(*arguments: Any) -> Path:
        trained.append(arguments[3].run)
        return Path(train_run(*arguments))

    monkeypatch.setattr(arms, "train_run", counted)
    begun = time.perf_counter()
    assert answer(["mixed-at", *TINY], capsys) == first
    assert time.perf_counter() - begun < 1
    assert trained == []
    lost = Path(first["arms"][1]["runs"][1])  # killed before its record said "done"
    record = json.loads((lost / "record.json").read_text())
    (lost / "record.json").write_text(json.dumps({**record, "status": "running"}))
    again = answer(["mixed-at", *TINY], capsys)
    assert trained == [lost]
    assert again["effect"] == first["effect"]


def test_the_baseline_is_shared_and_the_last_checkpoint_is_judged_by_itself(
    priced: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = answer(["mixed-at", *TINY], capsys)["arms"][0]["runs"]
    other = answer(["pgd-at", *ONE, "--with", "ema=0.5", "--arms", "equal-epochs"], capsys)
    assert other["arms"][0]["runs"] == base[:1]
    assert other["verdict"] == "inconclusive"
    assert [arm["role"] for arm in other["arms"]] == ["baseline", "equal-epochs"]
    assert other["arms"][1]["training"]["ema"] == 0.5
    assert other["effect"]["method"] == "pgd-at ema=0.5"
    run = Path(base[0])
    (run / "best.safetensors").write_bytes(Path(base[1], "last.safetensors").read_bytes())
    judged = next(run.glob("judged-*.json"))
    before = json.loads(judged.read_text())
    judged.unlink()
    trial = arms.Trial(**before["trial"], device="cpu", precision="32")
    found = arms.judge(run, trial, None, "")
    assert found.clean_last.tolist() == [bit == "1" for bit in before["clean_last"]]
    assert found.clean.tolist() != found.clean_last.tolist()


@pytest.mark.parametrize("name", [name for name, _ in NAMES if systems.find(name).domain == "image"])
def test_every_system_can_be_put_to_the_test(name: str, tmp_path: Path) -> None:
    plan = planned(flags(name, "--quick", "--arms", "equal-epochs"), "")
    entrants = entrants_of(plan)
    assert list(entrants)[:2] == ["baseline", "equal-epochs"]
    assert list(entrants)[2:] == [f"control {label}" for label in plan.settings.controls or ()]
    assert plan.promise.decisive in ("", *plan.controls)
    assert len({entrant.digest() for entrant in entrants.values()}) == len(entrants)
    eps = customary(plan.settings.data)["linf"]
    assert {plan.trial.eps[0], *(entrant.config.eps for entrant in entrants.values())} == {eps}
    assert plan.trial.norms == (("linf", "l2", "l1") if name == "multi-norm" else ("linf",))
    assert plan.method.training.precision == plan.baseline.training.precision == "32"


def test_controls_are_trained_compared_and_measured(priced: None, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [*TINY, "--data", "digits", "--arms", "equal-epochs"]
    found = answer(["s2o", *tiny, "--controls", "uniform", "trades", "trades-s2o"], capsys)
    arms_of = {arm["role"]: arm for arm in found["arms"]}
    assert list(arms_of) == ["baseline", "equal-epochs", "control uniform", "control trades", "control trades-s2o"]
    assert arms_of["baseline"]["name"] == "PGD-AT"
    assert arms_of["baseline"]["config"]["weight"] == 0
    assert arms_of["control trades-s2o"]["against"] == "trades"
    assert arms_of["control trades"]["against"] == "PGD-AT"
    means = {role: arm["robust"]["mean"] for role, arm in arms_of.items()}
    ahead = arms_of["control uniform"]["method_ahead"]
    assert ahead["difference"] == pytest.approx(means["equal-epochs"] - means["control uniform"])
    assert arms_of["control trades-s2o"]["effect"]["difference"] == pytest.approx(
        means["control trades-s2o"] - means["control trades"]
    )
    assert found["effect"]["control"]["label"] == "uniform"
    for arm in found["arms"]:
        assert all("correlation" in point for curve in arm["curve"] for point in curve)
        for name, row in arm["values"].items():
            assert row["n"] == 2
            assert row["better"] == ("lower" if name in LOWER_IS_BETTER else "higher")
            assert ("difference" in row) == (arm["role"] != "baseline")
    values = {role: arm["values"] for role, arm in arms_of.items()}
    own, base = (values[role]["PGD-20 margin"] for role in ("equal-epochs", "baseline"))
    assert own["difference"]["mean"] == pytest.approx(own["mean"] - base["mean"])
    assert values["baseline"]["correlation clean"]["mean"] >= 1
    assert main(["reproduce", "s2o", *tiny, "--controls", "uniform", "trades", "trades-s2o"]) == 0
    said = capsys.readouterr().out
    assert "ahead of uniform:" in said
    assert "correlation clean (lower is better)" in said
    assert answer(["s2o", *tiny, "--controls", "none"], capsys)["effect"].get("control") is None


def test_arms_that_are_explained_stand_side_by_side_in_the_report(
    priced: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = [*ONE[:6], "--n", "24", *ONE[8:], "--arms", "equal-epochs", "--controls", "none"]
    found = answer(["egat", *tiny], capsys)
    runs = [Path(run) for arm in found["arms"] for run in arm["runs"]]
    assert len(runs) == 2
    for arm, run in zip(found["arms"], runs, strict=True):
        assert (run / "explanations.safetensors").exists()
        assert {"energy in mask", "stability", "blank maps", "insertion", "colour-swapped clean"} <= set(arm["values"])
        record = json.loads((run / "record.json").read_text())
        assert list(record["evaluation"]["explanations"]["methods"]) == ["grad-cam"]
    assert main(["report", *map(str, runs), "--run", "arms"]) == 0
    capsys.readouterr()
    (page,) = Path("arms").glob("*.html")
    text = page.read_text()
    assert "What the learner of egat" in text
    assert "Side by side" in text
    (judged,) = runs[0].glob("judged-*.json")  # as a version left it that did not count blank maps
    facts = json.loads(judged.read_text())
    del facts["values"]["blank maps"]
    judged.write_text(json.dumps(facts))
    before, after = answer(["egat", *tiny], capsys)["arms"]
    assert "blank maps" not in before["values"]
    assert "difference" not in after["values"]["blank maps"]


@pytest.mark.parametrize(
    ("gain", "over_control", "said"),
    [
        ("supported", "supported", "supported"),
        ("supported", "inconclusive", "inconclusive"),
        ("supported", "not supported", "not supported"),
        ("supported", None, "supported"),
        ("inconclusive", "supported", "inconclusive"),
        ("not supported", "supported", "not supported"),
    ],
)
def test_a_gain_that_the_control_has_too_is_not_the_methods_own(gain: Any, over_control: Any, said: str) -> None:
    assert _credited(Verdict(gain, {}), over_control and Verdict(over_control, {})) == said


def test_an_unknown_control_or_measure_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="The 'controls' must be none, or of uniform, clean-ce"):
        planned(flags("s2o", "--controls", "smooth"), "")
    with pytest.raises(ValueError, match="A measure must be one of losses"):
        measured(["loss"], None, None)  # type: ignore[arg-type]
    for name, _ in NAMES:
        assert set(systems.find(name).claim.measures) <= set(dict(MEASURES))


def test_flags_reach_the_arm_they_are_for(priced: None) -> None:
    words = ["mixed-at", "--config", "steps=3", "--method", "random_start=false", "--training", "batch_size=32"]
    plan = planned(flags(*words, "--with", "clip=1", "--epochs", "30", "--arms", "equal-time,equal-epochs"), "")
    assert plan.method.config.steps == plan.baseline.config.steps == 3
    assert (plan.method.config.random_start, plan.baseline.config.random_start) == (False, True)
    assert plan.method.training.batch_size == plan.baseline.training.batch_size == 32
    assert (plan.method.training.clip, plan.baseline.training.clip) == (1.0, 0.0)
    assert {name: e.training.epochs for name, e in entrants_of(plan).items()} == {
        "baseline": 30, "equal-epochs": 30, "equal-time": 15
    }  # fmt: skip
    assert plan.label == "mixed-at random_start=false clip=1"


def test_pgd_at_unchanged_is_held_against_standard_training() -> None:
    plan = planned(flags("pgd-at"), "")
    assert plan.baseline.system.name == "standard"
    assert plan.promise.question == "At equal epochs, is its robust accuracy higher than standard's?"


def test_a_baseline_of_ones_own_takes_nothing_from_the_promised_one() -> None:
    other = planned(flags("s2o", "--method", "base=mart", "--baseline", "mart"), "")
    assert (other.held_against, other.baseline.system.name) == ("mart", "mart")
    assert other.promise.question == "At equal epochs, is its robust accuracy higher than mart's?"
    gap = planned(flags("s2o", "--metric", "overfitting gap", "--baseline", "s2o"), "")
    assert (gap.held_against, gap.baseline.config.weight) == ("PGD-AT", 0.0)
    assert gap.promise.question == "At equal epochs, is its overfitting gap lower than PGD-AT's?"


def test_a_price_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(arms, "PROBES", 1)
    words = ["mixed-at", "--config", "steps=5", "--training", "validation_steps=1", "--run", str(tmp_path)]
    plan = planned(flags(*words, "--device", "cpu"), "")
    first = plan.method.price("")
    assert first["step_ratio"] > 2
    monkeypatch.setattr(arms, "train_run", None)
    assert plan.method.price("") == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pgdat"], "Got 'pgdat' instead. Did you mean 'pgd-at'?"),
        (["mixed-at", "--arms", "equal-money"], "must be equal-epochs, equal-time or both. Got 'equal-money'"),
        (["mixed-at", "--seeds", "0"], "'seeds' parameter must be an int >= 1. Got 0"),
        (["mixed-at", "--epochs", "0"], "'epochs' parameter must be an int >= 1. Got 0"),
        (
            ["mixed-at", "--least-effect", "5"],
            "'least_effect' parameter must be a number in the range (-1, 1). Got 5.0",
        ),
        (["mixed-at", "--with", "learning_rat=1"], "Got 'learning_rat' instead. Did you mean 'learning_rate'?"),
        (["mixed-at", "--with", "clip"], "takes key=value"),
        (["mixed-at", "--method", "random_start=perhaps"], "must be true or false. Got 'perhaps'"),
        (["mixed-at", "--config", "stepz=3"], "Did you mean 'steps'?"),
        (["mixed-at", "--training", "schedule=linear"], "linear"),
        (["mixed-at", "--baseline", "mixed-at"], "must differ from the method"),
        (["mixed-at", "--baseline", "standrd"], "Did you mean 'standard'?"),
        (["mixed-at", "--eps", "-1"], "'eps' parameter of Linf must be a number in the range (0, inf)"),
        (["mixed-at", "--suite", "fast"], "fast"),
        ([], "NAME"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(Path.cwd().rglob("*"))
    try:
        code = main(["reproduce", *words])
    except SystemExit as stop:
        code = stop.code
    error = re.sub(r"[\s│╭╮╰╯─]+", " ", capsys.readouterr().err)
    assert code == 2, error
    assert said in error
    assert set(Path.cwd().rglob("*")) == before


def test_the_benchmark_loops_over_methods_outside_the_repository(
    priced: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "methods.py"
    spec = importlib.util.spec_from_file_location("methods", file)
    assert spec is not None
    assert spec.loader is not None
    methods = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(methods)
    out = workplace / "out"
    (out / "runs").parent.mkdir()
    (workplace / "runs/reproduce").rename(out / "runs")  # what the tests above trained
    arguments = [str(out), "--threads", "1", "mixed-at", "pgd-at ema=0.5", "--arms", "equal-epochs", *ONE]
    monkeypatch.setattr(sys, "argv", ["benchmarks/methods.py", *arguments])
    methods.main()
    said = capsys.readouterr().out
    assert "| pgd-at ema=0.5, equal epochs |" in said
    assert said.count("| baseline |") == 1
    assert len((out / "methods.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(sys, "argv", ["benchmarks/methods.py", str(file.parent), "mixed-at"])
    with pytest.raises(SystemExit):
        methods.main()
    assert "outside the repository" in capsys.readouterr().err
