"""MART: adversarial training that looks harder at the examples the model gets wrong when clean.

    min_theta  E_(x,y) [ BCE(p(z), y) + lambda KL( p(x) || p(z) ) (1 - p_y(x)) ],   p = softmax f_theta
    BCE(p, y) = -log p_y - log(1 - max_{k != y} p_k),   z = argmax_{||z - x|| <= eps} L(f(z), y)

Learner
    One optimiser step per batch on the mean of boosted cross-entropy at z plus the weighted divergence. The gradient
    flows through every p above, the weight 1 - p_y(x) included: the authors' code detaches nothing.
Adversary
    PGD (or FGSM) on cross-entropy, as in `pgd_at`.
Payoff
    Cross-entropy at the adversary's move.
Threat
    A Linf, L2 or L1 ball cut to [0, 1]; from Python any threat.
Reference
    Wang, Zou, Yi, Bailey, Ma, Gu, "Improving adversarial robustness requires revisiting misclassified examples", ICLR
    2020 (lambda 5 in the authors' script; here the field is `weight`).
Departs from the paper in
    As in the authors' code the second logarithm is of 1.0001 - p_k, which bounds it by 9.2 where the equation has no
    bound. That code also adds 1e-12 inside logarithms (here they are log-softmax and need none) and weighs by
    1.0000001 - p_y(x) (here 1 - p_y(x)). Its attack starts at x + 0.001 N(0, 1), ours at a random point of the ball or
    at x. With soft labels y is their most probable class, but for -log p_y, which is their mean.
Claim
    At the same attack, more worst-case accuracy than PGD-AT under PGD, at less clean accuracy; under AutoAttack its
    margin is known to shrink or vanish. Measured: docs/results.md.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.game import Batch, Game, Payoff
from sparring.core.payoff import cross_entropy, hard, kl, of_model
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training

ROOM = 1e-4
"""What the authors' code adds to 1 - p_k, so that its logarithm is bounded."""


@dataclass(frozen=True)
class Config:
    """The weight of the divergence, and the inner problem."""

    weight: float = 5.0
    """lambda: weight of KL(p(x) || p(z)) (1 - p_y(x)) beside the boosted cross-entropy, in [0, inf)."""
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
        if not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"The 'weight' parameter must be a number in the range [0, inf). Got {self.weight!r} instead."
            )


def boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y - log(1.0001 - max_{k != y} p_k), `[B]`: pushes the true class up and its strongest rival down."""
    p = logits.softmax(dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))
    rival = p.scatter(1, hard(y)[:, None], 0.0).amax(dim=1)
    return cross_entropy(logits, y) - (1 + ROOM - rival).log()


def doubtful_divergence(attacked: Tensor, clean: Tensor, y: Tensor) -> Tensor:
    """KL(p(x) || p(z)) (1 - p_y(x)), `[B]`, of the logits at z and at x: what is sure when clean may move freely."""
    return kl(attacked, clean) * (1 - (-cross_entropy(clean, hard(y))).exp())


def objective(weight: float) -> Payoff:
    """BCE(p(z), y) + weight KL(p(x) || p(z)) (1 - p_y(x)), per example, with gradient through all of it."""

    def aware(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        clean, attacked = model(batch[0]), model(z)
        return boosted_cross_entropy(attacked, batch[1]) + weight * doubtful_divergence(attacked, clean, batch[1])

    return aware


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of MART.

    Args:
        config: lambda and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the ball that config names.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    learner = inner.descent(model, optimizer, objective(config.weight), tools)
    return Game(learner, inner.attacker(config, payoff, threat, tools), payoff)


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="mart",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{wang2020improving,
  title     = {Improving Adversarial Robustness Requires Revisiting Misclassified Examples},
  author    = {Wang, Yisen and Zou, Difan and Yi, Jinfeng and Bailey, James and Ma, Xingjun and Gu, Quanquan},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}""",
    card=__doc__,
    training=Training(),
)
