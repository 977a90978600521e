"""What `sparring evaluate` is pointed at: a run folder, or a model with its weights and a data set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sparring import runs, systems, trust
from sparring.commands.flags import new_folder
from sparring.core.threat import Threat, ball
from sparring.domains.image import data as image_data
from sparring.domains.image import models as image_models
from sparring.domains.image.source import Dataset
from sparring.engine import checkpoint, record

EXTERNAL = "external"
"""The system of a run that Sparring did not train."""


@dataclass(frozen=True)
class Target:
    """A model and its test data.

    Args:
        folder: the run folder that the evaluation is written into.
        model: on the CPU, in eval mode.
        data: the data set.
        trained: the threat model of its configuration, as `Threat.describe` gives it; None where nobody said.
        adversarial: whether training played an adversary in it.
    """

    folder: Path
    model: nn.Module
    data: Dataset
    trained: dict[str, Any] | None
    adversarial: bool


def from_run(folder: Path, *, model: str | None, weights: str, data_root: Path | None) -> Target:
    """The model of a run folder. Raises RecordError, CheckpointError, DataError, ModelError or ValueError."""
    if weights not in ("best", "last"):
        raise ValueError(f"The 'weights' parameter of a run must be best or last. Got {weights!r} instead.")
    facts = record.read(folder)
    trained = None
    if facts["system"] != EXTERNAL:
        system = systems.find(facts["system"])
        if system.domain != "image":
            raise ValueError(
                f"sparring evaluate measures models of images; {folder} holds one of {system.domain}s. "
                f"sparring reproduce {system.name} attacks such a model, sparring score {folder} FILE uses it."
            )
        try:
            config = system.config(**facts["config"])
        except TypeError as error:
            raise record.RecordError(
                f"{folder / record.FILE} has a config that {system.name} does not take: {error}."
            ) from error
        trained = system.threat(config).describe()
    if model is not None:
        trust.remember(model)
    which: Literal["best", "last"] = "best" if weights == "best" else "last"
    adversarial = facts["system"] not in (EXTERNAL, "standard")
    loaded = runs.load(folder, model=model, weights=which)
    return Target(folder, loaded, runs.load_data(facts, data_root), trained, adversarial)


def from_weights(
    spec: str, weights: str, data: str, *, data_root: Path | None, folder: Path | None, seed: int, command: str
) -> Target:
    """A user's own model: `package.module:factory` or a name, its safetensors, a data set; a folder is made for it.

    The weights are copied into the folder, so that what was evaluated can be evaluated again.
    """
    if not weights.endswith(".safetensors"):
        raise ValueError(
            "--weights of a model of your own must be a .safetensors file (pickled weights can run code and are not "
            f"read; safetensors.torch.save_file(model.state_dict(), path) converts them). Got {weights!r}."
        )
    found = image_data.load(data, data_root, None)
    facts: record.Record = {"data": runs.describe_data(found, None)}
    model = runs.make_model(spec, facts)
    checkpoint.load_weights(Path(weights), model)
    image_models.check_output(model, found.shape, len(found.classes))
    if ":" in spec:
        trust.remember(spec)
    folder = new_folder(f"{EXTERNAL}-{Path(weights).stem}") if folder is None else folder
    if (folder / record.FILE).exists() and record.read(folder)["system"] != EXTERNAL:
        raise ValueError(f"--run must be a new folder, or one of an external model. {folder} holds a training run.")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write(folder / "best.safetensors", Path(weights).read_bytes())
    circumstance = {"data_root": None if data_root is None else str(data_root.resolve())}
    parameters = sum(p.numel() for p in model.parameters())
    facts |= {
        "format": record.FORMAT,
        "system": EXTERNAL,
        "status": "done",
        "config": {},
        "model": {"spec": spec, "parameters": parameters},
        "seed": seed,
        "command": command,
        "history": [],
        **circumstance,
        **record.environment(torch.device("cpu")),
    }
    record.write(folder, facts)
    return Target(folder, model.eval(), found, None, adversarial=False)


def threats_of(target: Target, norms: Sequence[str], radii: Sequence[float]) -> tuple[Threat, ...]:
    """The threat models of a command line: what it was trained against by default, else what is customary on the data.

    Raises ValueError where a radius is missing that nobody knows, or there are more radii than norms.
    """
    trained, usual = target.trained, target.data.customary
    balls = {each["norm"]: each["eps"] for each in trained.get("members", [trained])} if trained else {}
    names = list(norms) or list(balls) or ["linf"]
    if len(radii) > len(names):
        raise ValueError(f"--eps must hold at most one radius for each --threat. Got {len(radii)} for {len(names)}.")
    found = []
    for i, name in enumerate(names):
        eps = radii[i] if i < len(radii) else balls.get(name) or usual.get(name)
        if eps is None:
            known = ", ".join(f"{n} {e:.4g}" for n, e in usual.items()) or "none"
            raise ValueError(
                f"--eps must give a radius for {name}: none is customary on {target.data.name} (known: {known})."
            )
        if not math.isfinite(eps) or eps <= 0:
            raise ValueError(f"The 'eps' parameter must be a number in the range (0, inf). Got {eps!r} instead.")
        found.append(ball(name, eps))
    return tuple(found)
