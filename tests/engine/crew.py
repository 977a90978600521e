"""What the processes of `test_distributed` do: started with torchrun's variables, each runs the scenarios it is told.

Everything is in float64 and without chance (the attack starts where a sine puts it), so that two processes and one can
be held against each other to rounding.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jobs
import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from sparring import systems
from sparring.core.players import Attacker
from sparring.core.threat import L2
from sparring.core.weights import Perturbation
from sparring.engine import cost, machines
from sparring.engine.fast import Choice, dress
from sparring.engine.job import STATE, Job
from sparring.engine.machines import Machines, Team, launch
from sparring.engine.parallel import Share, concerted, level, spread
from sparring.engine.run import train
from sparring.engine.system import System
from sparring.evaluation.evaluate import evaluate

HERE = Path(__file__).parent
WEIGHTS = ("body.0.weight", "body.2.weight")


class Still(L2):
    """A ball whose random start is a function of x."""

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self.project(x + 0.1 * (37 * x + torch.arange(x[0].numel()).view_as(x[0])).sin(), x)


class Smooth(nn.Module):
    """No BatchNorm, no dropout, no kinks."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds if self.training else 0.0)
        return self.body(x.flatten(1))


class Stopping(Smooth):
    """Interrupted, as by a second Ctrl-C, in its training pass number `at`."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if self.left == 0:
            raise KeyboardInterrupt
        return super().forward(x)


class Normed(nn.Module):
    """With BatchNorm, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 10)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Doubled:
    """A source in float64."""

    def __init__(self, source: Any) -> None:
        self.source, self.y = source, source.y

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        x, y = self.source.take(rows)
        return x.double(), y


def still(system: System) -> System:
    """The system without chance in its attack."""
    threat = Still(1.0)
    return dataclasses.replace(system, game=partial(system.game, threat=threat), threat=lambda config: threat)


def job(system: str = "pgd-at", model: Any = Smooth, config: Any = None, **training: Any) -> Job:
    """Two epochs of 150 examples in batches of 41, the last of 27: nothing divides by two."""
    found = systems.find(system)
    config = found.config(steps=2) if config is None else config
    made = jobs.job(
        system=system, model=model, config=config,
        **{"epochs": 2, "examples": 150, "batch_size": 41, "optimizer": "sgd", "learning_rate": 0.2, **training},
    )  # fmt: skip
    return dataclasses.replace(made, system=still(found), source=Doubled(made.source))


SAME: dict[str, tuple[Callable[[], Job], Machines]] = {
    "pgd-at": (job, Machines()),
    "clip, moving average, adamw": (partial(job, clip=0.1, ema=0.9, optimizer="adamw"), Machines()),
    "a last batch of three": (partial(job, batch_size=49), Machines()),
    "two forward passes (mixed-at)": (partial(job, "mixed-at"), Machines()),
    "two forward passes (trades)": (partial(job, "trades"), Machines()),
    "two backward passes (awp)": (partial(job, perturb="awp", perturb_size=0.05), Machines()),
    "two backward passes (sam)": (partial(job, perturb="sam", perturb_size=0.1), Machines()),
    "replays (free-at)": (partial(job, "free-at", config=systems.find("free-at").config(replays=3)), Machines()),
    "a second network (hat)": (partial(job, "hat"), Machines()),
    "fsdp: pgd-at": (job, Machines(strategy="fsdp")),
    "fsdp: trades, clip, adamw": (partial(job, "trades", clip=0.1, optimizer="adamw"), Machines(strategy="fsdp")),
    "fsdp: awp": (partial(job, perturb="awp", perturb_size=0.05), Machines(strategy="fsdp")),
}
"""Runs that end with the weights of one process."""


def all_of_them(folder: Path) -> None:
    """Every run of `SAME`, in a folder of its name."""
    cost.price = lambda *_, **__: {}
    for name, (make, spread_as) in SAME.items():
        train(make(), folder / name, machines=spread_as)


