"""DDoS detection that survives an attacker who may send other packets, but only packets that could be sent.

    min_theta  E_{y=0} L(f(x), 0) + E_{y=1} [ (1 - a) L(f(x), 1) + a max_{z in C(x)} L(f(z), 1) ]
    C(x) = { z : |z - x|_inf <= eps in scaled space, immutable fields kept, one-way fields not turned back,
                 integers and rates such, every relation of the protocol satisfied }

Learner
    One optimiser step per batch on the mean of it: benign rows as they came, malicious rows as they came and as the
    attacker would have sent them.
Adversary
    Only malicious rows are its own. `capgd`: Auto-PGD whose every iterate is brought back into C(x), relations
    repaired. It ascends the margin: with two classes cross-entropy is softplus of it, so both rise along the same
    signs, but the margin still does where the detector is certain. `gadot`: a Wasserstein GAN with gradient penalty
    learns benign flows; a malicious row takes over what it may of a generated one, brought back into C(x), the best of
    several.
Payoff
    Cross-entropy at the adversary's move.
Threat
    Feasible flows of a schema (`sparring.domains.flow.feasible`), for malicious rows.
Reference
    The strand "adversarially robust detection" of Apostu et al., "Detecting and mitigating DDoS attacks with AI: a
    survey", 2025; CAPGD: Simonetto et al., "Towards adaptive attacks on constrained tabular machine learning", 2024;
    GADoT: Abdelaty et al., "GADoT: GAN-based adversarial training for robust DDoS attack detection", 2022.
Departs from the paper in
    The survey names no algorithm; the training objective and a = 0.5 are ours. CAPGD's penalty on violated relations is
    left out, because every iterate is feasible. GADoT's network (LUCID, on packets of a flow) is a multilayer
    perceptron or a one-dimensional convolution on flow features here, and its generator one of flow features.
Claim
    A detector with high clean detection loses much of it to a feasible attacker; training against one wins most of that
    back at the same rate of false alarms. Whether it helps with attacks of types that training never saw is asked
    beside it. Measured: docs/results.md.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.attacks.apgd import apgd
from sparring.core import inner
from sparring.core.attack import Attack
from sparring.core.game import Adversary, Batch, Game
from sparring.core.payoff import cross_entropy, hard, margin, of_model
from sparring.core.players import Attacker, Curriculum, Nature, OwnExamples
from sparring.core.schedule import ramp
from sparring.core.standing import check_count
from sparring.core.threat import Linf, Threat
from sparring.core.tools import Tools
from sparring.domains.flow.data import MALICIOUS
from sparring.domains.flow.generator import Generator, mimic
from sparring.engine.system import System
from sparring.engine.training import Training


@dataclass(frozen=True)
class Config:
    """Who attacks, how much it counts, and how far it may go."""

    adversary: Literal["capgd", "gadot", "pgd", "none"] = "capgd"
    """capgd is Auto-PGD with repair in the feasible set; gadot mimics benign flows that a GAN makes; pgd is Auto-PGD in
    a plain ball, whose rows nobody could send, as a control; none trains on the rows as they are."""
    weight: float = 0.5
    """a: share of the attacked row in the loss of a malicious row, in [0, 1]; 0 trains without an adversary."""
    threat: Literal["linf"] = "linf"
    """Norm of the ball around each scaled row."""
    eps: float = 0.1
    """Radius in scaled space, where every feature is in [0, 1] over the training rows."""
    steps: int = 10
    """Gradient steps of the attack; of gadot the generated flows that it chooses from."""
    eps_warmup: float = 0.0
    """Share of training over which eps grows linearly from a tenth to all of itself, in [0, 1]."""

    def __post_init__(self) -> None:
        if self.adversary not in ADVERSARIES:
            known = ", ".join(ADVERSARIES)
            raise ValueError(f"The 'adversary' parameter must be one of {known}. Got {self.adversary!r} instead.")
        Linf(self.eps)
        check_count("steps", self.steps)
        for name in ("weight", "eps_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"The {name!r} parameter must be a number in the range [0, 1]. Got {getattr(self, name)!r} instead."
                )


ADVERSARIES = ("capgd", "gadot", "pgd", "none")


def objective(weight: float) -> "partial[Tensor]":
    """Per example: L(f(x), y) for a benign row, (1 - weight) L(f(x), y) + weight L(f(z), y) for a malicious one."""
    return partial(_hardened, weight)


def _hardened(weight: float, model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
    x, y = batch[0], batch[1]
    clean = cross_entropy(model(x), y)
    if weight == 0:
        return clean
    share = weight * (hard(y) == MALICIOUS)
    return (1 - share) * clean + share * cross_entropy(model(z), y)


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Threat | None = None,
    tools: Tools | None = None,
    generator: Generator | None = None,
) -> Game:
    """The game of a detector.

    Args:
        config: the adversary.
        model: `[B, d] -> [B, 2]` logits of benign and malicious, inputs scaled.
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: what may become of a malicious row: `OfClass(Feasible(preprocessing, eps), 1)`. By default a plain ball,
            in which rows need not be feasible.
        tools: what an engine hands in.
        generator: of benign flows, for the adversary gadot (`sparring.domains.flow.generator.fit`).

    Raises:
        ValueError: for gadot without a generator.
    """
    if config.adversary == "gadot" and generator is None:
        raise ValueError("The 'generator' parameter must be a generator of benign flows for the adversary gadot.")
    tools = tools or Tools()
    payoff = of_model(cross_entropy)
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    weight = 0.0 if config.adversary == "none" else config.weight
    learner = inner.descent(model, optimizer, objective(weight), tools)
    within = Linf(config.eps) if threat is None or config.adversary == "pgd" else threat

    def at(progress: float) -> Attacker:
        share = ramp(progress, config.eps_warmup)
        attack: Attack = partial(apgd, steps=config.steps)
        if generator is not None and config.adversary == "gadot":
            attack = partial(mimic, generator=generator, draws=config.steps)
        reach = within if share == 1 else within.scaled(share)
        return Attacker(of_model(margin), reach, attack, tools.rng, view=tools.view)

    if weight == 0:
        return Game(learner, Nature(), payoff)
    attacker: Adversary = Curriculum(at, tools.progress) if config.eps_warmup else at(1.0)
    return Game(learner, OwnExamples(attacker, MALICIOUS), payoff)


def threat(config: Config) -> Threat:
    """The ball that bounds the feasible set."""
    return Linf(config.eps)


SYSTEM = System(
    name="ddos",
    config=Config,
    game=game,
    threat=threat,
    domain="flow",
    citation="""@article{apostu2025detecting,
  title   = {Detecting and Mitigating {DDoS} Attacks with {AI}: A Survey},
  author  = {Apostu, Alexandru and Gheorghe, Silviu and Hiji, Andrei and Cleju, Nicolae and Patrascu, Andrei and
             Rusu, Cristian and Ionescu, Radu and Irofti, Paul},
  journal = {arXiv preprint arXiv:2503.17867},
  year    = {2025}
}""",
    card=__doc__,
    training=Training(epochs=20, batch_size=256, learning_rate=2e-3),
)
