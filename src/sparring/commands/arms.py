"""The arms of a claim on disk: trained into run folders that are found again, priced, and judged on the test set.

A run folder is named by everything that its run is a function of, so whoever asks for the same run gets the same
folder: the baseline of one claim is the baseline of all, and a killed comparison goes on where it stopped.
"""

import hashlib
import json
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from sparring.commands import evaluate
from sparring.commands.beyond import Inputs, explained
from sparring.commands.flags import say
from sparring.commands.measures import measured
from sparring.commands.target import from_run
from sparring.commands.train import Where, train_run
from sparring.core.threat import ball
from sparring.engine import checkpoint, record
from sparring.engine.device import resolve
from sparring.engine.job import BEST, LAST
from sparring.engine.ledger import Ledger
from sparring.engine.system import System
from sparring.engine.training import Training
from sparring.evaluation import ensemble
from sparring.evaluation.identity import Named, fingerprint
from sparring.evaluation.saliency import grad_cam
from sparring.evaluation.subject import subject
from sparring.evaluation.suite import SUITES

PROBE_STEPS = 4
"""Steps of a run that prices a method: enough to say how long training will take, within a factor of two."""
PROBES = 3
"""Runs that price a method, of which the median counts."""


@dataclass(frozen=True)
class Entrant:
    """One way to train, everything but the seed. Its runs are `ROOT/SYSTEM/DATA-HASH-SEED`."""

    system: System
    config: Any
    training: Training
    where: Where
    root: Path

    def folder(self, seed: int) -> Path:
        """The run folder of a seed."""
        return self.root / self.system.name / f"{self._stem()}-{self.digest()}-{seed}"

    def digest(self) -> str:
        """Eight hexadecimal digits that differ where anything but the seed does."""
        where = self.where
        return digest(
            [self.system.name, asdict(self.config), asdict(self.training), where.data, where.size, where.model]
        )

    def price(self, command: str, probes: int = PROBES) -> dict[str, float]:
        """What a step costs, from runs of a few steps that are thrown away; measured once, then read.

        Args:
            command: what the user typed.
            probes: runs, of which the median counts; one is enough to say how long something will take.

        Returns:
            `{"step_ratio", "seconds", "rows"}`: a step in standard steps, timed in turn with them; seconds of a step,
            roughly; and the size of the training set.
        """
        short = replace(self.training, epochs=1, examples=PROBE_STEPS * self.training.batch_size, validation_steps=1)
        file = self.root / self.system.name / f"cost-{self._stem()}-{replace(self, training=short).digest()}.json"
        if probes != PROBES and not file.exists():
            file = file.with_stem(f"{file.stem}-{probes}")
        if file.exists():
            return dict(json.loads(file.read_text()))
        say(f"pricing a step of {self.system.name}")
        ratios, seconds = [], []
        for _ in range(probes):
            with TemporaryDirectory() as place:
                where = replace(self.where, run=Path(place) / "probe")
                facts = record.read(train_run(self.system, self.config, short, where, command))
            ratios.append(facts["timing"]["step_ratio"])
            steps = max(1, min(facts["data"]["train"] * (1 - short.validation), short.examples) // short.batch_size)
            seconds.append(facts["history"][0]["seconds"] / steps)
        found = {
            "step_ratio": statistics.median(ratios),
            "seconds": statistics.median(seconds),
            "rows": facts["data"]["train"],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(file, json.dumps(found).encode())
        return found

    def trained(self, seed: int, command: str) -> record.Record:
        """The record of the run of a seed, trained now, or as far as it still has to be."""
        folder = self.folder(seed)
        if (folder / record.FILE).exists() and record.read(folder)["status"] == "done":
            return record.read(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        train_run(self.system, self.config, self.training, replace(self.where, run=folder, seed=seed), command)
        return record.read(folder)

    def _stem(self) -> str:
        return Path(self.where.data).name.replace(":", "-")


@dataclass(frozen=True)
class Trial:
    """How every arm of a claim is judged: the same attacks in the same balls on the same test images. Of several balls
    an image stands only if it stands in all: robust accuracy is that under their union. `measures` are what else is
    measured of the best checkpoint, by name (`sparring.commands.measures`), in the first ball."""

    suite: str
    n: int
    norms: tuple[str, ...]
    eps: tuple[float, ...]
    device: str
    precision: str
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """One run on the test images, each tensor bool `[N]`: right when clean, and standing under attack, in the best and
    in the last checkpoint; which checks failed on the best; and what else was measured of it, by name, float: a value
    for each image `[N]`, or one for the run `[]`."""

    clean: Tensor
    robust: Tensor
    clean_last: Tensor
    robust_last: Tensor
    doubts: tuple[str, ...]
    values: dict[str, Tensor]


def judge(folder: Path, trial: Trial, data_root: Path | None, command: str) -> Judged:
    """Judge the run in a folder, or read how it was judged before in the same trial.

    The best checkpoint gets the whole evaluation, checks included, and it stands in the run's record; the last one
    only the attacks. Precision and device are circumstance: what is found is verified in float32.
    """
    same = {name: value for name, value in asdict(trial).items() if name not in ("device", "precision", "measures")}
    same |= {"measures": trial.measures} if trial.measures else {}
    file = folder / f"judged-{digest(same)}.json"
    if not file.exists():
        facts = {"trial": same, **_judge(folder, trial, data_root, command)}
        checkpoint.write(file, json.dumps(facts).encode())
    facts = json.loads(file.read_text())
    right = {name: from_bits(facts[name]) for name in _TENSORS}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in facts.get("values", {}).items()}
    return Judged(**right, doubts=tuple(facts["doubts"]), values=values)


_TENSORS = ("clean", "robust", "clean_last", "robust_last")


def _judge(folder: Path, trial: Trial, data_root: Path | None, command: str) -> dict[str, Any]:
    flags: Any = {"suite": trial.suite, "threat": trial.norms, "device": trial.device, "precision": trial.precision}
    asked = evaluate.Flags(folder=folder, examples=trial.n, eps=trial.eps, **flags)
    target = from_run(folder, model=None, weights="best", data_root=data_root)
    result, _ = evaluate.evaluate_target(target, asked, command)
    right = {"clean": result.outcomes["clean"], "robust": result.outcomes["union" if result.others else "worst"]}
    rows = load((folder / evaluate.OUTCOMES).read_bytes())["rows"]
    if (folder / BEST).read_bytes() == (folder / LAST).read_bytes():
        right |= {"clean_last": right["clean"], "robust_last": right["robust"]}
    else:
        right |= _last(folder, trial, data_root, rows)
    bits = {name: as_bits(right[name]) for name in _TENSORS}
    checks = [check for one in (result, *result.others) for check in one.checks]
    doubts = [check["name"] for check in checks if check["verdict"] == "fail"]
    if not trial.measures:
        return {**bits, "doubts": doubts}
    say(f"measuring {', '.join(trial.measures)}")
    x, y = (part.to(resolve(trial.device)) for part in target.data.test.take(rows))
    inputs = Inputs(target, x, y, result.z, 0, 256, lambda *_: None, rows=rows)
    values = measured(trial.measures, inputs, ball(trial.norms[0], trial.eps[0]))
    if "explanations" in trial.measures:
        _keep_maps(folder, inputs)
    return {**bits, "doubts": doubts, "values": {name: value.tolist() for name, value in values.items()}}


def _keep_maps(folder: Path, inputs: Inputs) -> None:
    """Heat maps of a few test images beside the record, where `sparring report` puts several runs' side by side."""
    found = explained(inputs, (("grad-cam", grad_cam),))
    checkpoint.write(folder / evaluate.MAPS, save(found.maps))
    facts = record.read(folder)
    facts["evaluation"]["explanations"] = found.as_dict()
    record.write(folder, facts)


def _last(folder: Path, trial: Trial, data_root: Path | None, rows: Tensor) -> dict[str, Tensor]:
    """The same attacks on the last checkpoint, on the same test images."""
    target = from_run(folder, model=None, weights="last", data_root=data_root)
    device = resolve(trial.device)
    x, y = target.data.test.take(rows)
    say("attacking the last checkpoint")
    made = subject(
        target.model.to(device), (x.to(device), y.to(device)), low=0.0, high=1.0, abstain=None, batch_size=256
    )
    faster = dict(evaluate.PRECISIONS)[trial.precision]
    view = None if faster is None else faster(made)
    ledger, stands = Ledger(folder / ".last"), made.clean_right
    for norm, eps in zip(trial.norms, trial.eps, strict=True):
        threat = ball(norm, eps)
        suite = dict(SUITES)[trial.suite](threat, made.classes)
        named = Named(ledger, fingerprint(made, (threat,), (suite,), 0, str(type(view))))
        found = ensemble.run(made, threat, suite, seed=0, watch=lambda _: lambda _: None, view=view, ledger=named)
        stands = stands & found.right
    ledger.clear()
    return {"clean_last": made.clean_right.cpu(), "robust_last": stands.cpu()}


def as_bits(right: Tensor) -> str:
    """Bools `[N]` as a word of N digits, which is short in JSON."""
    return "".join("1" if bit else "0" for bit in right.tolist())


def from_bits(word: str) -> Tensor:
    """Back from `as_bits`."""
    return torch.tensor([bit == "1" for bit in word])


def digest(identity: Any) -> str:
    """Eight hexadecimal digits of JSON types."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
