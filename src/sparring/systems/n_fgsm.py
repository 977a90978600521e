"""N-FGSM: one FGSM step from strong noise, without clipping back to the ball.

    min_theta  E_(x,y) [ L(f_theta(z), y) ],  z = B(u + alpha steepest(grad L(f_theta(u), y))),  u = B(x + eta)

    with eta uniform in the ball of radius k eps (k = 2), alpha = eps, and B the projection onto the box [0, 1] only.

Learner
    One optimiser step per batch on the mean cross-entropy at z.
Adversary
    Noise wider than the ball, one steepest step of length eps from the noisy input, nothing clipped but to [0, 1].
Payoff
    Cross-entropy.
Threat
    Measured against the ball of radius eps. The training move may lie as far as k eps + alpha from x, 3 eps by
    default: `reach` is the ball that holds it. Not clipping is the point of the method: in Linf the expected move is
    as long as the noise and the step together make it, and the noise is augmentation that the step does not undo.
Reference
    de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez, Dokania, "Make some noise: reliable and efficient single-step
    adversarial training", NeurIPS 2022.
Departs from the paper in
    The attack sees the model in eval mode, the authors' code in train mode. L2 and L1 balls, which the paper does not
    treat, follow the same formula. A `threat` given from Python is scaled to 1 + k times its radius in the same way.
Claim
    Does not overfit catastrophically at radii where FGSM with or without random start does, at the same price. Where
    eps is a large part of the box (0.3 of [0, 1]), noise of 2 eps hides the input itself: lower `noise` there.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.gain import Gain
from sparring.core.game import Adversary, Game
from sparring.core.gradient import value_and_gradient
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Attacker, Curriculum
from sparring.core.schedule import ramp
from sparring.core.standing import check_positive, floating
from sparring.core.threat import Threat, ball
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """The inner problem: how wide the noise, how long the step."""

    threat: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the ball around each input."""
    eps: float = 0.15
    """Radius of the ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    noise: float = 2.0
    """Radius of the noise as a multiple of eps, in [0, inf): the paper's k. 0 is FGSM."""
    step_size: float | None = None
    """Length of the step in input units; by default eps."""
    eps_warmup: float = 0.0
    """Share of training over which eps grows linearly from a tenth to all of itself, in [0, 1]; a `step_size` stays."""

    def __post_init__(self) -> None:
        ball(self.threat, self.eps)
        if isinstance(self.noise, bool) or not 0 <= self.noise < float("inf"):
            raise ValueError(
                f"The 'noise' parameter must be a number in the range [0, inf). Got {self.noise!r} instead."
            )
        if self.step_size is not None:
            check_positive("step_size", self.step_size)
        if not 0 <= self.eps_warmup <= 1:
            raise ValueError(
                f"The 'eps_warmup' parameter must be a number in the range [0, 1]. Got {self.eps_warmup!r} instead."
            )


def noisy_fgsm(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    /,
    *,
    noise: float = 2.0,
    step_size: float | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """One steepest step from a noisy input; the move is cut to the box and not to the ball.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: its radius is the unit of noise and step; z may lie outside it, see `widened`.
        noise: radius of the noise, in radii of the threat.
        step_size: in input units; by default the threat's radius.
        rng: source of the noise.

    Returns:
        z `[B, ...]`, allowed by `widened(threat, noise, step_size)`.
    """
    x = floating(x)
    step_size = threat.eps if step_size is None else step_size
    start = threat.scaled(noise).sample(x, rng) if noise else x
    _, gradient = value_and_gradient(gain, start)
    # Noise and step together are never longer than the wide ball's radius: all that this projection cuts is the box.
    return widened(threat, noise, step_size).project(start + step_size * threat.steepest(gradient, start), x)


def widened(threat: Threat, noise: float, step_size: float | None) -> Threat:
    """The threat that holds noise and step together: noise eps + step_size in radius."""
    return threat.scaled(noise + (1.0 if step_size is None else step_size / threat.eps))


def adversary(config: Config, threat: Threat, tools: Tools) -> Adversary:
    """The adversary that adds noise and takes one step, with the curriculum on eps where there is one."""
    attack = partial(noisy_fgsm, noise=config.noise, step_size=config.step_size)
    payoff = of_model(cross_entropy)

    def at(progress: float) -> Attacker:
        within = threat.scaled(ramp(progress, config.eps_warmup))
        return Attacker(payoff, within, attack, tools.rng, view=tools.view)

    return Curriculum(at, tools.progress) if config.eps_warmup else at(1.0)


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of N-FGSM.

    Args:
        config: the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what noise and step are measured in, instead of the ball that config names.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    full = ball(config.threat, config.eps) if threat is None else threat
    return Game(inner.descent(model, optimizer, payoff, tools), adversary(config, full, tools), payoff)


def threat(config: Config) -> Threat:
    """The ball that a model trained with this configuration is measured against."""
    return ball(config.threat, config.eps)


def reach(config: Config) -> Threat:
    """Where the training move may be: wider than `threat`, by noise and step."""
    return widened(threat(config), config.noise, config.step_size)


SYSTEM = System(
    name="n-fgsm",
    config=Config,
    game=game,
    threat=threat,
    citation="""@inproceedings{dejorge2022make,
  title     = {Make Some Noise: Reliable and Efficient Single-Step Adversarial Training},
  author    = {de Jorge, Pau and Bibi, Adel and Volpi, Riccardo and Sanyal, Amartya and Torr, Philip H. S. and
               Rogez, Gr{\\'e}gory and Dokania, Puneet K.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}""",
    card=__doc__,
    training=Training(),
)
