"""Where a run's processes are: how many, on how many machines, and what they say to each other.

`torchrun` starts the processes, or on one machine Lightning Fabric does, by running the same command once more for
each. The number of processes is a circumstance of a run, not part of what it is: another number continues it.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from sparring.engine.rank import first, torchrun

PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others before it gives up: the first may be compiling meanwhile."""


class LostProcessError(RuntimeError):
    """Another process of the same run ended, or does not answer."""


@dataclass(frozen=True)
class Machines:
    """How many processes train or evaluate together, and how the model is spread over them."""

    devices: int | None = None
    """Processes on each machine, one for each GPU or, on processors, each a share of the batch; by default as many as
    torchrun started, without it one."""
    nodes: int | None = None
    """Machines. More than one needs torchrun (docs/distributed.md)."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp holds the whole model in every process; fsdp shards it, for models too large for that. auto is ddp."""
    sync_batchnorm: bool = False
    """BatchNorm over the examples of all processes (GPUs only). Otherwise each normalises by its own examples, and the
    first one's running statistics are kept."""

    def __post_init__(self) -> None:
        for name in ("devices", "nodes"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"The {name!r} parameter must be an int in the range [1, inf). Got {value!r} instead.")
        if self.strategy not in ("auto", "ddp", "fsdp"):
            raise ValueError(f"The 'strategy' parameter must be one of auto, ddp, fsdp. Got {self.strategy!r} instead.")

    @property
    def counts(self) -> tuple[int, int]:
        """Processes on each machine, and machines: as asked, or as torchrun made them.

        Raises:
            ValueError: torchrun made another number, or there are several machines without torchrun.
        """
        if not torchrun():
            if (self.nodes or 1) > 1:
                raise ValueError(
                    "The 'nodes' parameter must be 1 where torchrun does not start the processes: "
                    f"torchrun --nnodes {self.nodes} ... -m -- sparring train ... (docs/distributed.md). "
                    f"Got {self.nodes} instead."
                )
            return self.devices or 1, 1
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        made = local, world // local
        for name, asked, there in (("devices", self.devices, made[0]), ("nodes", self.nodes, made[1])):
            if asked is not None and asked != there:
                raise ValueError(f"The {name!r} parameter must be {there}, as torchrun has it. Got {asked} instead.")
        return made

    @property
    def world(self) -> int:
        """All processes together."""
        devices, nodes = self.counts
        return devices * nodes

    @property
    def sharded(self) -> bool:
        """Whether the model itself is spread over the processes."""
        return self.strategy == "fsdp" and self.world > 1

    def check(self, accelerator: str) -> None:
        """Raises ValueError where a machine does not have what is asked for, before any process is started."""
        devices, _ = self.counts
        if accelerator == "cuda" and devices > torch.cuda.device_count():
            raise ValueError(
                f"The 'devices' parameter must be at most {torch.cuda.device_count()}, as many CUDA devices as torch "
                f"finds here. Got {devices} instead."
            )
        if self.sync_batchnorm and self.world > 1 and accelerator != "cuda":
            raise ValueError(
                "The 'sync_batchnorm' parameter must be False on processors: torch's SyncBatchNorm needs GPUs. "
                "Got True instead."
            )

    def check_batch(self, batch_size: int) -> None:
        """Raises ValueError where a batch does not give every process two examples, BatchNorm's least."""
        if self.world > 1 and batch_size < 2 * self.world:
            raise ValueError(
                f"The 'batch_size' parameter must be at least {2 * self.world}, two examples for each of the "
                f"{self.world} processes. Got {batch_size} instead."
            )


AS_STARTED = Machines()
"""As many processes as torchrun started, without it one."""


@dataclass(frozen=True)
class Team:
    """The processes of a run as one of them sees them; alone, every exchange is the identity.

    Args:
        fabric: Lightning's handle on them.
        world: how many they are.
        joined: whether they were together before: then `together` leaves them so.
    """

    fabric: Fabric
    world: int = 1
    joined: bool = False

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""
        return self.fabric.global_rank if self.world > 1 else 0

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes of a tensor of one shape."""
        if self.world == 1:
            return tensor
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def most(self, *values: float) -> list[float]:
        """For each number the largest that any process gave."""
        if self.world == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    def broadcast(self, thing: Any, source: int = 0) -> Any:
        """What process `source` gave, in all of them; tensors should be on the CPU."""
        if self.world == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box, source)
        return box[0]

    def gather(self, thing: Any) -> list[Any]:
        """What every process gave, in order, in all of them; tensors should be on the CPU."""
        if self.world == 1:
            return [thing]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, thing)
        return found


def launch(machines: Machines, accelerator: str) -> Team:
    """Join the processes of a run, and start them where nobody has; returns in each of them.

    Raises:
        ValueError: where a machine does not have what is asked for.
    """
    machines.check(accelerator)
    devices, nodes = machines.counts
    if devices * nodes == 1:
        return Team(Fabric(accelerator=accelerator, devices=1))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    joined = dist.is_initialized()
    parent = os.getppid()
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=PATIENCE),
        plugins=[TorchElasticEnvironment() if torchrun() else LightningEnvironment()],
    )
    fabric.launch()
    if not torchrun() and not joined:
        started = getattr(fabric.strategy.launcher, "procs", [])
        _watch(lambda: _fallen(started)) if first() else _watch(lambda: os.getppid() != parent)
    return Team(fabric, devices * nodes, joined)


@contextmanager
def together(team: Team, continues: str) -> Iterator[None]:
    """Part from the other processes at the end, and say plainly what it means where an exchange with them fails.

    Args:
        team: the processes.
        continues: what the same command does afterwards: "continues the run in ... ".

    Raises:
        LostProcessError: another process has gone, or does not answer.
    """
    part = team.world > 1 and not team.joined
    try:
        yield
        if part:
            dist.barrier()
    except RuntimeError as error:
        gone = isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "nccl"))
        if team.world > 1 and "finished reduction" in str(error):
            raise ValueError(
                "The model must use every parameter in every training pass where several processes train it with ddp: "
                f"freeze the others (requires_grad=False) or use --strategy fsdp. {str(error).splitlines()[-1]}"
            ) from error
        if team.world == 1 or not gone:
            raise
        raise LostProcessError(
            f"Process {team.rank} of {team.world} stops: another one has ended or does not answer. The same command "
            f"{continues}."
        ) from error
    finally:
        if part and (dist.get_backend() == "gloo" or sys.exception() is None):  # NCCL would wait for who has gone
            dist.destroy_process_group()


def _fallen(started: list["subprocess.Popen[bytes]"]) -> bool:
    """Whether a process that this one started has failed; the others are then ended."""
    failed = any(process.poll() for process in started)
    if failed:
        time.sleep(1)  # where the cause is an exchange between them, this process is about to say so itself
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    return failed


def _watch(gone: Callable[[], bool]) -> None:
    """End this process when another one has gone: it may be waiting for it in an exchange that never answers."""

    def look() -> None:
        while not gone():
            time.sleep(0.5)
        print(
            "error: Another process has ended, so this one ends too. The same command continues from what is saved.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="watch").start()
