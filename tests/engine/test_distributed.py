"""Two processes, gloo, one thread each: what they compute is what one computes, and one that dies ends them all."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import crew
import pytest
import torch
from safetensors.torch import load_file

from sparring.cli import main
from sparring.engine import checkpoint, record
from sparring.engine.job import BEST, LAST, STATE
from sparring.engine.machines import Machines
from sparring.engine.run import train


def distance(a: Path, b: Path) -> float:
    """The largest difference between the weights in two files."""
    one, two = load_file(a), load_file(b)
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


@pytest.fixture(autouse=True)
def unpriced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price of a step is not what is tested here."""
    monkeypatch.setattr("sparring.engine.cost.price", lambda *_, **__: {})


@pytest.fixture(scope="module")
def crewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes left of every scenario."""
    folder = tmp_path_factory.mktemp("crew")
    with pytest.raises(KeyboardInterrupt):
        train(crew.job(model=partial(crew.Stopping, 6)), folder / "begun", checkpoint_seconds=0.0)
    assert checkpoint.load_state(folder / "begun" / STATE)["step"] == 5
    for code, said in crew.finish(crew.start(crew.together, folder)):
        assert code == 0, said
    return folder


@pytest.mark.parametrize("name", crew.SAME)
def test_two_processes_end_with_the_weights_of_one(crewed: Path, tmp_path: Path, name: str) -> None:
    """Whole-batch gradients from uneven shares, in every kind of learner; float64, no chance, no BatchNorm."""
    train(crew.SAME[name][0](), tmp_path / "one")
    for weights in (LAST, BEST):
        assert distance(tmp_path / "one" / weights, crewed / name / weights) < 1e-6
    one, two = record.read(tmp_path / "one"), record.read(crewed / name)
    for a, b in zip(one["history"], two["history"], strict=True):
        assert a["validation"] == b["validation"]
        assert a["loss"] == pytest.approx(b["loss"], rel=0, abs=1e-6)
    assert two["hardware"]["processes"] == 2
    assert two["status"] == "done"
    assert not (crewed / name / STATE).exists()


def test_what_one_process_began_two_finish(crewed: Path, tmp_path: Path) -> None:
    train(crew.job(), tmp_path / "one")
    assert distance(tmp_path / "one" / LAST, crewed / "begun" / LAST) < 1e-6
    one, two = (record.read(folder)["history"] for folder in (tmp_path / "one", crewed / "begun"))
    assert [entry["loss"] for entry in one] == pytest.approx([entry["loss"] for entry in two], rel=0, abs=1e-6)


def rounds(crewed: Path) -> list[dict[str, Any]]:
    return [torch.load(crewed / f"round-{rank}.pt", weights_only=True) for rank in range(2)]


def test_an_attack_makes_no_exchange_and_never_passes_ddp(crewed: Path) -> None:
    for seen in rounds(crewed):
        assert seen["in attack"] == (0, 0)
        exchanges, forwards = seen["in update"]
        assert exchanges >= 2  # AWP differentiates twice
        assert forwards == 2


def test_the_weight_space_adversary_finds_the_same_offsets_everywhere(crewed: Path) -> None:
    first, second = (seen["offsets"] for seen in rounds(crewed))
    assert first
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_processes_draw_different_noise_and_keep_the_first_ones_statistics(crewed: Path) -> None:
    first, second = rounds(crewed)
    assert first["gathered"] == second["gathered"] == [0, 1]
    assert not torch.equal(first["drawn"], second["drawn"])
    assert not torch.equal(first["statistics before"], second["statistics before"])
    assert torch.equal(first["statistics after"], first["statistics before"])
    assert torch.equal(second["statistics after"], first["statistics before"])


def test_a_share_whose_gradient_has_vanished_is_played_clean(crewed: Path) -> None:
    """Both alive, one dead; where both were dead nothing was played."""
    first, second = (torch.load(crewed / f"dead-{rank}.pt", weights_only=True)["moves"] for rank in range(2))
    assert [move.tolist() for move in first] == [[1, 1], [1, 1]]
    assert [move.tolist() for move in second] == [[1, 1], [0, 0]]


def test_two_processes_evaluate_as_one_example_by_example(crewed: Path) -> None:
    alone = crew.evaluation(None)
    right = alone.outcomes["worst"].double().mean().item()
    assert 0 < right < alone.outcomes["clean"].double().mean().item()
    for rank in range(2):
        found = torch.load(crewed / f"found-{rank}.pt", weights_only=True)
        assert found["outcomes"].keys() == alone.outcomes.keys()
        assert all(torch.equal(found["outcomes"][name], right) for name, right in alone.outcomes.items())
        assert torch.equal(found["z"], alone.z)
        for name, row in alone.results.items():
            assert {**row, "seconds": 0} == {**found["results"][name], "seconds": 0}


def test_a_killed_process_ends_the_run_and_one_process_finishes_it(tmp_path: Path) -> None:
    """SIGKILL to the second process; the first stops with a message, and alone goes on to the same end."""
    (code, said), (other, _) = crew.killed(tmp_path)
    assert code not in (0, None)
    assert other == -9
    assert "Process 0 of 2 stops: another one has ended or does not answer." in said
    assert "continues the run in" in said
    state = checkpoint.load_state(tmp_path / "long" / STATE)
    assert 0 < state["step"] < 24
    train(crew.job(epochs=6), tmp_path / "long")
    train(crew.job(epochs=6), tmp_path / "one")
    assert distance(tmp_path / "one" / LAST, tmp_path / "long" / LAST) < 1e-6


def test_fabric_starts_the_processes_where_torchrun_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line, on one machine: trained by two, evaluated by two and by one with the same result."""
    run = tmp_path / "run"

    def sparring(*arguments: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
        done = subprocess.run(
            [sys.executable, "-m", "sparring", *arguments],
            capture_output=True, text=True, timeout=200, env={**environment, "OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    small = ("--epochs", "1", "--examples", "200", "--steps", "2", "--precision", "32", "--device", "cpu")
    out = sparring("train", "pgd-at", "--run", str(run), "--devices", "2", *small)
    assert out.split() == [str(run)]
    facts = record.read(run)
    assert (facts["status"], facts["hardware"]["processes"]) == ("done", 2)
    assert facts["timing"]["step_ratio"] > 1
    flags = ("evaluate", str(run), "--examples", "40", "--batch-size", "16", "--precision", "32", "--json")
    two = json.loads(sparring(*flags, "--devices", "2"))
    together = load_file(run / "outcomes.safetensors")
    assert main(flags) == 0
    one = json.loads(capsys.readouterr().out)
    alone = load_file(run / "outcomes.safetensors")
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    assert {k: v["accuracy"] for k, v in one["results"].items()} == {
        k: v["accuracy"] for k, v in two["results"].items()
    }


@pytest.mark.parametrize(("field", "value"), [("devices", 0), ("nodes", 0), ("strategy", "deepspeed")])
def test_what_no_machine_can_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter must be .* Got {value!r} instead"):
        Machines(**{field: value})


def test_what_these_machines_cannot_do_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"'devices' parameter must be at most \d+, .* Got 1000 instead"):
        Machines(devices=1000).check("cuda")
    with pytest.raises(ValueError, match=r"'sync_batchnorm' parameter must be False on processors"):
        Machines(devices=2, sync_batchnorm=True).check("cpu")
    with pytest.raises(ValueError, match=r"'nodes' parameter must be 1 where torchrun does not start"):
        Machines(nodes=2).check("cpu")
    with pytest.raises(ValueError, match=r"'batch_size' parameter must be at least 8, .* 4 processes. Got 7 instead"):
        train(crew.job(batch_size=7), tmp_path / "run", machines=Machines(devices=4))
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert Machines().counts == (2, 2)
    with pytest.raises(ValueError, match=r"'devices' parameter must be 2, as torchrun has it. Got 4 instead"):
        _ = Machines(devices=4).world
    assert not (tmp_path / "run").exists()


def test_the_state_of_another_architecture_is_refused_with_the_tensors_that_differ(tmp_path: Path) -> None:
    class Other(crew.Smooth):
        def __init__(self) -> None:
            super().__init__()
            self.body[0] = torch.nn.Linear(64, 8).double()
            self.body[2] = torch.nn.Linear(8, 10).double()

    with pytest.raises(KeyboardInterrupt):
        train(crew.job(model=partial(crew.Stopping, 3)), tmp_path / "run", checkpoint_seconds=0.0)
    differs = r"resume.pt does not fit .* body.0.weight is \[16, 64\] in the file and \[8, 64\] in the model"
    with pytest.raises(checkpoint.CheckpointError, match=differs):
        train(crew.job(model=Other), tmp_path / "run")
