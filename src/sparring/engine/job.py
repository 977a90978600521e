"""What a run is a function of, the folder it lives in, and the ways in which it ends early."""

import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.game import Game
from sparring.core.threat import Threat
from sparring.core.tools import Tools
from sparring.engine import record
from sparring.engine.labels import Blend
from sparring.engine.stream import Augment, Extra, Source
from sparring.engine.system import System
from sparring.engine.training import Training

BEST, LAST, STATE = "best.safetensors", "last.safetensors", "resume.pt"

Validation = Callable[[nn.Module, Source, Tensor, torch.Generator], dict[str, Any]]
"""`validation(model, source, rows, rng) -> {"clean": share, "robust": share, "n": examples}`: what a checkpoint is
chosen by. The model is in whatever mode it was and left in it; the answer is a function of the arguments alone."""


class DivergedError(RuntimeError):
    """The loss or a weight became NaN or infinite, or the model so saturated that an attack has no gradient."""


class InterruptedRunError(RuntimeError):
    """The run was asked to stop, and saved its state first."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}; the same command continues the run in {folder}.")
        self.signal = number


@dataclass(frozen=True)
class Job:
    """Everything that a run is a function of, and the objects that its names stand for.

    Args:
        system, config, training, seed: what to run.
        data: the data set as the record names it; `source` holds its training examples.
        model: the model as the record names it; `make_model` builds it.
        augment: `(x, rng) -> x`, or None.
        blend: `(x, y, rng) -> (x, y)` after it: mixed and smoothed labels; or None.
        extra: a second source of examples that every batch has a share of; or None.
        threat: what the adversary may do, where that depends on the data; None is what the configuration says.
        validation: how checkpoints are judged where PGD on the inputs is no measure (words, sequences); the guard,
            which is PGD on the inputs too, is then off. None is `sparring.engine.validation`.
        baseline: makes the standard-training game over a model and tools, for the price of a step.
        command: what the user typed.
        circumstance: what else the record keeps, without being part of what makes two runs the same.
    """

    system: System
    config: Any
    training: Training
    seed: int
    data: record.Record
    source: Source
    model: record.Record
    make_model: Callable[[], nn.Module]
    baseline: Callable[[nn.Module, Tools], Game]
    augment: Augment | None = None
    blend: Blend | None = None
    extra: Extra | None = None
    threat: Threat | None = None
    validation: Validation | None = None
    command: str = ""
    circumstance: record.Record = field(default_factory=dict)

    def game(self, **hands: Any) -> Game:
        """The system's game, with what an engine hands in; the threat only where the data made it."""
        threat = {} if self.threat is None else {"threat": self.threat}
        return self.system.game(self.config, **threat, **hands)

    def within(self) -> Threat:
        """The threat model that the run trains and validates in."""
        return self.threat or self.system.threat(self.config)


def open_run(job: Job, folder: Path) -> record.Record:
    """The record of the run in a folder: what is there, if it is this run, or a new one."""
    identity = {
        "system": job.system.name,
        "config": asdict(job.config),
        "training": asdict(job.training),
        "data": job.data,
        "model": job.model,
        "seed": job.seed,
    }
    return record.opened(folder, identity, job.command, job.circumstance)
