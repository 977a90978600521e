"""What an engine owns and hands to a game when it is made, with the plain torch one as default."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.core.gradient import View, frozen
from sparring.core.schedule import Progress
from sparring.core.weights import Perturbation


@dataclass(frozen=True)
class Tools:
    """The hands of the engine.

    Args:
        backward: differentiates a reduced loss (mixed precision scales it, a distributed engine gathers).
        clip: called between backward and step; None does nothing.
        rng: every random choice of the game, on the training device; None is torch's global generator.
        progress: where training is, in [0, 1]; a game made by hand is always at its end, where curricula are complete.
        view: how an attack sees the model: `frozen`, or a cheaper copy of the same function (`sparring.core.view`).
        perturbation: the weight-space adversary that learners train against as well (AWP, SAM); None is none.
    """

    backward: Callable[[Tensor], object] = torch.Tensor.backward
    clip: Callable[[], object] | None = None
    rng: torch.Generator | None = None
    progress: Progress = field(default_factory=Progress)
    view: View = frozen
    perturbation: Perturbation | None = None
