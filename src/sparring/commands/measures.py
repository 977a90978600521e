"""What `sparring reproduce` measures of a run beyond accuracy, for promises that are about more than accuracy.

Every figure is of the best checkpoint on the test images of the trial: one value for each image, where there is one, so
that arms are compared pair by pair; else one for the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from sparring.commands.beyond import Inputs, masks
from sparring.core.correlation import correlation_norm, with_features
from sparring.core.gradient import frozen
from sparring.core.payoff import Loss, cross_entropy, margin
from sparring.core.pgd import pgd
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.evaluation.calibration import ece
from sparring.evaluation.explained_values import explanation_values

STEPS = 20
"""Of the PGD that measures look through, with one random start and step size 2.5 eps / 20."""

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Look:
    """What every measure looks at.

    Args:
        inputs: the model and the test images, with their rows.
        threat: what the attacks of the measures may do.
    """

    inputs: Inputs
    threat: Threat

    @cached_property
    def z(self) -> Tensor:
        """The test images after PGD-20 on cross-entropy."""
        return self.attacked(self.inputs.x, self.inputs.y, cross_entropy)

    def attacked(self, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
        """Images after PGD-20 on a loss."""
        rng = torch.Generator(x.device).manual_seed(derive(self.inputs.seed, "measures"))
        parts, size = [], self.inputs.batch_size
        with frozen(self.inputs.model) as model:
            for part, labels in zip(x.split(size), y.split(size), strict=True):
                gain = partial(_loss, model, loss, labels)
                parts.append(pgd(gain, part, self.threat, steps=STEPS, rng=rng))
        return torch.cat(parts)

    def logits(self, x: Tensor) -> Tensor:
        """The model's answers `[N, K]`."""
        with frozen(self.inputs.model), torch.no_grad():
            return torch.cat([self.inputs.model(part) for part in x.split(self.inputs.batch_size)])

    def stands(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Who is right at x and at z, float64 `[N]`."""
        if not self.threat.contains(z, x).all():
            raise ArithmeticError("PGD left its threat model.")
        return ((self.logits(x).argmax(1) == y) & (self.logits(z).argmax(1) == y)).double()

    def robust(self, x: Tensor, y: Tensor) -> Tensor:
        """Who stands after PGD-20 on cross-entropy, float64 `[N]`."""
        return self.stands(x, y, self.attacked(x, y, cross_entropy))


Measure = Callable[[Look], Values]
"""`measure(look) -> {name: [N] or []}`."""


def losses(look: Look) -> Values:
    """Who stands after PGD-20 on cross-entropy, and after the same on the margin: a gain that only the first sees is
    gradient masking by low confidence."""
    x, y = look.inputs.x, look.inputs.y
    return {
        "PGD-20 cross-entropy": look.stands(x, y, look.z),
        "PGD-20 margin": look.stands(x, y, look.attacked(x, y, margin)),
    }


def calibration(look: Look) -> Values:
    """Expected calibration error, clean and under PGD-20."""
    found = {}
    for name, seen in (("ECE clean", look.inputs.x), ("ECE attacked", look.z)):
        confidence, predicted = look.logits(seen).double().softmax(1).max(1)
        found[name] = torch.tensor(ece(confidence, predicted == look.inputs.y))
    return found


def training_gap(look: Look) -> Values:
    """Accuracy under PGD-20 on as many training images, drawn by the seed, minus that on the test images."""
    inputs, train = look.inputs, look.inputs.target.data.train
    rng = torch.Generator().manual_seed(derive(inputs.seed, "training gap"))
    drawn = torch.randperm(len(train), generator=rng)[: len(inputs.y)].sort().values
    x, y = (part.to(inputs.x.device) for part in train.take(drawn))
    apart = look.robust(x, y).mean() - look.stands(inputs.x, inputs.y, look.z).mean()
    return {"robust gap train - test": apart}


def correlation(look: Look) -> Values:
    """The norm of the correlation of the last layer's weights over all test images, clean and under PGD-20."""
    model, found = look.inputs.model, {}
    for name, seen in (("correlation clean", look.inputs.x), ("correlation attacked", look.z)):
        with frozen(model), torch.no_grad():
            parts = [with_features(model, part) for part in seen.split(look.inputs.batch_size)]
        logits, features = (torch.cat(each) for each in zip(*parts, strict=True))
        found[name] = correlation_norm(features, logits)
    return found


def shifted(look: Look) -> Values:
    """Accuracy on the other test splits, clean and under PGD-20; nothing where there are none. Of a split that is the
    test set seen otherwise, the same rows; of one with images of its own as many, drawn by the seed."""
    found: Values = {}
    inputs = look.inputs
    assert inputs.rows is not None
    for name, split in inputs.target.data.shifted.items():
        rows = inputs.rows
        if len(split) != len(inputs.target.data.test):
            rng = torch.Generator().manual_seed(derive(inputs.seed, "shifted"))
            rows = torch.randperm(len(split), generator=rng)[: len(inputs.rows)].sort().values
        x, y = (part.to(inputs.x.device) for part in split.take(rows))
        found[f"{name} clean"] = (look.logits(x).argmax(1) == y).double()
        found[f"{name} PGD-20"] = look.robust(x, y)
    return found


def explanations(look: Look) -> Values:
    """Grad-CAM of the true class: faithfulness, stability under PGD-20, and how much of it lies on the object."""
    inputs = look.inputs
    where, seed, size = masks(inputs), inputs.seed, inputs.batch_size
    return explanation_values(inputs.model, inputs.x, look.z, inputs.y, where, seed=seed, batch_size=size)


MEASURES: tuple[tuple[str, Measure], ...] = (
    ("losses", losses),
    ("calibration", calibration),
    ("training-gap", training_gap),
    ("correlation", correlation),
    ("shifted", shifted),
    ("explanations", explanations),
)

LOWER_IS_BETTER = (
    *("ECE clean", "ECE attacked", "robust gap train - test", "correlation clean", "correlation attacked"),
    *("deletion", "sufficiency", "blank maps"),
)
"""Values that are good when they are small."""


def measured(names: Sequence[str], inputs: Inputs, threat: Threat) -> Values:
    """The values of these measures, on the CPU. Raises ValueError for a name that is none."""
    known, look = dict(MEASURES), Look(inputs, threat)
    found: Values = {}
    for name in names:
        if name not in known:
            raise ValueError(f"A measure must be one of {', '.join(known)}. Got {name!r} instead.")
        found |= {key: value.detach().double().cpu() for key, value in known[name](look).items()}
    return found


def _loss(model: nn.Module, loss: Loss, y: Tensor, z: Tensor, /) -> Tensor:
    return loss(model(z), y)
