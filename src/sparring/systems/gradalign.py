"""GradAlign: FGSM training with a penalty that keeps the input gradient aligned over the ball, so that one step works.

    min_theta  E_(x,y) [ L(f_theta(z), y) + lambda (1 - cos(grad_x L(f_theta(x), y), grad_x L(f_theta(x + eta), y))) ]

    with z one FGSM step of length eps from x, and eta uniform in the ball.

Learner
    One optimiser step per batch on the mean of cross-entropy at z plus the penalty. The model is in train mode in all
    three passes, and the penalty is differentiated through an input gradient (double backward). As in the authors'
    code only the gradient at x + eta is differentiated through; `through="both"` is the paper's formula as it stands.
Adversary
    FGSM without random start, step eps.
Payoff
    Cross-entropy.
Threat
    A Linf, L2 or L1 ball cut to [0, 1]; from Python any threat.
Reference
    Andriushchenko, Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020, equation 5.
Departs from the paper in
    The attack sees the model in eval mode; the authors' code takes FGSM's gradient in train mode and uses it again as
    the penalty's first gradient, so theirs is one forward and backward pass cheaper. x + eta is cut to [0, 1], theirs
    is not. Examples with a zero gradient count in neither mean, as in theirs.
Claim
    Does not overfit catastrophically at radii where FGSM does, for about twice the price of FGSM training.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.game import Batch, Game, Payoff
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.schedule import ramp
from sparring.core.standing import per_example
from sparring.core.threat import Threat, ball, flat
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """The penalty, and the inner problem."""

    weight: float = 0.2
    """Of the alignment penalty, in [0, inf): the paper's lambda. On CIFAR-10 the authors interpolate it between eps
    1/255 and 16/255 as 0.02 * 10 ** (255 eps / 8): 0.2 at 8/255."""
    through: Literal["random", "both"] = "random"
    """Which input gradients the penalty is differentiated through: the one at the random point, or both."""
    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball around each input."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    step_size: float | None = None
    """Length of the step in input units; by default eps."""
    eps_warmup: float = 0.0
    """Share of training over which eps grows linearly from a tenth to all of itself, in [0, 1]."""

    attack: ClassVar[Literal["fgsm"]] = "fgsm"
    steps: ClassVar[int] = 1
    random_start: ClassVar[bool] = False
    steps_warmup: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        inner.check(self)
        if isinstance(self.weight, bool) or not 0 <= self.weight < float("inf"):
            raise ValueError(
                f"The 'weight' parameter must be a number in the range [0, inf). Got {self.weight!r} instead."
            )
        if self.through not in ("random", "both"):
            raise ValueError(f"The 'through' parameter must be 'random' or 'both'. Got {self.through!r} instead.")


def input_gradient(payoff: Payoff, model: nn.Module, x: Tensor, batch: Batch, *, differentiable: bool) -> Tensor:
    """The gradient of the summed payoff at x `[B, ...]`, itself part of the graph where `differentiable`."""
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(payoff(model, x, batch).sum(), x, create_graph=differentiable)
    return gradient


def misalignment(first: Tensor, second: Tensor) -> Tensor:
    """1 - cos of the two gradients of each example, `[B]`, whose mean over the batch is the mean over the examples
    that have a direction: where either gradient is zero there is 0, and the others weigh more for it."""
    a, b = flat(first), flat(second)
    alive = (_length(a) > 0) & (_length(b) > 0)
    # A zero row becomes ones before anything is divided by its length: NaN times zero would still be NaN.
    a, b = (torch.where(per_example(alive, part), part, torch.ones_like(part)) for part in (a, b))
    cosine = (a / _length(a)[:, None] * (b / _length(b)[:, None])).sum(1)
    return torch.where(alive, 1 - cosine, 0.0) * (len(alive) / alive.sum().clamp(min=1).to(cosine.dtype))


def aligned(
    payoff: Payoff, weight: float, threat: Threat, tools: Tools, *, through: str = "random", eps_warmup: float = 0.0
) -> Payoff:
    """`payoff(model, z, batch) + weight * misalignment` per example, its random points drawn from the tools' rng."""

    def objective(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        loss = payoff(model, z, batch)
        if weight == 0:
            return loss
        x = batch[0].detach()
        share = ramp(tools.progress(), eps_warmup)
        nearby = (threat if share == 1 else threat.scaled(share)).sample(x, tools.rng)
        clean = input_gradient(payoff, model, x, batch, differentiable=through == "both")
        there = input_gradient(payoff, model, nearby, batch, differentiable=True)
        return loss + weight * misalignment(clean, there)

    return objective


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of FGSM training with gradient alignment.

    Args:
        config: the penalty and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1], twice differentiable where its weights are.
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, and where eta comes from, instead of the ball that config names.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    full = ball(config.threat, config.eps) if threat is None else threat
    objective = aligned(payoff, config.weight, full, tools, through=config.through, eps_warmup=config.eps_warmup)
    learner = inner.descent(model, optimizer, objective, tools)
    return Game(learner, inner.attacker(config, payoff, full, tools), payoff)


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


def _length(rows: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return length


SYSTEM = System(
    name="gradalign",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{andriushchenko2020understanding,
  title     = {Understanding and Improving Fast Adversarial Training},
  author    = {Andriushchenko, Maksym and Flammarion, Nicolas},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    card=__doc__,
    training=Training(),
)