def round_by_hand(folder: Path) -> None:
    """A round played by hand, and what was seen of it: exchanges in the attack, offsets, generators, statistics."""
    team = launch(Machines(), "cpu")
    made = job("pgd-at", model=Normed)
    torch.manual_seed(0)
    model, together = spread(made.make_model(), team, Machines(), Choice())
    assert isinstance(together, nn.parallel.DistributedDataParallel)
    exchanges, forwards, seen = [], [], {}

    def counted(state, bucket):  # type: ignore[no-untyped-def]  # DDP looks at the annotations
        exchanges.append(1)
        return allreduce_hook(None, bucket)

    together.register_comm_hook(None, counted)
    together.register_forward_pre_hook(lambda *_: forwards.append(1))
    x, y = made.source.take(torch.arange(21))
    played, view = dress(model, Choice(), x, played=together)
    share, rng = Share(team, 0), torch.Generator()
    attacker = Attacker(lambda m, z, b: m(z).square().sum(1), Still(1.0), pgd_of(2), rng, view=view)
    mine = share.of((x, y), 0, rng)
    seen["drawn"] = torch.rand(3, generator=rng)
    z = attacker.respond(played, mine)
    seen["in attack"] = (len(exchanges), len(forwards))
    offsets: list[Tensor] = []

    class Watched(Perturbation):
        def offsets(self, parameters: list[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
            found = super().offsets(parameters)
            offsets.extend(v.clone() for _, v in found)
            return found

    def differentiate() -> Tensor:
        played.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(played(z), mine[1])
        share.backward(loss)
        return loss

    played.train()
    Watched("awp", 0.01)(played, differentiate)
    seen["in update"] = (len(exchanges), len(forwards))
    seen["offsets"] = offsets
    seen["statistics before"] = model.body[2].running_mean.clone()
    level(model, team)
    seen["statistics after"] = model.body[2].running_mean.clone()
    seen["gathered"] = team.gather(team.rank)
    torch.save(seen, folder / f"round-{team.rank}.pt")


def pgd_of(steps: int) -> Any:
    from sparring.core.pgd import pgd

    return partial(pgd, steps=steps)


def one_share_dead(folder: Path) -> None:
    """An adversary that fails in one process alone, then in both."""
    from sparring.core.game import Game
    from sparring.core.standing import DeadStartError

    team = launch(Machines(), "cpu")

    class Failing:
        def __init__(self, ranks: tuple[int, ...]) -> None:
            self.ranks = ranks

        def respond(self, model: nn.Module, batch: Any) -> Tensor:
            if team.rank in self.ranks:
                raise DeadStartError("dead")
            return batch[0] + 1

    batch = (torch.zeros(2), torch.zeros(2))
    moves = [concerted(Game(None, Failing(ranks), None), team).adversary.respond(None, batch) for ranks in ((), (1,))]
    with contextlib.suppress(DeadStartError):
        moves.append(concerted(Game(None, Failing((0, 1)), None), team).adversary.respond(None, batch))
    torch.save({"moves": moves}, folder / f"dead-{team.rank}.pt")


def evaluation(team: Team | None) -> Any:
    """A small evaluation, of a model that is neither robust nor hopeless."""
    torch.manual_seed(3)
    source, model = jobs.job().source, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x, y = source.take(torch.arange(90))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    from sparring.core.threat import Linf

    return evaluate(model, (x, y), threat=Linf(0.08), batch_size=16, seed=1, team=team)


def evaluated(folder: Path) -> None:
    """The same evaluation by all processes together."""
    team = launch(Machines(), "cpu")
    found = evaluation(team)
    torch.save({"outcomes": found.outcomes, "z": found.z, "results": found.results}, folder / f"found-{team.rank}.pt")


def long_run(folder: Path) -> None:
    """A run that takes its time and saves after every step."""
    cost.price = lambda *_, **__: {}
    train(job(model=partial(Smooth, 0.05), epochs=6), folder / "long", checkpoint_seconds=0.0)


def start(task: Callable[[Path], None], folder: Path, world: int = 2) -> "list[subprocess.Popen[str]]":
    """As torchrun does: one process for each rank."""
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    common = {
        **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()),
    }  # fmt: skip
    code = f"import crew; crew.work({task.__name__!r}, {str(folder)!r})"
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip


def finish(processes: "list[subprocess.Popen[str]]", seconds: float = 300.0) -> list[tuple[int, str]]:
    """Exit codes, and what each process said on stderr."""
    said: dict[int, str] = {}

    def read(i: int) -> None:
        said[i] = processes[i].communicate(timeout=seconds)[1]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(processes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [(process.returncode, said[i]) for i, process in enumerate(processes)]


def together(folder: Path) -> None:
    """Everything that ends well, in one start."""
    with machines.together(launch(Machines(), "cpu"), ""):
        round_by_hand(folder)
        one_share_dead(folder)
        evaluated(folder)
        all_of_them(folder)
        train(job(), folder / "begun")  # by one process


def work(task: str, folder: str) -> None:
    """What a process is started for."""
    torch.set_num_threads(1)
    {f.__name__: f for f in (together, long_run)}[task](Path(folder))


def killed(folder: Path) -> list[tuple[int, str]]:
    """The long run, whose second process is killed once a state is saved."""
    processes = start(long_run, folder)
    deadline = time.monotonic() + 120
    while not (folder / "long" / STATE).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].kill()
    return finish(processes, 60)
