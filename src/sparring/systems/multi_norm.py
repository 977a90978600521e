"""Adversarial training against several norms at once: a Linf, an L2 and an L1 ball, and what is allowed is their union.

    max       min_theta  E [ max_i max_{z in B_i(x)}  L(f(z), y) ]
    average   min_theta  E [ mean_i max_{z in B_i(x)}  L(f(z), y) ]
    random    min_theta  E [ max_{z in B_i(x)}  L(f(z), y) ],   the ball i drawn anew for each batch
    steepest  as max, by one attack that at every step follows the best of the balls' steps

Learner
    One optimiser step per batch on the mean cross-entropy at the adversarial inputs; with "average" at those of all
    balls in one pass, so BatchNorm sees them together.
Adversary
    PGD with random start on each ball. "max" keeps the worst of the balls for every example, "average" plays all of
    them, "random" attacks in one ball only, "steepest" (multi steepest descent) takes at each iteration every ball's
    steepest step, projected onto that ball, and goes on from the one that raises the loss most.
Payoff
    Cross-entropy, with "average" its mean over the balls.
Threat
    The union of the balls, each cut to [0, 1]; from Python any `Union`.
Reference
    max, average: Tramer, Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019. random:
    Madaan, Shin, Hwang, "Learning to generate noise for multi-attack robustness", ICML 2021 (its stochastic adversarial
    training). steepest: Maini, Wong, Kolter, "Adversarial robustness against the union of multiple perturbation
    models", ICML 2020.
Departs from the papers in
    One share of its radius is every ball's step; Maini et al. tune a step for each norm. The L1 step spreads over the
    largest percent of the coordinates (Tramer & Boneh's attack), where Maini et al. draw 5 to 20 of them. "steepest"
    starts at a random point of a random ball, theirs at x. eps and steps may warm up.
Claim
    More worst-case accuracy over the union than PGD-AT on any one of the balls; "random" at about a third of the price
    of "max". Measured: docs/results.md.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.attack import Attack, each_member
from sparring.core.compose import Union
from sparring.core.gain import Gain
from sparring.core.game import Adversary, Batch, Game, Move
from sparring.core.gradient import value_and_gradient
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.core.players import Attacker, Curriculum, Joint
from sparring.core.schedule import ramp
from sparring.core.standing import alive_start, better, refuse_dead
from sparring.core.threat import L1, L2, Linf, Threat
from sparring.core.tools import Tools
from sparring.engine.system import System
from sparring.engine.training import Training
from sparring.systems import pgd_at

STRATEGIES = ("max", "average", "random", "steepest")


@dataclass(frozen=True)
class Config:
    """The balls, how they are played against, and the inner problem in each."""

    strategy: Literal["max", "average", "random", "steepest"] = "max"
    """max plays each example's worst ball, average all of them, random one drawn per batch; steepest is one attack on
    the union, cheaper than max for the same steps."""
    threat: Literal["union"] = "union"
    """A union of balls; their radii follow."""
    eps: float = 0.15
    """Radius of the Linf ball in input units (pixels in [0, 1]); 8/255 is accepted on the command line."""
    eps_l2: float = 0.5
    """Radius of the L2 ball in input units; 0 leaves it out."""
    eps_l1: float = 2.0
    """Radius of the L1 ball in input units; 0 leaves it out."""
    steps: int = 10
    """Gradient steps of each attack."""
    step_size: float | None = None
    """Length of a step in the Linf ball, in input units, and the same share of the radius in the others; by default
    2.5 radius / steps."""
    random_start: bool = True
    """Start each attack from a random point of its ball instead of from the input itself."""
    eps_warmup: float = 0.0
    """Share of training over which the radii grow linearly from a tenth to all of themselves, in [0, 1]."""
    steps_warmup: float = 0.0
    """Share of training over which the steps grow from one to all, in [0, 1]."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"The 'strategy' parameter must be one of {', '.join(STRATEGIES)}. Got {self.strategy!r} instead."
            )
        if self.threat != "union":
            raise ValueError(f"The 'threat' parameter must be 'union'. Got {self.threat!r} instead.")
        for name in ("eps_l2", "eps_l1"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(
                    f"The {name!r} parameter must be a number in the range [0, inf). Got {value!r} instead."
                )
        pgd_at.Config(  # refuses what is out of range for one ball: the same ranges hold here
            eps=self.eps,
            steps=self.steps,
            step_size=self.step_size,
            eps_warmup=self.eps_warmup,
            steps_warmup=self.steps_warmup,
        )


def mean_over_moves(model: nn.Module, move: Move, batch: Batch) -> Tensor:
    """Cross-entropy `[B]` at a move; at a tuple of moves its mean over them, from one forward pass."""
    moves = move if isinstance(move, tuple) else (move,)
    losses = cross_entropy(model(torch.cat(moves)), torch.cat([batch[1]] * len(moves)))
    return losses.reshape(len(moves), -1).mean(0)


def ascent(steps: int, share: float | None, random_start: bool) -> Attack:
    """PGD whose step is this share of the radius, 2.5 / steps by default. The last iterate is played."""

    def attack(gain: Gain, x: Tensor, ball: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        step_size = None if share is None else share * ball.eps
        return pgd(gain, x, ball, steps=steps, step_size=step_size, random_start=random_start, keep_best=False, rng=rng)

    return attack


def one_member(attack: Attack) -> Attack:
    """The attack on one member of a union, drawn for the whole batch."""

    def attack_one(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:
        members = members_of(threat)
        drawn = int(torch.randint(len(members), (), generator=rng, device=x.device)) if len(members) > 1 else 0
        return attack(gain, x, members[drawn], rng=rng)

    return attack_one


def steepest(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    /,
    *,
    steps: int,
    share: float | None = None,
    random_start: bool = True,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Multi steepest descent (Maini et al. 2020, algorithm 1): at every step the best of the members' steps.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`.
        threat: a union; any other threat is its own only member, and this is PGD.
        steps: of one gradient and one forward pass for each member.
        share: of a member's radius that a step in it is long; 2.5 / steps by default.
        random_start: start from a random allowed point instead of x.
        rng: source of the random start.

    Returns:
        z `[B, ...]`, of the start and all iterates each example's best. Raises DeadStartError as PGD does.
    """
    share = 2.5 / steps if share is None else share
    z = threat.sample(x, rng) if random_start else x
    best, record = z, torch.full((x.shape[0],), -torch.inf, device=x.device)
    alive = torch.zeros((), dtype=torch.bool, device=x.device)
    for step in range(steps):
        value, gradient = value_and_gradient(gain, z)
        if step == 0:
            alive = alive_start(gradient)
            best, record = better(z, value, best, record)
        start, z, top = z, z, torch.full_like(value, -torch.inf)
        for member in members_of(threat):
            candidate = member.project(start + share * member.eps * member.steepest(gradient, start), x)
            with torch.no_grad():
                z, top = better(candidate, gain(candidate), z, top)
        best, record = better(z, top, best, record)
    refuse_dead(alive)
    return best


def members_of(threat: Threat) -> tuple[Threat, ...]:
    """The members of a union; of anything else, itself."""
    return threat.members if isinstance(threat, Union) else (threat,)


def adversary(config: Config, threat: Threat, tools: Tools) -> Adversary:
    """The adversary of a strategy on a union, a curriculum where something warms up."""
    share = None if config.step_size is None else config.step_size / threat.eps

    def at(progress: float) -> Adversary:
        within = threat.scaled(ramp(progress, config.eps_warmup))
        steps = max(1, round(config.steps * ramp(progress, config.steps_warmup, start=0.0)))
        ascend = ascent(steps, share, config.random_start)

        def attacker(attack: Attack, within: Threat) -> Attacker:
            return Attacker(mean_over_moves, within, attack, tools.rng, view=tools.view)

        match config.strategy:
            case "average":
                return Joint([attacker(ascend, member) for member in members_of(within)])
            case "random":
                return attacker(one_member(ascend), within)
            case "steepest":
                climb = partial(steepest, steps=steps, share=share, random_start=config.random_start)
                return attacker(climb, within)
            case _:
                return attacker(each_member(ascend), within)

    if config.eps_warmup == 0 and config.steps_warmup == 0:
        return at(1.0)
    return Curriculum(at, tools.progress)


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
) -> Game:
    """The game of adversarial training against a union. With "average" a move is a tuple of inputs, one for each ball.

    Args:
        config: the balls, the strategy and the inner problem.
        model: `[B, ...] -> [B, K]` logits, inputs in [0, 1].
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what the adversary may do, instead of the balls that config names; usually a `Union`.
        tools: what an engine hands in.
    """
    tools = tools or Tools()
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    learner = inner.descent(model, optimizer, mean_over_moves, tools)
    within = union(config) if threat is None else threat
    return Game(learner, adversary(config, within, tools), mean_over_moves)


def union(config: Config) -> Union:
    """The union that a configuration trains against."""
    balls: list[Threat] = [Linf(config.eps)]
    balls += [L2(config.eps_l2)] if config.eps_l2 else []
    balls += [L1(config.eps_l1)] if config.eps_l1 else []
    return Union(*balls)


SYSTEM = System(
    name="multi-norm",
    config=Config,
    game=game,
    threat=union,
    citation="""@inproceedings{tramer2019adversarial,
  title     = {Adversarial Training and Robustness for Multiple Perturbations},
  author    = {Tram{\\`e}r, Florian and Boneh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}
@inproceedings{maini2020adversarial,
  title     = {Adversarial Robustness Against the Union of Multiple Perturbation Models},
  author    = {Maini, Pratyush and Wong, Eric and Kolter, J. Zico},
  booktitle = {International Conference on Machine Learning},
  year      = {2020}
}
@inproceedings{madaan2021learning,
  title     = {Learning to Generate Noise for Multi-Attack Robustness},
  author    = {Madaan, Divyam and Shin, Jinwoo and Hwang, Sung Ju},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    card=__doc__,
    training=Training(),
)
