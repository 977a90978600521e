"""HAT: TRADES with helper examples, so that robustness does not cost more margin than it needs.

    min_theta  E_(x,y) [ L(f(x), y) + beta KL( p(x) || p(z) ) + gamma L(f(x'), y') ],   p = softmax f_theta
    z = argmax_{||z - x|| <= eps} KL( p(x) || p(z) ),   x' = x + 2 (z - x),   y' = argmax_k f_standard(z)_k

Learner
    One optimiser step per batch on the mean of the sum. Twice as far out as the adversarial input, a helper x' carries
    the label that a network trained without an adversary gives at z: where that network says that the class has
    changed, the decision boundary need not be pushed further away. No gradient flows through y'. The standard network
    is a twin of the model, trained on the clean inputs alongside, or from Python any trained `helper`.
Adversary
    As in `trades`: PGD (or FGSM) from a random start on the divergence.
Payoff
    Cross-entropy at the adversary's move.
Threat
    A Linf, L2 or L1 ball cut to [0, 1]; from Python any threat.
Reference
    Rade, Moosavi-Dezfooli, "Reducing excessive margin to achieve a better accuracy vs. robustness trade-off", ICLR 2022
    (beta 2.5 and gamma 0.5 on CIFAR-10).
Departs from the paper in
    There the standard network is trained beforehand and frozen. Here, unless a `helper` is given, it is a copy of the
    model as it was before training, and steps on each clean batch before it labels the helpers of that batch, with the
    learning rate of the model and without gradient clipping or weight perturbation: its first labels are poor. The
    attack's start and step size are as in `trades`.
Claim
    At the same attack, more clean accuracy than TRADES at about its worst-case accuracy. Measured: docs/results.md.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.game import Batch, Game, Metrics, Payoff
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy, kl, of_model
from sparring.core.players import Descent
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training
from sparring.systems import trades


@dataclass(frozen=True)
class Config:
    """The weights of divergence and helpers, and the inner problem."""

    beta: float = 2.5
    """Weight of KL(p(x) || p(z)) beside the clean cross-entropy, in [0, inf)."""
    gamma: float = 0.5
    """Weight of the cross-entropy at the helpers, in [0, inf); 0 is TRADES."""
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
        trades.check(self)
        for name in ("beta", "gamma"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"The {name!r} parameter must be a number in the range [0, inf). Got {value!r} instead."
                )


def helpers(x: Tensor, z: Tensor) -> Tensor:
    """x + 2 (z - x): as far beyond z as z is from x. It may leave the box of the images, as in the authors' code."""
    return 2 * z - x


def objective(beta: float, gamma: float) -> Payoff:
    """L(f(x), y) + beta KL(p(x) || p(z)) + gamma L(f(x'), y'), per example, for a batch `(x, y, y')`."""

    def helped(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        x, y, answer = batch
        clean, attacked, beyond = model(x), model(z), model(helpers(x, z))
        return cross_entropy(clean, y) + beta * kl(attacked, clean) + gamma * cross_entropy(beyond, answer)

    return helped


class Helped:
    """A learner whose objective is told, with every batch, what a standard network says about the move.

    Args:
        learner: its objective finds the standard network's classes as the last part of the batch.
        standard: the network that is asked, in eval mode.
        twin: trains the standard network on the clean inputs; None leaves it as it is.
    """

    def __init__(self, learner: Descent, standard: nn.Module, twin: Descent | None = None) -> None:
        self.learner = learner
        self.standard = standard
        self.twin = twin

    @property
    def model(self) -> nn.Module:
        return self.learner.model

    def update(self, move: Tensor, batch: Batch) -> Metrics:
        if self.twin is not None:
            pairs = zip(self.twin.optimizer.param_groups, self.learner.optimizer.param_groups, strict=True)
            for theirs, ours in pairs:
                theirs["lr"] = ours["lr"]  # an engine moves the model's learning rate only
            self.twin.update(batch[0], batch)
        with frozen(self.standard), torch.no_grad():
            answer = self.standard(move).argmax(dim=1)
        return self.learner.update(move, (*batch, answer))

    def state_dict(self) -> dict[str, Any]:
        """What an engine has to save beside the model and its optimiser: the twin's weights and optimiser."""
        if self.twin is None:
            return {}
        return {"model": self.twin.model.state_dict(), "optimizer": self.twin.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        if self.twin is not None:
            self.twin.model.load_state_dict(state["model"])
            self.twin.optimizer.load_state_dict(state["optimizer"])


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
    helper: nn.Module | None = None,
) -> Game:
    """The game of helper-based adversarial training.

    Args:
        config: the weights and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the ball that config names.
        tools: what an engine hands in.
        helper: a standard-trained network `[B, ...] -> [B, K]`, as in the paper; it stays as it is. By default a twin
            of the model and its optimiser, copied here and trained alongside.
    """
    tools = tools or Tools()
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    payoff = of_model(cross_entropy)
    learner = inner.descent(model, optimizer, objective(config.beta, config.gamma), tools)
    if helper is None:
        helper, same = copy.deepcopy((model, optimizer))  # together: the copied optimiser holds the copied weights
        learner_and_helper = Helped(learner, helper, Descent(helper, same, payoff, backward=tools.backward))
    else:
        learner_and_helper = Helped(learner, helper)
    return Game(learner_and_helper, trades.adversary(config, threat, tools), payoff)


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="hat",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{rade2022reducing,
  title     = {Reducing Excessive Margin to Achieve a Better Accuracy vs. Robustness Trade-off},
  author    = {Rade, Rahul and Moosavi-Dezfooli, Seyed-Mohsen},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    card=__doc__,
    training=Training(),
)
