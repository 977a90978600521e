"""`sparring train SYSTEM`: train a model, choose the best checkpoint, write the run folder."""

import hashlib
import importlib
import json
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from sparring import runs, systems, trust
from sparring.commands.flags import RUNS, new_folder, parse, say
from sparring.commands.listing import described
from sparring.commands.recipes import ONE_WAY_ROUND, starting_point
from sparring.core.game import Game
from sparring.core.tools import Tools
from sparring.domains.image import data as image_data
from sparring.domains.image import models as image_models
from sparring.domains.image.augment import pad_crop_flip
from sparring.domains.image.augment_boxes import cutmix, cutout
from sparring.domains.image.augment_idbh import STRONG, WEAK, idbh
from sparring.domains.image.extra import load_extra
from sparring.domains.image.source import Dataset
from sparring.engine import record, tracking
from sparring.engine.job import Job
from sparring.engine.labels import Blend, in_turn, smoothing
from sparring.engine.machines import AS_STARTED, Machines
from sparring.engine.rank import first
from sparring.engine.run import train
from sparring.engine.stream import Augment, Extra
from sparring.engine.system import System
from sparring.engine.training import Training

TRAINERS = (("nids-ensemble", "nids_train"),)
"""Systems whose learners are no networks that an engine could train, and the module of each that plays their games."""


@dataclass(frozen=True)
class Where:
    """What is trained, on what, and where it goes."""

    data: str = "digits"
    """digits (embedded), mnist, fashion-mnist, cifar10, cifar100, digits-on-textures, mnist-on-textures,
    cifar10-tinted-0 to -3 (docs/data.md), hf:NAME, or a path: an image folder, an .npz, HF-style parquet, MNIST idx or
    CIFAR batches."""
    data_root: Path | None = None
    """Folder that the named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    size: int | None = None
    """Height and width that the images of a folder are brought to."""
    extra_data: str = ""
    """More images to train on, with labels of their own (pseudo-labels, generated images): a name or path as of --data,
    of the same shape and classes. None of them is validated or tested on."""
    extra_share: float = 0.5
    """How much of every batch comes from the extra data, in [0, 1). An epoch stays one pass over the data itself."""
    model: str = "small-conv"
    """small-conv, small-strided (for certificates), resnet18, preact-resnet18, wrn-DEPTH-WIDTH, or
    package.module:factory, which is called with whichever of shape=(C, H, W) and classes=K it takes."""
    run: Path | None = None
    """The run folder; by default a new one under runs/, or the unfinished one that this same command left there."""
    seed: int = 0
    """Of everything random in the run."""
    log: tracking.Name = "none"
    """Also tell an experiment tracker, each with an extra of its name: tensorboard, mlflow, wandb."""

    def __post_init__(self) -> None:
        if not 0 <= self.extra_share < 1:
            raise ValueError(
                f"The 'extra_share' parameter must be a number in the range [0, 1). Got {self.extra_share!r} instead."
            )


def run(arguments: Sequence[str]) -> int:
    """Train, and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: sparring train SYSTEM [flags]; sparring train SYSTEM --help shows the card and every flag\n")
        print(*described(), sep="\n")
        return 0 if arguments else 2
    system = systems.find(arguments[0])
    if system.name in dict(TRAINERS):
        code: int = importlib.import_module(f"sparring.commands.{dict(TRAINERS)[system.name]}").run(arguments)
        return code
    if system.domain == "image":
        trained: Callable[..., Path] = train_run
        chosen = flags_of(system, arguments[1:])
    else:
        home = importlib.import_module(f"sparring.commands.{system.domain}_train")  # no image command needs it
        trained = home.train_run
        chosen = parsed(home.Where, system, system.config(), system.training, arguments[1:])
    folder = trained(
        system,
        chosen.config,
        chosen.training,
        chosen.where,
        shlex.join(["sparring", "train", *arguments]),
        machines=chosen.machines,
        log=chosen.where.log,
    )
    if first():
        print(folder)
    return 0


def flags_of(system: System, arguments: Sequence[str]) -> Any:
    """The command line as a record of `where`, the system's `config`, `training` and `machines`, whose fields are the
    flags."""
    return parsed(Where, system, *starting_point(system.config(), system.training, arguments), arguments)


