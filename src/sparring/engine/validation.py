"""Clean and robust accuracy on the held-out part, once an epoch: what the best checkpoint is chosen by."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.attack import each_member
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.core.seeds import derive
from sparring.core.standing import DeadStartError
from sparring.core.threat import Threat, for_classes
from sparring.engine.machines import Team
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
    team: Team | None = None,
    lockstep: bool = False,
    batch_size: int = 512,
) -> dict[str, Any]:
    """Accuracy on clean inputs and under PGD with cross-entropy, on the same random starts every epoch.

    The random starts are a function of the chunk, so that several processes, each with every n-th chunk, find what one
    would.

    Args:
        model: left as it is.
        source, rows: the examples.
        threat: what the attack may do.
        steps: of PGD.
        seed: of its random starts.
        rng: on the model's device.
        team: the processes that share the work; None is this one alone.
        lockstep: let every process do all of it, without stopping early: a sharded model needs all in every pass.
        batch_size: examples in a chunk.

    Returns:
        `{"clean": share right, "robust": share right under attack, "n": examples}`.
    """
    rank, world = (0, 1) if team is None or lockstep else (team.rank, team.world)
    attack = each_member(partial(pgd, steps=steps, early_stop=not lockstep))  # PGD on a union is weak: ball by ball
    right = stand = 0
    with frozen(model):
        for i, chunk in list(enumerate(rows.split(batch_size)))[rank::world]:
            rng.manual_seed(derive(seed, "validation", i))
            x, y = (part.to(rng.device) for part in source.take(chunk))
            with torch.no_grad():
                x, y = (part[model(x).argmax(1) == y] for part in (x, y))
            right += len(y)
            if len(y) == 0:
                continue
            gain = ClassifierGain(model, y, cross_entropy)
            try:
                _, lost = gain.judge(attack(gain, x, for_classes(threat, y), rng=rng))
            except DeadStartError:  # a saturated model: nothing to follow, so nothing found, and evaluation will say so
                lost = torch.zeros_like(y, dtype=torch.bool)
            stand += int((~lost).sum())
    if team is not None and world > 1:
        right, stand = team.sum(torch.tensor([right, stand], device=rng.device)).tolist()
    return {"clean": right / len(rows), "robust": stand / len(rows), "n": len(rows)}
