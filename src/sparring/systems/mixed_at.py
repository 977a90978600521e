"""Mixed adversarial training: clean and adversarial inputs together, in either of the two ways the field means by it.

    sum    min_theta  E [ L(f(x), y) + weight * max_z L(f(z), y) ]
    batch  min_theta  E [ L(f(z'), y) ],  z' = the worst z for a random `share` of each batch, x for the rest

Learner
    One optimiser step per batch on the mean of the sum, or on the mean over the mixed batch.
Adversary
    PGD (or FGSM) as in `pgd_at`. With "batch" only the chosen share is attacked, so half the share costs half.
Payoff
    Cross-entropy at the adversary's move.
Threat
    As in `pgd_at`.
Reference
    sum: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015 (there a convex
    combination; weight = (1 - alpha) / alpha up to a factor on the learning rate). batch: Kurakin, Goodfellow, Bengio,
    "Adversarial machine learning at scale", ICLR 2017 (half of each batch adversarial).
Departs from the papers in
    The inner maximisation is PGD by default, theirs is one step; eps is fixed, not drawn per example; with "sum" the
    clean and the adversarial inputs go through the network one after the other, so BatchNorm sees two batches.
Claim
    Keeps more clean accuracy than PGD-AT, at less worst-case accuracy. On the embedded digits only the second half
    holds: PGD-AT loses no clean accuracy there, so there is none to win back (docs/results.md).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.game import Batch, Game, Payoff
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Mixture
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """How clean and adversarial inputs mix, and the inner problem."""

    mixing: Literal["sum", "batch"] = "sum"
    """sum adds the two losses of every example; batch makes a share of the examples adversarial."""
    weight: float = 1.0
    """With sum: the weight of the adversarial loss beside the clean loss, in [0, inf)."""
    share: float = 0.5
    """With batch: the share of each batch that is adversarial, in [0, 1]."""
    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball around each input."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    attack: Literal["pgd", "fgsm"] = "pgd"
    """pgd takes `steps` steps, fgsm one."""
    steps: int = 10
    """Gradient steps of pgd."""
    step_size: float | None = None
    """Length of a step in input units; by default 2.5 eps / steps (pgd), eps or with random start 1.25 eps (fgsm)."""
    random_start: bool = True
    """Start the attack from a random point of the ball instead of from the input itself."""
    eps_warmup: float = 0.0
    """Share of training over which eps grows linearly from a tenth to all of itself, in [0, 1]."""
    steps_warmup: float = 0.0
    """Share of training over which the steps grow from one to all, in [0, 1]."""

    def __post_init__(self) -> None:
        inner.check(self)
        if self.mixing not in ("sum", "batch"):
            raise ValueError(f"The 'mixing' parameter must be 'sum' or 'batch'. Got {self.mixing!r} instead.")
        if not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"The 'weight' parameter must be a number in the range [0, inf). Got {self.weight!r} instead."
            )
        if not 0 <= self.share <= 1:
            raise ValueError(f"The 'share' parameter must be a number in the range [0, 1]. Got {self.share!r} instead.")


def summed(payoff: Payoff, weight: float) -> Payoff:
    """`payoff(model, x, batch) + weight * payoff(model, z, batch)`, per example."""

    def objective(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        return payoff(model, batch[0], batch) + weight * payoff(model, z, batch)

    return objective


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of mixed adversarial training.

    Args:
        config: the mixture and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the ball that config names.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    adversary = inner.attacker(config, payoff, threat, tools)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    if config.mixing == "batch":
        objective, adversary = payoff, Mixture(adversary, config.share, tools.rng)
    else:
        objective = summed(payoff, config.weight)
    return Game(inner.descent(model, optimizer, objective, tools), adversary, payoff)


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="mixed-at",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{goodfellow2015explaining,
  title     = {Explaining and Harnessing Adversarial Examples},
  author    = {Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian},
  booktitle = {International Conference on Learning Representations},
  year      = {2015}
}
@inproceedings{kurakin2017adversarial,
  title     = {Adversarial Machine Learning at Scale},
  author    = {Kurakin, Alexey and Goodfellow, Ian J. and Bengio, Samy},
  booktitle = {International Conference on Learning Representations},
  year      = {2017}
}""",
    card=__doc__,
    training=Training(),
)
