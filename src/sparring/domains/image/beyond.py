"""What else an adversary or the world may do to an image: unseen threat models and the attacks that fit them, and the
data set that is outside for each known one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sparring.attacks.apgd import apgd
from sparring.attacks.grid import grid
from sparring.attacks.patch import patch
from sparring.core.attack import Attack, best_of
from sparring.core.parametric import Parametric
from sparring.core.pgd import pgd
from sparring.core.threat import L1, L2, Linf, Threat
from sparring.domains.image.patch import Patch, frame
from sparring.domains.image.threats import Colour, Flow, RotationTranslation

Unseen = tuple[str, Threat | Parametric, Attack, dict[str, Any]]
"""A name, a threat model, the attack on it, and the attack's parameters as JSON types."""


def unseen(shape: Sequence[int], customary: Mapping[str, float]) -> tuple[Unseen, ...]:
    """Threat models of many kinds for images of shape `(C, H, W)` in [0, 1], each with an attack of a modest budget.

    The balls have the radius that is customary on the data set, where one is; the patch is a sixteenth of the picture,
    the frame one pixel wide on small pictures.
    """
    height = min(shape[1:])
    side, width = max(2, height // 4), max(1, height // 32)
    found: list[Unseen] = []
    for name, ball in (("linf", Linf), ("l2", L2), ("l1", L1)):
        if name in customary:
            facts = {"attack": "apgd", "loss": "margin", "steps": 50, "random_start": True, "restarts": 1}
            found.append((name, ball(customary[name]), partial(apgd, steps=50, early_stop=True), facts))
    spatial = best_of(partial(grid, points=(7, 3, 3)), partial(grid, samples=50), early_stop=True)
    smooth = partial(pgd, steps=30, step_size=0.1, early_stop=True)
    coloured = best_of(partial(grid, samples=50), partial(pgd, steps=20, step_size=0.2), early_stop=True)
    framed = partial(pgd, steps=50, step_size=0.1, early_stop=True)
    patched = partial(patch, steps=50, locations=8)
    found += [
        ("patch", Patch(side), patched, {"attack": "patch", "loss": "margin", "steps": 50, "locations": 8}),
        (
            "frame",
            frame(tuple(shape), width),
            framed,
            {"attack": "pgd", "loss": "margin", "steps": 50, "step_size": 0.1},
        ),
        (
            "rotation",
            RotationTranslation(),
            spatial,
            {"attack": "grid of 63 and 50 random", "loss": "margin", "queries": 113},
        ),
        ("flow", Flow(), smooth, {"attack": "pgd", "loss": "margin", "steps": 30, "step_size": 0.1}),
        (
            "colour",
            Colour(gain=(0.1,) * shape[0]),
            coloured,
            {"attack": "50 random, then pgd", "loss": "margin", "steps": 20, "step_size": 0.2},
        ),
    ]
    return tuple(found)
