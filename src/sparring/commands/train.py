"""`sparring train SYSTEM`: train a model, choose the best checkpoint, write the run folder."""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from sparring import runs, systems, trust
from sparring.commands.flags import RUNS, new_folder, parse, say
from sparring.commands.recipes import starting_point
from sparring.core.game import Game
from sparring.core.tools import Tools
from sparring.domains.image import data as image_data
from sparring.domains.image import models as image_models
from sparring.domains.image.augment import pad_crop_flip
from sparring.domains.image.source import Dataset
from sparring.engine import record
from sparring.engine.run import Job, train
from sparring.engine.stream import Augment
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Where:
    """What is trained, on what, and where it goes."""

    data: str = "digits"
    """digits (embedded), mnist, fashion-mnist, cifar10, cifar100, hf:NAME, or a path: an image folder, an .npz,
    HF-style parquet, MNIST idx or CIFAR batches."""
    data_root: Path | None = None
    """Folder that the named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    size: int | None = None
    """Height and width that the images of a folder are brought to."""
    model: str = "small-conv"
    """small-conv, preact-resnet18, wrn-DEPTH-WIDTH, or package.module:factory, which is called with whichever of
    shape=(C, H, W) and classes=K it takes."""
    run: Path | None = None
    """The run folder; by default a new one under runs/, or the unfinished one that this same command left there."""
    seed: int = 0
    """Of everything random in the run."""


def run(arguments: Sequence[str]) -> int:
    """Train, and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: sparring train SYSTEM [flags]; sparring train SYSTEM --help shows the card and every flag\n")
        print("\n".join(f"  {name:<12}{summary}" for name, summary in systems.NAMES))
        return 0 if arguments else 2
    system = systems.find(arguments[0])
    chosen = flags_of(system, arguments[1:])
    folder = train_run(
        system, chosen.config, chosen.training, chosen.where, shlex.join(["sparring", "train", *arguments])
    )
    print(folder)
    return 0


def flags_of(system: System, arguments: Sequence[str]) -> Any:
    """The command line as a record of `where`, the system's `config` and `training`, whose fields are the flags."""
    config, training = starting_point(system.config(), system.training, arguments)
    omit = tyro.conf.OmitArgPrefixes
    flags = make_dataclass(
        "Flags",
        [
            ("where", Annotated[Where, omit], field(default_factory=Where)),
            ("config", Annotated[system.config, omit], field(default=config)),
            ("training", Annotated[Training, omit], field(default=training)),
        ],
        frozen=True,
    )
    card = re.sub(r"\n(?=\S)", "\n\n", system.card)  # a heading is a paragraph of its own
    return parse(flags, arguments, prog=f"sparring train {system.name}", description=card)


def train_run(system: System, config: Any, training: Training, where: Where, command: str) -> Path:
    """Train one run and return its folder."""
    data = image_data.load(where.data, where.data_root, where.size)
    _advise(config, data)
    described = {"data": runs.describe_data(data, where.size)}
    torch.manual_seed(0)
    model = runs.make_model(where.model, described)
    image_models.check_output(model, data.shape, len(data.classes))
    if ":" in where.model:
        trust.remember(where.model)
    job = Job(
        system=system,
        config=config,
        training=training,
        seed=where.seed,
        data=described["data"],
        source=data.train,
        model={"spec": where.model, "parameters": sum(p.numel() for p in model.parameters())},
        make_model=lambda: runs.make_model(where.model, described),
        baseline=_standard,
        augment=_augment(training.augment, data.shape),
        command=command,
        circumstance={"data_root": None if where.data_root is None else str(where.data_root.resolve())},
    )
    folder = where.run or _folder(job)
    say(
        f"{system.name} on {data.name} ({len(data.train)} images {'x'.join(map(str, data.shape))}), run folder {folder}"
    )
    finished = train(job, folder)
    best, timing = finished["best"], finished["timing"]
    say(
        f"best epoch {best['epoch']}: clean {best['clean']:.1%}, robust {best['robust']:.1%} of the images held out; "
        f"{timing['seconds']:.0f} s of training, {timing['step_ratio']:.1f} times a standard step"
    )
    return folder


def _augment(name: str, shape: tuple[int, int, int]) -> Augment | None:
    """Crops move by an eighth of the image at most: 4 pixels at CIFAR's size, 1 on the digits."""
    if name == "none":
        return None
    return partial(pad_crop_flip, pad=max(1, shape[1] // 8), flip=name == "pad-crop-flip")


def _standard(model: nn.Module, tools: Tools) -> Game:
    standard = systems.find("standard")
    return standard.game(standard.config(), model=model, tools=tools)


def _folder(job: Job) -> Path:
    """`runs/SYSTEM-DATA-HASH`, new, or what this command left unfinished."""
    identity = [job.system.name, asdict(job.config), asdict(job.training), job.data, job.model, job.seed]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]
    stem = f"{job.system.name}-{Path(job.data['name']).name.replace(':', '-')}-{digest}"
    for folder in sorted(RUNS.glob(f"{stem}*")):
        try:
            if record.read(folder)["status"] != "done":
                return folder
        except record.RecordError:
            continue
    return new_folder(stem)


def _advise(config: Any, data: Dataset) -> None:
    """Say where the radius is far from what the field uses on this data set: eps in 0..255, or another set's eps.

    Of a Linf radius wider than the box the threat model itself warns.
    """
    usual = data.customary.get(config.threat)
    pixels = math.prod(data.shape)
    widest = {"linf": math.inf, "l2": pixels**0.5, "l1": float(pixels)}[config.threat]
    if config.eps > widest:
        say(
            f"warning: {config.threat} eps {config.eps:g} allows every image, whose pixels are in [0, 1]; did you mean "
            f"{config.eps:g}/255 = {config.eps / 255:.4g}?"
        )
    elif usual is not None and not 0.5 <= config.eps / usual <= 2:
        say(f"note: eps is {config.eps:.4g}; the customary {config.threat} radius on {data.name} is {usual:.4g}")