def parsed(where: type[Any], system: System, config: Any, training: Training, arguments: Sequence[str]) -> Any:
    """The same with another `where`, from these defaults."""
    omit = tyro.conf.OmitArgPrefixes
    flags = make_dataclass(
        "Flags",
        [
            ("where", Annotated[where, omit], field(default_factory=where)),
            ("config", Annotated[system.config, omit], field(default=config)),
            ("training", Annotated[Training, omit], field(default=training)),
            ("machines", Annotated[Machines, omit], field(default=AS_STARTED)),
        ],
        frozen=True,
    )
    card = re.sub(r"\n(?=\S)", "\n\n", system.card)  # a heading is a paragraph of its own
    return parse(flags, arguments, prog=f"sparring train {system.name}", description=card)


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
    """Train one run and return its folder."""
    data = image_data.load(where.data, where.data_root, where.size)
    _advise(system.threat(config).describe(), data)
    extra, told = _extra(where, data)
    described = {"data": {**runs.describe_data(data, where.size), **told}}
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
        baseline=standard_game,
        augment=_augment(training.augment, data),
        blend=_blend(training, len(data.classes)),
        extra=extra,
        command=command,
        circumstance={"data_root": None if where.data_root is None else str(where.data_root.resolve())},
    )
    folder = where.run or _folder(job)
    say(
        f"{system.name} on {data.name} ({len(data.train)} images {'x'.join(map(str, data.shape))}), run folder {folder}"
    )
    finished = train(job, folder, machines=machines, log=log)
    best, timing = finished["best"], finished["timing"]
    say(
        f"best epoch {best['epoch']}: clean {best['clean']:.1%}, robust {best['robust']:.1%} of the images held out; "
        f"{timing['seconds']:.0f} s of training"
        + (f", {timing['step_ratio']:.1f} times a standard step" if "step_ratio" in timing else "")
    )
    return folder


def _augment(name: str, data: Dataset) -> Augment | None:
    """Crops move by an eighth of the image at most: 4 pixels at CIFAR's size, 1 on the digits.

    Named for more than a crop, an augmentation flips too, except where a mirror changes what an image means.
    """
    side = data.shape[1]
    crop = partial(pad_crop_flip, pad=max(1, side // 8))
    flip = data.name not in ONE_WAY_ROUND
    if name == "cutout":
        hole = partial(cutout, size=max(1, side // 2), fill=data.mean)
        return lambda x, rng: hole(crop(x, rng, flip=flip), rng)
    others: dict[str, Augment | None] = {
        "none": None,
        "pad-crop": partial(crop, flip=False),
        "pad-crop-flip": partial(crop, flip=True),
        "idbh-weak": partial(idbh, erasing=WEAK, flip=flip),
        "idbh-strong": partial(idbh, erasing=STRONG, flip=flip),
    }
    return others[name]


def _blend(training: Training, classes: int) -> Blend | None:
    """Smoothing is linear in the labels, so it may come before the mixing that needs them soft."""
    if not training.label_smoothing and not training.cutmix:
        return None
    smooth = smoothing(classes, training.label_smoothing)
    return in_turn([smooth, partial(cutmix, probability=training.cutmix)]) if training.cutmix else smooth


def _extra(where: Where, data: Dataset) -> tuple[Extra | None, record.Record]:
    """The extra examples, and what the record says of them: it is part of what makes two runs the same."""
    if not where.extra_data:
        return None, {}
    found = load_extra(where.extra_data, data, where.data_root, where.size)
    told = {
        "name": found.name,
        "train": len(found.source),
        "share": where.extra_share,
        "fingerprint": found.fingerprint,
    }
    return Extra(found.source, where.extra_share), {"extra": told}


def standard_game(model: nn.Module, tools: Tools) -> Game:
    """Standard training: what the price of a step is a multiple of."""
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


def _advise(threat: dict[str, Any], data: Dataset) -> None:
    """Say where a radius is far from what the field uses on this data set: eps in 0..255, or another set's eps.

    Of a Linf radius wider than the box the threat model itself warns.
    """
    pixels = math.prod(data.shape)
    for ball in threat.get("members", [threat]):
        norm, eps, usual = ball["norm"], ball["eps"], data.customary.get(ball["norm"])
        if eps > {"linf": math.inf, "l2": pixels**0.5, "l1": float(pixels)}[norm]:
            say(
                f"warning: {norm} eps {eps:g} allows every image, whose pixels are in [0, 1]; did you mean "
                f"{eps:g}/255 = {eps / 255:.4g}?"
            )
        elif usual is not None and not 0.5 <= eps / usual <= 2:
            say(f"note: eps is {eps:.4g}; the customary {norm} radius on {data.name} is {usual:.4g}")
