"""A chat model that does what its user says, and treats instructions in the data as data.

    min_theta  E_{(q, d)} [ L(theta; q, d') ],    d' = argmax_{z in I_k(d)}  log p(y_bad | q, z) - log p(y | q, z)
    struq:     L = - log p(y | q, d')
    secalign:  L = - log sigmoid(beta [log (p / p_ref)(y | q, d') - log (p / p_ref)(y_bad | q, d')]) - a log p(y | q, d)

q is the user's instruction, d the data, y the right answer about the data as it stands, y_bad the answer to the
instruction that was injected. Prompt, data and answer are kept apart by tokens that no text can give.

Learner
    One optimiser step per batch. `none`: the likelihood of the right answer on data as it came. `struq`: the same with
    half of the rows attacked. `secalign`: DPO on attacked rows, the right answer preferred to the injected one, and
    `anchor` times the supervised loss on the rows as they came; the reference is the model that training started from.
Adversary
    Writes an instruction into the data: of `draws` injections the one that the model in front of it obeys most; with
    one draw it is the random injection of the papers.
Payoff
    log p(y_bad | q, d') - log p(y | q, d'); of a row that is not attacked, - log p(y | q, d).
Threat
    Text appended to the data, without delimiters and what looks like them (`sparring.domains.text.injections`).
Reference
    StruQ: Chen, Piet, Sitawarin, Wagner, "StruQ: defending against prompt injection with structured queries", 2024.
    SecAlign: Chen, Zharmagambetov, Mahloujifar, Chaudhuri, Wagner, Guo, "SecAlign: defending against prompt injection
    with preference optimization", 2024. DPO: Rafailov et al., 2023.
Departs from the paper in
    The model: a decoder of under a million weights, trained from scratch on tasks with exact answers about real
    sentences (`sparring.domains.text.tasks`), not 7 B weights on Alpaca; all of its weights are trained, without LoRA.
    The right answer is that about the data with the injection in it, because that is what treating it as data means.
    The worst of several draws, and the anchor, are ours. The papers' data is not shown to the model: Alpaca and BIPIA
    are read and formatted (docs), a model of this size cannot follow them.
Claim
    Injections succeed less often than on the same model trained as long without an adversary, at equal utility. What
    this shows is the mechanism on a small model; it says nothing about how far it carries on a large one. Measured:
    docs/results.md.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core.game import Adversary, Batch, Game
from sparring.core.gradient import View, frozen
from sparring.core.players import Descent, Mixture, Nature
from sparring.core.preference import dpo
from sparring.core.standing import check_count
from sparring.core.tools import Tools
from sparring.domains.text.injections import Appended
from sparring.domains.text.likelihood import log_likelihood
from sparring.engine.system import System
from sparring.engine.training import Training

METHODS = ("none", "struq", "secalign")


@dataclass(frozen=True)
class Config:
    """What the model is trained to do about injections, and who injects."""

    method: Literal["none", "struq", "secalign"] = "secalign"
    """none is supervised training on data as it came; struq on half of it attacked; secalign prefers answers."""
    beta: float = 0.1
    """secalign: how dear it is to leave the reference model."""
    anchor: float = 0.2
    """secalign: weight of the supervised loss on rows as they came beside the preference, in [0, inf); 0 as published:
    the preference alone makes a small model forget some of what it can."""
    share: float = 0.5
    """struq: share of the rows of a batch that are attacked, in [0, 1]."""
    completions: float | None = None
    """Share of injections that fake an answer first; the others only append. By default 0.5 for struq, 0.1 for
    secalign, as published."""
    draws: int = 1
    """Injections of which the adversary takes the worst for the model as it is, 1 to 3; 1 is random."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"The 'method' parameter must be one of {', '.join(METHODS)}. Got {self.method!r} instead."
            )
        check_count("draws", self.draws)
        for name, holds, constraint in (
            ("beta", 0 < self.beta < math.inf, "a number in the range (0, inf)"),
            ("anchor", 0 <= self.anchor < math.inf, "a number in the range [0, inf)"),
            ("share", 0 <= self.share <= 1, "a number in the range [0, 1]"),
            ("completions", self.completions is None or 0 <= self.completions <= 1, "a number in the range [0, 1]"),
            ("draws", self.draws <= MOST_DRAWS, f"an int in the range [1, {MOST_DRAWS}]"),
        ):
            if not holds:
                raise ValueError(f"The {name!r} parameter must be {constraint}. Got {getattr(self, name)!r} instead.")

    @property
    def completing(self) -> float:
        """The share of completions."""
        return self.completions if self.completions is not None else 0.1 if self.method == "secalign" else 0.5


MOST_DRAWS = 3
"""Injections that training data holds for each row."""


