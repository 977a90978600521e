"""TRADES: fit the clean inputs, and let no input near them get another answer.

    min_theta  E_(x,y) [ L(f(x), y) + beta max_{z : ||z - x|| <= eps}  KL( p(x) || p(z) ) ],   p = softmax f_theta

Learner
    One optimiser step per batch on the mean of cross-entropy at x plus beta KL(p(x) || p(z)). The gradient flows
    through p(x) and through p(z), as in the authors' code.
Adversary
    PGD (or FGSM) from a random start on KL(p(x) || p(z)), which needs no label; p(x) is computed once per batch on the
    model in eval mode and held fixed. At z = x the divergence is at its minimum and has no gradient, so a start at the
    clean point is refused.
Payoff
    Cross-entropy at the adversary's move: what is reported, not what the adversary ascends.
Threat
    A Linf, L2 or L1 ball cut to [0, 1]; from Python any threat.
Reference
    Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan, "Theoretically principled trade-off between robustness and accuracy", ICML
    2019 (beta is its 1 / lambda; 6 on CIFAR-10, 1 on MNIST).
Departs from the paper in
    The attack starts at a random point of the ball; the authors' code adds noise 0.001 N(0, 1) to x. The step size is
    2.5 eps / steps where none is given (theirs: 0.007 at eps 0.031 and 10 steps, nearly the same share). eps and steps
    may warm up.
Claim
    At the same attack, more clean accuracy than PGD-AT for a small beta, and a gap between clean and worst-case
    accuracy that narrows as beta grows. Measured: docs/results.md.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.game import Adversary, Batch, Game, Payoff
from sparring.core.payoff import cross_entropy, kl, of_model
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """The weight of the divergence, and the inner problem."""

    beta: float = 6.0
    """Weight of KL(p(x) || p(z)) beside the clean cross-entropy, in [0, inf); 1 to 6 is customary."""
    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball around each input."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    attack: Literal["pgd", "fgsm"] = "pgd"
    """pgd takes `steps` steps, fgsm one."""
    steps: int = 10
    """Gradient steps of pgd."""
    step_size: float | None = None
    """Length of a step in input units; by default 2.5 eps / steps (pgd) or 1.25 eps (fgsm)."""
    random_start: bool = True
    """Start the attack from a random point of the ball. Has to stay True: the divergence has no gradient at x."""
    eps_warmup: float = 0.0
    """Share of training over which eps grows linearly from a tenth to all of itself, in [0, 1]."""
    steps_warmup: float = 0.0
    """Share of training over which the steps grow from one to all, in [0, 1]."""

    def __post_init__(self) -> None:
        check(self)
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"The 'beta' parameter must be a number in the range [0, inf). Got {self.beta!r} instead.")


def check(problem: inner.InnerProblem) -> None:
    """`inner.check` for an adversary that ascends the divergence. Raises ValueError also without a random start."""
    inner.check(problem)
    if not problem.random_start:
        raise ValueError(
            "The 'random_start' parameter must be True: at the clean input KL(p(x) || p(z)) is at its minimum and has "
            f"no gradient to follow. Got {problem.random_start!r} instead."
        )


def clean_logits(model: nn.Module, batch: Batch) -> Tensor:
    """What the divergence compares with: the logits at the inputs, `[B, K]`."""
    logits: Tensor = model(batch[0])
    return logits


def divergence(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
    """KL(p(x) || p(z)), `[B]`, for a batch `(x, y, clean logits)`: what the adversary ascends."""
    return kl(model(z), batch[-1])


def adversary(problem: inner.InnerProblem, threat: Threat | None, tools: Tools) -> Adversary:
    """The attack on the divergence, the clean logits computed once per batch."""
    return inner.attacker(problem, divergence, threat, tools, reference=clean_logits)


def objective(beta: float) -> Payoff:
    """L(f(x), y) + beta KL(p(x) || p(z)), per example, with gradient through both."""

    def fitted_and_stable(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        clean, attacked = model(batch[0]), model(z)
        return cross_entropy(clean, batch[1]) + beta * kl(attacked, clean)

    return fitted_and_stable


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of TRADES.

    Args:
        config: beta and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the ball that config names.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    learner = inner.descent(model, optimizer, objective(config.beta), tools)
    return Game(learner, adversary(config, threat, tools), of_model(cross_entropy))


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="trades",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{zhang2019theoretically,
  title     = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author    = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric and El Ghaoui, Laurent and
               Jordan, Michael I.},
  booktitle = {International Conference on Machine Learning},
  year      = {2019}
}""",
    card=__doc__,
    training=Training(),
)
