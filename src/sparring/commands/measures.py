"""What `sparring reproduce` measures of a run beyond accuracy, for promises that are about more than accuracy.

Every figure is of the best checkpoint on the test images of the trial: one value for each image, where there is one, so
that arms are compared pair by pair; else one for the run.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sparring.commands.beyond import Inputs
from sparring.core.correlation import correlation_norm, with_features
from sparring.core.gradient import frozen
from sparring.core.payoff import Loss, cross_entropy, margin
from sparring.core.pgd import pgd
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.image.source import Source
from sparring.evaluation.calibration import ece
from sparring.evaluation.explained_values import explanation_values

STEPS = 20
"""Of the PGD that measures look through, with one random start and step size 2.5 eps / 20."""

Values = dict[str, Tensor]
Measure = Callable[[Inputs, Tensor, Threat], Values]
"""`measure(inputs, rows of the test set [N], threat) -> {name: [N] or []}`."""


def losses(inputs: Inputs, _rows: Tensor, threat: Threat) -> Values:
    """Who stands after PGD-20 on cross-entropy, and after the same on the margin: a gain that only the first sees is
    gradient masking by low confidence."""
    kinds: tuple[tuple[str, Loss], ...] = (("PGD-20 cross-entropy", cross_entropy), ("PGD-20 margin", margin))
    return {name: _stands(inputs, inputs.x, inputs.y, threat, loss) for name, loss in kinds}


def calibration(inputs: Inputs, _rows: Tensor, threat: Threat) -> Values:
    """Expected calibration error, clean and under PGD-20."""
    z = _attacked(inputs, inputs.x, inputs.y, threat, cross_entropy)
    found = {}
    for name, seen in (("ECE clean", inputs.x), ("ECE attacked", z)):
        confidence, predicted = _logits(inputs, seen).double().softmax(1).max(1)
        found[name] = torch.tensor(ece(confidence, predicted == inputs.y))
    return found


def training_gap(inputs: Inputs, _rows: Tensor, threat: Threat) -> Values:
    """Accuracy under PGD-20 on as many training images, drawn by the seed, minus that on the test images."""
    train = inputs.target.data.train
    rng = torch.Generator().manual_seed(derive(inputs.seed, "training gap"))
    drawn = torch.randperm(len(train), generator=rng)[: len(inputs.y)].sort().values
    x, y = (part.to(inputs.x.device) for part in train.take(drawn))
    seen = _stands(inputs, x, y, threat, cross_entropy).mean()
    return {"robust gap train - test": seen - _stands(inputs, inputs.x, inputs.y, threat, cross_entropy).mean()}


def correlation(inputs: Inputs, _rows: Tensor, threat: Threat) -> Values:
    """The norm of the correlation of the last layer's weights over all test images, clean and under PGD-20."""
    z = _attacked(inputs, inputs.x, inputs.y, threat, cross_entropy)
    found = {}
    with frozen(inputs.model), torch.no_grad():
        for name, seen in (("correlation clean", inputs.x), ("correlation attacked", z)):
            parts = [with_features(inputs.model, part) for part in seen.split(inputs.batch_size)]
            logits, features = (torch.cat(each) for each in zip(*parts, strict=True))
            found[name] = correlation_norm(features, logits)
    return found


def shifted(inputs: Inputs, rows: Tensor, threat: Threat) -> Values:
    """Accuracy on the same rows of the other test splits, clean and under PGD-20; nothing where there are none."""
    found = {}
    for name, split in inputs.target.data.shifted.items():
        x, y = (part.to(inputs.x.device) for part in split.take(rows))
        found[f"{name} clean"] = (_logits(inputs, x).argmax(1) == y).double()
        found[f"{name} PGD-20"] = _stands(inputs, x, y, threat, cross_entropy)
    return found


def explanations(inputs: Inputs, rows: Tensor, threat: Threat) -> Values:
    """Grad-CAM of the true class: faithfulness, stability under PGD-20, and how much of it lies on the object."""
    z = _attacked(inputs, inputs.x, inputs.y, threat, cross_entropy)
    masks = _masks(inputs.target.data.test, rows)
    masks = None if masks is None else masks.to(inputs.x.device)
    seed, size = inputs.seed, inputs.batch_size
    return explanation_values(inputs.model, inputs.x, z, inputs.y, masks, seed=seed, batch_size=size)


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
    *("deletion", "sufficiency"),
)
"""Values that are good when they are small."""


def measured(names: Sequence[str], inputs: Inputs, rows: Tensor, threat: Threat) -> Values:
    """The values of these measures, on the CPU. Raises ValueError for a name that is none."""
    known = dict(MEASURES)
    found: Values = {}
    for name in names:
        if name not in known:
            raise ValueError(f"A measure must be one of {', '.join(known)}. Got {name!r} instead.")
        found |= {key: value.detach().double().cpu() for key, value in known[name](inputs, rows, threat).items()}
    return found


def _logits(inputs: Inputs, x: Tensor) -> Tensor:
    with frozen(inputs.model), torch.no_grad():
        return torch.cat([inputs.model(part) for part in x.split(inputs.batch_size)])


def _attacked(inputs: Inputs, x: Tensor, y: Tensor, threat: Threat, loss: Loss) -> Tensor:
    rng = torch.Generator(x.device).manual_seed(derive(inputs.seed, "measures"))
    attack = partial(pgd, steps=STEPS, rng=rng)
    parts = []
    with frozen(inputs.model) as model:
        for part, labels in zip(x.split(inputs.batch_size), y.split(inputs.batch_size), strict=True):
            parts.append(attack(lambda z, /, labels=labels: loss(model(z), labels), part, threat))
    return torch.cat(parts)


def _stands(inputs: Inputs, x: Tensor, y: Tensor, threat: Threat, loss: Loss) -> Tensor:
    """Who is right when clean and under attack, float64 `[N]`."""
    z = _attacked(inputs, x, y, threat, loss)
    if not threat.contains(z, x).all():
        raise ArithmeticError("PGD left its threat model.")
    return ((_logits(inputs, x).argmax(1) == y) & (_logits(inputs, z).argmax(1) == y)).double()


def _masks(split: Source, rows: Tensor) -> Tensor | None:
    found = getattr(split, "masks_of", None)
    masks: Tensor | None = None if found is None else found(rows)
    return masks
