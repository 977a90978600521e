"""A run: what it writes, that it resumes bit for bit from any instant, and how it fails."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from jobs import Net, job
from safetensors.torch import load_file
from torch import nn

from sparring.engine import checkpoint, record
from sparring.engine.job import BEST, LAST, STATE, DivergedError, InterruptedRunError
from sparring.engine.precision import Autocast
from sparring.engine.run import train

HERE = Path(__file__).parent

# A child that trains the job of these tests; its arguments are the folder and Training fields as JSON.
CHILD = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from jobs import job
from sparring.engine.job import InterruptedRunError
from sparring.engine.run import train
try:
    train(job(**json.loads(sys.argv[2])), Path(sys.argv[1]), checkpoint_seconds=0.0)
except InterruptedRunError as stop:
    print(stop)
    sys.exit(128 + stop.signal)
"""


def start(folder: Path, **training: object) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", CHILD, str(folder), json.dumps(training)]
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def same_weights(a: Path, b: Path) -> bool:
    one, two = load_file(a), load_file(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(job(), folder)
    return folder


def test_the_record_says_what_was_run_on_what_and_what_came_out(finished: Path) -> None:
    facts = record.read(finished)
    assert facts["status"] == "done"
    assert facts["system"] == "pgd-at"
    assert facts["config"]["eps"] == 0.15
    assert facts["training"]["epochs"] == 3
    assert facts["seed"] == 0
    assert torch.__version__.startswith(facts["versions"]["torch"].split("+")[0])
    assert facts["hardware"]["device"] == "cpu"
    assert [entry["epoch"] for entry in facts["history"]] == [1, 2, 3]
    for entry in facts["history"]:
        assert 0 <= entry["validation"]["robust"] <= entry["validation"]["clean"] <= 1
    assert facts["timing"]["step_ratio"] > 1
    assert facts["timing"]["step_ratio_low"] <= facts["timing"]["step_ratio"] <= facts["timing"]["step_ratio_high"]


def test_the_best_checkpoint_is_the_one_with_the_highest_robust_validation_accuracy(finished: Path) -> None:
    facts = record.read(finished)
    top = max(facts["history"], key=lambda e: (e["validation"]["robust"], e["validation"]["clean"]))
    assert facts["best"]["robust"] == top["validation"]["robust"]
    model = Net()
    checkpoint.load_weights(finished / BEST, model)
    checkpoint.load_weights(finished / LAST, model)
    assert not (finished / STATE).exists()


def test_robust_accuracy_chooses_and_clean_accuracy_only_breaks_a_tie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([(0.9, 0.3), (0.8, 0.5), (0.85, 0.5), (0.99, 0.4)])

    def validate(*_: object, **__: object) -> dict[str, float]:
        clean, robust = next(accuracies)
        return {"clean": clean, "robust": robust, "n": 100}

    monkeypatch.setattr("sparring.engine.run.validate", validate)
    facts = train(job(epochs=4), tmp_path / "run")
    assert facts["best"] == {"epoch": 3, "clean": 0.85, "robust": 0.5}
    assert not same_weights(tmp_path / "run" / BEST, tmp_path / "run" / LAST)


def test_a_finished_run_is_not_run_again(finished: Path) -> None:
    before = (finished / LAST).stat().st_mtime_ns
    assert train(job(), finished)["status"] == "done"
    assert (finished / LAST).stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished: Path, tmp_path: Path) -> None:
    train(job(), tmp_path / "again")
    train(job(seed=1), tmp_path / "other")
    assert same_weights(finished / LAST, tmp_path / "again" / LAST)
    assert not same_weights(finished / LAST, tmp_path / "other" / LAST)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_killed_at_random_instants_a_run_ends_with_the_same_weights(tmp_path: Path, ema: float) -> None:
    """SIGKILL after random delays, again and again, until the run is done; every attempt has to make some progress."""
    train(job(ema=ema), tmp_path / "whole")
    chance, folder, kills = random.Random(int(10 * ema)), tmp_path / "killed", 0
    while True:
        child = start(folder, ema=ema)
        deadline = time.monotonic() + 60
        while kills < 3 and not (folder / STATE).exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        if kills < 3:
            time.sleep(chance.uniform(0.0, 0.25))
            child.send_signal(signal.SIGKILL)
        _, error = child.communicate(timeout=120)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, error
        kills += 1
    assert kills >= 1
    for name in (LAST, BEST):
        assert same_weights(tmp_path / "whole" / name, folder / name)
    whole, killed = record.read(tmp_path / "whole"), record.read(folder)
    for a, b in zip(whole["history"], killed["history"], strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_and_the_run_continues_to_the_same_end(tmp_path: Path, number: int) -> None:
    train(job(epochs=6), tmp_path / "whole")
    child = start(tmp_path / "stopped", epochs=6)
    while not (tmp_path / "stopped" / STATE).exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.005)
    child.send_signal(number)
    out, error = child.communicate(timeout=60)
    assert child.returncode == 128 + number, error
    assert "same command continues the run" in out
    assert "Traceback" not in error
    assert record.read(tmp_path / "stopped")["status"] == "interrupted"
    train(job(epochs=6), tmp_path / "stopped")
    assert same_weights(tmp_path / "whole" / LAST, tmp_path / "stopped" / LAST)


