"""The parts of an evaluation beyond the ball: corruptions, unseen threats, other data, temperature, explanations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.commands.flags import say
from sparring.commands.target import Target
from sparring.core.payoff import margin
from sparring.core.seeds import derive
from sparring.domains.image import data as image_data
from sparring.domains.image.beyond import unseen
from sparring.domains.image.corruptions import CORRUPTIONS
from sparring.engine import record
from sparring.evaluation.evaluate import Advance
from sparring.evaluation.explanations import Explanations, explanations
from sparring.evaluation.exploit import Challenge, exploit
from sparring.evaluation.interval import accuracy
from sparring.evaluation.outside import outside
from sparring.evaluation.saliency import METHODS, Method
from sparring.evaluation.shift import shift
from sparring.evaluation.subject import Subject, Team, subject
from sparring.evaluation.temperature import calibrated

NEVER_SEEN = (("digits", "mnist"), ("mnist", "fashion-mnist"), ("cifar10", "cifar100"), ("cifar100", "cifar10"))
"""A data set that is outside for each known one, for `--outside` without a name."""


@dataclass(frozen=True)
class Inputs:
    """What every part looks at.

    Args:
        target: the model and its data.
        x, y: test examples, on the model's device.
        z: for each example its worst verified input.
        seed: of every draw.
        batch_size: examples at a time.
        advance: told of every stage.
        team: the processes that share the work; None is this one alone.
        rows: where x stands in the test set, on the CPU `[N]`; None where nobody knows.
    """

    target: Target
    x: Tensor
    y: Tensor
    z: Tensor
    seed: int
    batch_size: int
    advance: Advance
    team: Team | None = None
    rows: Tensor | None = None

    @property
    def model(self) -> nn.Module:
        return self.target.model

    def subject(self, x: Tensor, y: Tensor) -> Subject:
        """The model with other examples."""
        return subject(self.model, (x, y), batch_size=self.batch_size, team=self.team)


def corrupted(inputs: Inputs, reference: Path | None) -> dict[str, Any]:
    """Fifteen corruptions at five severities; mCE against the `shift` of a reference run's record, if there is one.

    Raises ValueError where the reference has none.
    """
    relative_to = None
    if reference is not None:
        relative_to = record.read(reference).get("evaluation", {}).get("shift")
        if relative_to is None:
            raise ValueError(f"--reference must be a run that was evaluated with --shift. {reference} was not.")
    result = shift(
        inputs.model, inputs.x, inputs.y, CORRUPTIONS,
        seed=inputs.seed, batch_size=inputs.batch_size, advance=inputs.advance, relative_to=relative_to,
    )  # fmt: skip
    return {**result, "reference": None if reference is None else str(reference)}


def other_threats(inputs: Inputs, trained: str | None) -> dict[str, Any]:
    """Accuracy under threat models of other kinds than the one trained against, each with its attack and parameters."""
    made = inputs.subject(inputs.x, inputs.y)
    found: dict[str, Any] = {}
    threats = unseen(inputs.target.data.shape, inputs.target.data.customary)
    for i, (name, threat, attack, facts) in enumerate(threats):
        inputs.advance(f"unseen threat: {name}", i, len(threats))
        outcome = exploit(made, threat, Challenge(name, attack, margin, facts), seed=inputs.seed)
        described = {"threat": threat.describe(), "parameters": facts, "trained": name == trained}
        spent = {"refused": outcome.refused, "forwards": int(outcome.forwards.sum()), "seconds": outcome.seconds}
        found[name] = {**accuracy(outcome.right), **described, **spent}
    return found


def another_data_set(inputs: Inputs, name: str, data_root: Path | None) -> dict[str, Any]:
    """How well confidence tells the test images from images of another data set, resized to fit.

    Raises ValueError where `auto` knows none, DataError where it is not there.
    """
    own = inputs.target.data
    if name == "auto":
        known = dict(NEVER_SEEN)
        if own.name not in known:
            raise ValueError(f"--outside auto knows no other data set for {own.name}; name one, such as mnist.")
        name = known[own.name]
    other = image_data.load(name, data_root, None)
    rng = torch.Generator().manual_seed(derive(inputs.seed, "outside"))
    rows = torch.randperm(len(other.test), generator=rng)[: len(inputs.y)].sort().values
    x, _ = other.test.take(rows)
    shaped = fitted(x, own.shape).to(inputs.x)
    result = outside(inputs.model, inputs.x, shaped, y_in=inputs.y, rng=rng, batch_size=inputs.batch_size)
    return {"data": other.name, **result}


def fitted(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Images `[N, C, H, W]` in another shape `(C, H, W)`: resized with antialiasing, grey to colour or back."""
    size = tuple(shape[1:])
    if tuple(x.shape[2:]) != size:
        x = nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    if x.shape[1] != shape[0]:
        x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return x.contiguous()


def temperature_scaled(inputs: Inputs) -> dict[str, Any]:
    """Temperature scaling fitted on every second example's clean logits, reported on the others, clean and attacked."""
    made = inputs.subject(inputs.x, inputs.y)
    attacked = made.predict(inputs.z)
    fit, held = slice(0, None, 2), slice(1, None, 2)
    fitting = (made.logits[fit].cpu(), made.y[fit].cpu())
    rng = torch.Generator().manual_seed(derive(inputs.seed, "temperature"))
    parts = {"clean": made.logits, "attacked": attacked}
    y = made.y[held].cpu()
    return {name: calibrated(fitting, (logits[held].cpu(), y), rng) for name, logits in parts.items()}


def explained(inputs: Inputs, methods: Sequence[tuple[str, Method]] = METHODS) -> Explanations:
    """Saliency, integrated gradients and Grad-CAM, clean and attacked: how faithful, how stable, and, where the test
    set has masks of the foreground, how much inside it. The maps' `rows` are rows of the test set, if those are known.
    """
    found = explanations(
        inputs.model, inputs.x, inputs.z, inputs.y,
        masks=masks(inputs), seed=inputs.seed, batch_size=inputs.batch_size, advance=inputs.advance, methods=methods,
    )  # fmt: skip
    for name, why in found.left_out.items():
        say(f"no {name}: {why}")
    if inputs.rows is None:
        return found
    return replace(found, maps={**found.maps, "rows": inputs.rows.cpu()[found.maps["rows"]]})


def masks(inputs: Inputs) -> Tensor | None:
    """The foreground of each example, bool `[N, H, W]`, from a test set that has it."""
    masks_of: Callable[[Tensor], Tensor | None] | None = getattr(inputs.target.data.test, "masks_of", None)
    found = None if masks_of is None or inputs.rows is None else masks_of(inputs.rows)
    return None if found is None else found.to(inputs.x.device)
