"""`sparring train` for systems of the flow domain: data, preprocessing and threat come from a schema of columns."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparring.commands.flags import new_folder, say
from sparring.commands.train import standard_game
from sparring.core.compose import OfClass
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.flow import models
from sparring.domains.flow.artefact import FILE, to_bytes
from sparring.domains.flow.data import CLASSES, MALICIOUS, FlowData, load
from sparring.domains.flow.declared import declared
from sparring.domains.flow.feasible import Feasible
from sparring.domains.flow.generator import Generator, fit
from sparring.domains.flow.read import NAMES
from sparring.engine import checkpoint, record, tracking
from sparring.engine.job import BEST, Job
from sparring.engine.machines import AS_STARTED, Machines
from sparring.engine.rank import first
from sparring.engine.run import train
from sparring.engine.stream import hold_out
from sparring.engine.system import System
from sparring.engine.training import Training
from sparring.evaluation.detection import threshold_at


@dataclass(frozen=True)
class Where:
    """What is trained, on what, and where it goes."""

    data: str = "nsl-kdd"
    """nsl-kdd, unsw-nb15, cic-ddos2019, or a path of CSV, ARFF or parquet."""
    data_root: Path | None = None
    """Folder that the named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    kinds: tuple[str, ...] = ()
    """Kinds of attack to keep beside benign flows: dos, probe, r2l, u2r on NSL-KDD, labels elsewhere; all keeps all. By
    default dos on NSL-KDD, and all elsewhere."""
    model: str = "mlp"
    """mlp or cnn."""
    false_positives: float = 0.01
    """Share of held-out benign flows that may raise an alarm: fixes the threshold of the detector."""
    run: Path | None = None
    """The run folder; by default a new one under runs/."""
    seed: int = 0
    """Of everything random in the run."""
    log: tracking.Name = "none"
    """Also tell an experiment tracker, each with an extra of its name: tensorboard, mlflow, wandb."""
    schema: Path | None = None
    """A TOML file that says what the columns of --data are, which of them an attacker may change, and what holds
    between them (docs/flows.md); for tables that are not of a published set."""

    def __post_init__(self) -> None:
        if not 0 < self.false_positives < 1:
            raise ValueError(
                "The 'false_positives' parameter must be a number in the range (0, 1). "
                f"Got {self.false_positives!r} instead."
            )


def train_run(
    system: System,
    config: Any,
    training: Training,
    where: Where,
    command: str,
    *,
    machines: Machines = AS_STARTED,
    log: tracking.Name = "none",
) -> Path:
    """Train one run and return its folder, with the detector as one artefact in it."""
    data = loaded(where)
    folder = where.run or new_folder(f"{system.name}-{data.name}")
    width = data.preprocessing.width
    torch.manual_seed(0)
    parameters = sum(p.numel() for p in models.build(where.model, width).parameters())
    if config.adversary == "gadot":
        system = replace(system, game=partial(system.game, generator=generator(data, where.seed)))
    job = Job(
        system=system,
        config=config,
        training=training,
        seed=where.seed,
        data=described(data),
        source=data.train,
        model={"spec": where.model, "parameters": parameters},
        make_model=lambda: models.build(where.model, width),
        baseline=standard_game,
        threat=within(data, config.eps),
        command=command,
        circumstance=found_at(where),
    )
    say(f"{system.name} on {data.name} ({len(data.train)} flows of {width} numbers), run folder {folder}")
    finished = train(job, folder, machines=machines, log=log)
    best, timing = finished["best"], finished["timing"]
    say(
        f"best epoch {best['epoch']}: {best['clean']:.1%} of the flows held out are right, {best['robust']:.1%} under "
        f"attack; {timing['seconds']:.0f} s of training"
    )
    if first():
        model = models.build(where.model, width)
        checkpoint.load_weights(folder / BEST, model)
        _keep(folder, model.eval(), data, where, training)
    return folder


def loaded(where: Where) -> FlowData:
    """The data that a command line names."""
    schema = None if where.schema is None else declared(where.schema)
    if schema is not None and all(field.change == "fixed" for field in schema.fields):
        say(f"warning: {where.schema} lets an attacker change no column: without 'change' a field is fixed.")
    return load(where.data, where.data_root, kinds=where.kinds or None, schema=schema)


def found_at(where: Where) -> record.Record:
    """Where the data is, for a record: what it takes to find it again from another folder."""
    source = where.data if where.data in NAMES and where.schema is None else str(Path(where.data).resolve())
    return {"data_root": None if where.data_root is None else str(where.data_root.resolve()), "source": source}


def within(data: FlowData, eps: float) -> Threat:
    """What may become of a malicious flow of this data."""
    return OfClass(Feasible(data.preprocessing, eps), MALICIOUS)


def generator(data: FlowData, seed: int) -> Generator:
    """A generator of this data's benign training flows, a function of the seed."""
    say("fitting a generator of benign flows")
    benign = data.train.x[data.train.y != MALICIOUS]
    return fit(benign, torch.Generator().manual_seed(derive(seed, "generator")), steps=1000, learning_rate=1e-3)


def described(data: FlowData) -> record.Record:
    """A set of flows as a record names it."""
    return {
        "name": data.name,
        "kinds": list(data.kinds),
        "classes": list(CLASSES),
        "shape": [data.preprocessing.width],
        "train": len(data.train),
        "test": len(data.test),
        "schema": data.preprocessing.schema.name,
        "fingerprint": data.fingerprint,
    }


@torch.no_grad()
def scores(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The probability of malicious, float64 `[N]`."""
    return torch.cat([model(part).double().softmax(1)[:, MALICIOUS] for part in x.split(8192)])


def held_out_benign(data: FlowData, training: Training, seed: int) -> torch.Tensor:
    """The benign vectors that no weight has seen: what a threshold is fixed on."""
    return left_out_benign(data, training.validation, seed)


def left_out_benign(data: FlowData, share: float, seed: int) -> torch.Tensor:
    """The same where this share of every class was held out."""
    _, rows = hold_out(data.train.y, share, seed)
    x, y = data.train.take(rows)
    return x[y != MALICIOUS]


def _keep(folder: Path, model: nn.Module, data: FlowData, where: Where, training: Training) -> None:
    benign = held_out_benign(data, training, where.seed)
    threshold = threshold_at(scores(model, benign), where.false_positives)
    reference = data.train.x[data.train.y != MALICIOUS].mean(0)
    artefact = to_bytes(
        model,
        spec=where.model,
        preprocessing=data.preprocessing,
        threshold=threshold,
        false_positives=where.false_positives,
        reference=reference,
    )
    checkpoint.write(folder / FILE, artefact)
    share = f"{where.false_positives:.2%}"
    say(f"threshold {threshold:.4g} for at most {share} false alarms on {len(benign)} benign flows held out")
