"""Standard training: no adversary. The baseline of every comparison.

    min_theta  E_(x,y) [ L(f_theta(x), y) ]

Learner
    One optimiser step per batch on the mean cross-entropy.
Adversary
    Nature: the batch as it came.
Payoff
    Cross-entropy.
Threat
    None in training. `threat` and `eps` only say what robustness is measured against, so that a baseline and the
    method compared with it share one yardstick.
Reference
    Empirical risk minimisation; the observation that its models fall to imperceptible perturbations is Szegedy et
    al., "Intriguing properties of neural networks", 2014.
Departs from the paper in
    Nothing: there is no method here.
Claim
    On the embedded digits, Linf eps 0.15, worst-case accuracy falls to about a fifth.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sparring.core import inner
from sparring.core.game import Game
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Nature
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """What the finished model is measured against; training itself has no adversary to configure."""

    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball that robustness is measured in."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""

    def __post_init__(self) -> None:
        ball(self.threat, self.eps)


def game(
    config: Config,  # noqa: ARG001
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,  # noqa: ARG001
    tools: Tools | None = None,
) -> Game:
    """The game of standard training.

    Args:
        config: not read by the game: see `Config`.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: not read by the game.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    return Game(inner.descent(model, optimizer, payoff, tools), Nature(), payoff)


def threat(config: Config) -> Threat:
    """The ball that the finished model is measured in."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="standard",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{szegedy2014intriguing,
  title     = {Intriguing properties of neural networks},
  author    = {Szegedy, Christian and Zaremba, Wojciech and Sutskever, Ilya and Bruna, Joan and Erhan, Dumitru and
               Goodfellow, Ian and Fergus, Rob},
  booktitle = {International Conference on Learning Representations},
  year      = {2014}
}""",
    card=__doc__,
    training=Training(),
)