def obedience(model: nn.Module, move: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001  (a payoff)
    """log p(y_bad) - log p(y), `[B]`, of a move `[B, 2, L]`: row 0 the prompt with the right answer, row 1 with the
    injected one, or empty where nothing was injected, which counts as 0."""
    right, wanted = _both(model, move)
    return wanted - right


def _both(model: nn.Module, move: Tensor) -> tuple[Tensor, Tensor]:
    """The log-likelihoods of a move's two answers, in one pass."""
    right, wanted = log_likelihood(model, move.transpose(0, 1).flatten(0, 1)).chunk(2)
    return right, wanted


@dataclass(frozen=True)
class Injector:
    """An adversary that chooses among the injections that a batch holds.

    Args:
        draws: how many of them, drawn at random, it may choose from.
        rng: of the draws.
        view: how it sees the model; it is not asked where there is one draw.
    """

    draws: int
    rng: torch.Generator | None = None
    view: View = frozen

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        """The worst of the drawn moves for each row, `[B, 2, L]`."""
        moves = batch[0][:, 1:]
        b, there = moves.shape[:2]
        count = min(self.draws, there)
        order = torch.rand((b, there), generator=self.rng, device=moves.device).argsort(1)[:, :count]
        rows = torch.arange(b, device=moves.device)
        if count == 1:
            return moves[rows, order[:, 0]]
        drawn = moves[rows[:, None], order]
        with self.view(model) as seen, torch.no_grad():
            values = obedience(seen, drawn.flatten(0, 1), batch).view(b, count)
        return drawn[rows, values.argmax(1)]


def as_it_came(batch: Batch) -> Tensor:
    """The rows without an injection, `[B, 2, L]`."""
    return batch[0][:, 0]


def supervised(model: nn.Module, move: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
    """- log p(right answer | prompt), per example."""
    return -log_likelihood(model, move[:, 0])


@dataclass(frozen=True)
class Preferring:
    """The objective of SecAlign, per example, and what it tells: the share of pairs ordered rightly.

    Args:
        reference: the model that training started from, frozen.
        beta: of DPO.
        anchor: weight of the supervised loss on the row as it came.
    """

    reference: nn.Module
    beta: float
    anchor: float = 0.0

    def __call__(self, model: nn.Module, move: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = _both(model, move)
        with torch.no_grad():
            before = _both(self.reference, move)
        loss = dpo(chosen, rejected, before, self.beta)
        if self.anchor:
            loss = loss + self.anchor * supervised(model, as_it_came(batch), batch)
        return loss, {"right answer ahead": (chosen > rejected).double().mean()}


def game(
    config: Config,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    threat: Any = None,  # noqa: ARG001
    tools: Tools | None = None,
    reference: nn.Module | None = None,
) -> Game:
    """The game of a chat model. A batch is `(x [B, 1 + C, 2, L], y)` of `sparring.domains.text.chat.Conversations`.

    Args:
        config: the method.
        model: a `sparring.domains.text.decoder.Decoder`, for secalign one that follows instructions already.
        optimizer: over the model's parameters; by default `SYSTEM.training`'s.
        threat: not asked: the injections are in the batch.
        tools: what an engine hands in.
        reference: of secalign; by default a copy of the model as it is now.
    """
    tools = tools or Tools()
    optimizer = optimizer or SYSTEM.training.make_optimizer(model.parameters())
    objective: Any = supervised
    adversary: Adversary = Nature(as_it_came)
    if config.method != "none":
        adversary = Injector(config.draws, tools.rng, tools.view)
    if config.method == "struq":
        adversary = Mixture(adversary, config.share, tools.rng, Nature(as_it_came))
    elif config.method == "secalign":
        kept = copy.deepcopy(model) if reference is None else reference
        kept = kept.to(next(model.parameters()).device).eval().requires_grad_(False)
        objective = Preferring(kept, config.beta, config.anchor)
    learner = Descent(
        model, optimizer, objective, backward=tools.backward, clip=tools.clip, perturbation=tools.perturbation
    )
    return Game(learner, adversary, obedience)


def threat(config: Config) -> Any:  # noqa: ARG001
    """What may be written into data."""
    return Appended()


SYSTEM = System(
    name="prompt-injection",
    config=Config,
    game=game,
    threat=threat,
    domain="chat",
    citation="""@article{chen2024struq,
  title   = {{StruQ}: Defending Against Prompt Injection with Structured Queries},
  author  = {Chen, Sizhe and Piet, Julien and Sitawarin, Chawin and Wagner, David},
  journal = {arXiv preprint arXiv:2402.06363},
  year    = {2024}
}

@article{chen2024secalign,
  title   = {{SecAlign}: Defending Against Prompt Injection with Preference Optimization},
  author  = {Chen, Sizhe and Zharmagambetov, Arman and Mahloujifar, Saeed and Chaudhuri, Kamalika and Wagner, David and
             Guo, Chuan},
  journal = {arXiv preprint arXiv:2410.05451},
  year    = {2024}
}""",
    card=__doc__,
    training=Training(epochs=1, batch_size=32, learning_rate=1e-3, clip=1.0, precision="32", compile="off"),
)
