"""Free adversarial training: replay each batch, and let every backward pass serve the weights and the attack at once.

    min_theta  E_(x,y) [ max_{z : ||z - x|| <= eps}  L(f_theta(z), y) ],  both players moving on the same gradient:

    repeat m times on each batch, with delta carried on from the batch before:
        z     = P(x + delta)                                        P: projection onto the ball around x, in [0, 1]
        theta = theta - lr grad_theta L(f_theta(z), y)              one forward and one backward pass
        delta = P(z + eps steepest(grad_z L(f_theta(z), y))) - x    give both gradients

Learner
    m = `replays` optimiser steps per batch, each on the mean cross-entropy at the z of the moment. It holds delta.
Adversary
    Answers with P(x + delta): the attack that the last replay left behind, on other inputs. It computes no gradient.
Payoff
    Cross-entropy.
Threat
    A Linf, L2 or L1 ball cut to [0, 1]; from Python any threat.
Reference
    Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein, "Adversarial training for free!",
    NeurIPS 2019, algorithm 1. m is 8 on CIFAR-10 and 4 on ImageNet.
Departs from the paper in
    delta is kept inside the box as well as the ball (the authors clip x + delta to the box, and delta to the ball
    alone). The learning rate moves once a batch, not once a replay. A batch smaller than the one before uses the first
    rows of delta, as the authors' code does; a larger one starts its further rows at zero.
    An epoch here is m passes over the data: divide the epochs of another method by m to compare at equal cost.
    The attack sees the model in train mode, by construction: it is the learner's own pass, not a view of the model,
    so BatchNorm uses the statistics of the batch and dropout is on.
Claim
    Worst-case accuracy of the order of PGD-AT's, at the price of standard training over as many passes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core.game import Batch, Game, Metrics, Payoff
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.standing import check_count, check_positive
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """How often a batch is replayed, and the inner problem."""

    replays: int = 8
    """Optimiser steps on each batch, in [1, inf): the paper's m."""
    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball around each input."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    step_size: float | None = None
    """Length of delta's step in each replay, in input units; by default eps."""

    def __post_init__(self) -> None:
        ball(self.threat, self.eps)
        check_count("replays", self.replays)
        if self.step_size is not None:
            check_positive("step_size", self.step_size)


class Replaying:
    """A learner that plays each batch `replays` times and moves the perturbation by the gradient it already has.

    Args:
        model: trained in train mode.
        optimizer: over the model's parameters.
        objective: `(model, z, batch) -> [B]`: what the weights descend and the perturbation climbs.
        threat: where z may be.
        replays: rounds on each batch.
        step_size: length of the perturbation's step, in input units.
        tools: backward and clip are used in every replay.

    Raises:
        ValueError: `tools.perturbation` is given. A weight-space adversary differentiates twice in each step, once at
            weights that are then taken back, and there would be two input gradients to choose from.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Payoff,
        threat: Threat,
        *,
        replays: int,
        step_size: float,
        tools: Tools,
    ) -> None:
        if tools.perturbation is not None:
            raise ValueError(
                "The 'perturbation' tool must be None for free-at, whose single backward pass serves both players. "
                f"Got {tools.perturbation!r} instead; use pgd-at with it."
            )
        self.model, self.optimizer, self.objective, self.threat = model, optimizer, objective, threat
        self.replays, self.step_size, self.tools = replays, step_size, tools
        self.delta: Tensor | None = None

    def carried(self, x: Tensor) -> Tensor:
        """x moved by the perturbation that the last batch left, and projected."""
        if self.delta is None:
            return x.detach().clone()
        delta = self.delta[: len(x)].to(x)
        z = x.detach().clone()
        z[: len(delta)] += delta
        return self.threat.project(z, x)

    def update(self, move: Tensor, batch: Batch) -> Metrics:
        """Start at the adversary's move; the loss reported is the mean over the replays."""
        self.model.train()
        x, z = batch[0].detach(), move.detach()
        total = torch.zeros((), device=x.device)
        for _ in range(self.replays):
            z = z.requires_grad_(True)
            loss = self.objective(self.model, z, batch).mean()
            self.optimizer.zero_grad(set_to_none=True)
            self.tools.backward(loss)
            gradient, z = z.grad, z.detach()
            assert gradient is not None, "the objective has to depend on the move"
            if self.tools.clip is not None:
                self.tools.clip()
            self.optimizer.step()
            z = self.threat.project(z + self.step_size * self.threat.steepest(gradient, z), x)
            total += loss.detach()
        self._keep(z - x)
        return {"loss": total / self.replays}

    def state_dict(self) -> dict[str, Any]:
        """The perturbation: what a resumed run needs beyond weights and optimiser."""
        return {"delta": self.delta}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue with a saved perturbation, on whichever device it is."""
        self.delta = state["delta"]

    def _keep(self, delta: Tensor) -> None:
        """These rows; those beyond a smaller batch wait for the next full one."""
        old = self.delta
        self.delta = delta if old is None or len(old) <= len(delta) else torch.cat([delta, old[len(delta) :].to(delta)])


@dataclass(frozen=True)
class Carried:
    """An adversary that answers with the perturbation its opponent holds, without looking at the model."""

    learner: Replaying

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.learner.carried(batch[0])


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of free adversarial training.

    Args:
        config: the replays and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the ball that config names.
        tools: what an engine hands in; its `perturbation` must be None, its `view` and `rng` are not used.
    """
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    full = ball(config.threat, config.eps) if threat is None else threat
    step_size = full.eps if config.step_size is None else config.step_size
    learner = Replaying(
        model, optimizer, payoff, full, replays=config.replays, step_size=step_size, tools=tools or Tools()
    )
    return Game(learner, Carried(learner), payoff)


def threat(config: Config) -> Threat:
    """The ball that a configuration trains against."""
    return ball(config.threat, config.eps)


SYSTEM = System(
    name="free-at",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{shafahi2019adversarial,
  title     = {Adversarial Training for Free!},
  author    = {Shafahi, Ali and Najibi, Mahyar and Ghiasi, Amin and Xu, Zheng and Dickerson, John and Studer, Christoph
               and Davis, Larry S. and Taylor, Gavin and Goldstein, Tom},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}""",
    card=__doc__,
    training=Training(epochs=8),
)