@pytest.mark.parametrize("at", [4, 5, 6])
def test_stopped_around_the_end_of_an_epoch_a_run_still_closes_it(tmp_path: Path, at: int) -> None:
    """Five steps an epoch: stopped in its last step, the epoch is validated before the run stops, not forgotten."""
    seen = []

    class Stopping(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(1)
                if len(seen) == at:
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(x)

    train(job(), tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(job(model=Stopping), tmp_path / "stopped", checkpoint_seconds=0.0)
    train(job(), tmp_path / "stopped")
    whole, stopped = record.read(tmp_path / "whole"), record.read(tmp_path / "stopped")
    assert [{**e, "seconds": 0} for e in whole["history"]] == [{**e, "seconds": 0} for e in stopped["history"]]
    assert whole["best"] == stopped["best"]
    for name in (BEST, LAST):
        assert same_weights(tmp_path / "whole" / name, tmp_path / "stopped" / name)


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    class Impatient(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                before = signal.getsignal(signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                while signal.getsignal(signal.SIGINT) is before:  # until it is heard: two that wait together are one
                    time.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)  # ends as soon as the second is heard
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        train(job(model=Impatient), tmp_path / "run")


def test_a_folder_with_another_configuration_is_refused_with_what_differs(finished: Path) -> None:
    with pytest.raises(record.RecordError, match=r"another configuration \(training.epochs: 3 != 4; seed: 0 != 7\)"):
        train(job(seed=7, epochs=4), finished)
    assert record.read(finished)["training"]["epochs"] == 3


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(record.RecordError, match="must be new or hold a run"):
        train(job(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


class Exploding(nn.Module):
    """Finite until its weights have moved a few times, then NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Net()
        self.register_buffer("rounds", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.rounds += 1
        return self.inner(x) * (torch.nan if self.training and self.rounds == 8 else 1.0)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"The loss became NaN or infinite at step 8 \(epoch 2\)"):
        train(job(model=Exploding), tmp_path / "run")
    facts = record.read(tmp_path / "run")
    assert facts["status"] == "diverged"
    assert facts["failure"]["step"] == 8
    assert facts["failure"]["batch"]["examples"] == 64
    assert sum(facts["failure"]["batch"]["labels"]) == 64
    assert facts["best"]["epoch"] == 1
    model = Exploding()
    checkpoint.load_weights(tmp_path / "run" / BEST, model)
    assert all(p.isfinite().all() for p in model.parameters())


def test_weights_that_overflow_in_the_last_step_are_noticed_before_they_are_kept(tmp_path: Path) -> None:
    """The loss that the overflow would make NaN is never computed."""

    class Overflowing(Net):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.spare.data *= 1e10
            return super().forward(x)

    with pytest.raises(DivergedError, match="A weight became NaN or infinite at step 5"):
        train(job(model=Overflowing, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / BEST).exists()


def test_a_model_without_gradient_stops_the_run_and_says_so(tmp_path: Path) -> None:
    class Flat(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 0.0

    with pytest.raises(DivergedError, match="The attack's gradient vanished at step 1"):
        train(job(model=Flat), tmp_path / "run")


def test_a_full_disk_leaves_the_previous_files_whole(tmp_path: Path) -> None:
    """A limit on the size of files refuses the write as a full disk does."""
    target = tmp_path / "file"
    checkpoint.write(target, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(checkpoint.CheckpointError, match=r"Cannot write .*file \(5000 bytes\).*intact"):
            checkpoint.write(target, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_learning_rate_follows_the_schedule_and_gradients_are_clipped(tmp_path: Path) -> None:
    facts = train(job(epochs=4, schedule="piecewise", clip=1e-3), tmp_path / "run")
    rates = [entry["learning_rate"] for entry in facts["history"]]
    assert rates == pytest.approx([2e-3, 2e-3, 2e-4, 2e-5])


def test_the_moving_average_is_what_is_kept(tmp_path: Path) -> None:
    train(job(ema=0.999), tmp_path / "ema")
    train(job(), tmp_path / "plain")
    averaged, plain = load_file(tmp_path / "ema" / LAST), load_file(tmp_path / "plain" / LAST)
    assert averaged.keys() == plain.keys()
    torch.manual_seed(0)
    assert not torch.equal(averaged["body.0.weight"], plain["body.0.weight"])


def test_bfloat16_is_what_the_network_computes_in_and_float32_what_is_kept(tmp_path: Path) -> None:
    seen = set()

    def watched() -> nn.Module:
        net = Net()
        net.body[0].register_forward_hook(lambda layer, _, out: seen.add((layer.training, out.dtype)))
        return net

    facts = train(job(model=watched, precision="bf16", epochs=1), tmp_path / "run")
    assert facts["status"] == "done"
    assert {(True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float32)} == seen  # train, attack, validate
    assert load_file(tmp_path / "run" / LAST)["body.0.weight"].dtype == torch.float32


def test_autocast_computes_with_the_weights_of_now() -> None:
    layer = nn.Linear(2, 1, bias=False)
    cast = Autocast(layer, lambda: torch.autocast("cpu", torch.bfloat16))
    x = torch.ones(1, 2)
    layer.weight.data.fill_(1.0)
    assert cast(x).item() == 2.0
    layer.weight.data.fill_(2.0)
    assert cast(x).item() == 4.0
    assert cast(x).dtype == torch.float32


def test_interrupted_is_not_an_error_of_the_input() -> None:
    assert "SIGTERM" in str(InterruptedRunError(Path("run"), signal.SIGTERM))
