"""Clean and robust accuracy on the held-out part, once an epoch: what the best checkpoint is chosen by."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.core.seeds import derive
from sparring.core.standing import DeadStartError
from sparring.core.threat import Threat
from sparring.engine.stream import Source


def validate(
    model: nn.Module,
    source: Source,
    rows: Tensor,
    threat: Threat,
    *,
    steps: int,
    seed: int,
    rng: torch.Generator,
    batch_size: int = 512,
) -> dict[str, Any]:
    """Accuracy on clean inputs and under PGD with cross-entropy, on the same random starts every epoch.

    Returns:
        `{"clean": share right, "robust": share right under attack, "n": examples}`.
    """
    rng.manual_seed(derive(seed, "validation"))
    attack = partial(pgd, steps=steps, early_stop=True)
    right = stand = 0
    with frozen(model):
        for chunk in rows.split(batch_size):
            x, y = (part.to(rng.device) for part in source.take(chunk))
            with torch.no_grad():
                x, y = (part[model(x).argmax(1) == y] for part in (x, y))
            right += len(y)
            if len(y) == 0:
                continue
            gain = ClassifierGain(model, y, cross_entropy)
            try:
                _, lost = gain.judge(attack(gain, x, threat, rng=rng))
            except DeadStartError:  # a saturated model: nothing to follow, so nothing found, and evaluation will say so
                lost = torch.zeros_like(y, dtype=torch.bool)
            stand += int((~lost).sum())
    return {"clean": right / len(rows), "robust": stand / len(rows), "n": len(rows)}
