"""Fast adversarial training: one FGSM step from a random point of the ball, for about the price of two standard steps.

    min_theta  E_(x,y) [ L(f_theta(z), y) ],  z = P(u + alpha steepest(grad L(f_theta(u), y))),  u uniform in the ball

    with P the projection onto the ball around x, cut to [0, 1]; in Linf the steepest direction is the sign.

Learner
    One optimiser step per batch on the mean cross-entropy at z.
Adversary
    One steepest step of length alpha = 1.25 eps from a uniformly random start, projected. The same game as `pgd_at`
    with `attack="fgsm"` and a random start, under the name and with the step that the paper gives it.
Payoff
    Cross-entropy.
Threat
    A Linf, L2 or L1 ball cut to [0, 1]; from Python any threat.
Reference
    Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020.
Departs from the paper in
    The attack sees the model in eval mode, the authors' code in train mode. The published CIFAR-10 recipe (cyclic
    learning rate up to 0.2, 15 to 30 epochs, half precision) is not the default. Early stopping on a sudden fall of
    robust accuracy is the engine's business, not the method's.
Claim
    Worst-case accuracy near PGD-AT's at a fraction of its price while eps is small for the data. At large eps it can
    overfit to its own single step and lose all robustness to stronger attacks within one epoch (catastrophic
    overfitting; Andriushchenko & Flammarion 2020): see `n_fgsm` and `gradalign`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from sparring.core import inner
from sparring.core.game import Game
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """The inner problem: what the adversary may do."""

    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball around each input."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    step_size: float | None = None
    """Length of the step in input units; by default 1.25 eps. Shorter steps overfit to themselves later."""
    eps_warmup: float = 0.0
    """Share of training over which eps grows linearly from a tenth to all of itself, in [0, 1]."""

    attack: ClassVar[Literal["fgsm"]] = "fgsm"
    steps: ClassVar[int] = 1
    random_start: ClassVar[bool] = True
    steps_warmup: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        inner.check(self)


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of fast adversarial training.

    Args:
        config: the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the ball that config names.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    learner = inner.descent(model, optimizer, payoff, tools)
    return Game(learner, inner.attacker(config, payoff, threat, tools), payoff)


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="fgsm-rs",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{wong2020fast,
  title     = {Fast is Better than Free: Revisiting Adversarial Training},
  author    = {Wong, Eric and Rice, Leslie and Kolter, J. Zico},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}""",
    card=__doc__,
    training=Training(),
)
