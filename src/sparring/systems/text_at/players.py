"""From a configuration of `text-at` to its learner, its adversary and what they play for."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.attack import Attack
from sparring.core.game import Adversary, Batch, Learner, Payoff
from sparring.core.payoff import cross_entropy, kl, of_model
from sparring.core.pgd import fgsm
from sparring.core.players import Curriculum, Mixture, Nature, Objective
from sparring.core.schedule import ramp
from sparring.core.tools import Tools
from sparring.domains.text.ball import SentenceBall, TokenBall
from sparring.domains.text.embedded import TextModel, mean_norm
from sparring.systems.text_at import boxes, hull
from sparring.systems.text_at.freelb import Accumulating
from sparring.systems.text_at.offsets import (
    Embedding,
    Within,
    along,
    ascent,
    clean_logits,
    divergence,
    noise,
    started,
    symmetric_kl,
    towards_clean,
    virtual,
)
from sparring.systems.text_at.proximal import Proximal
from sparring.systems.text_at.substitutes import Drawn, Ranked, Substituted

if TYPE_CHECKING:
    from sparring.systems.text_at import Config


def around(config: "Config") -> Within:
    """The ball of a configuration as a model's embeddings have it now."""
    if config.method == "neftune":
        return lambda model: SentenceBall(config.alpha, mean_norm(cast(TextModel, model)))
    kind = TokenBall if config.ball == "token" else SentenceBall
    return lambda model: kind(config.eps, mean_norm(cast(TextModel, model)))


def shared(weight: float, place: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Objective:
    """(1 - a) L(f(x), y) + a L(f(z), y), with z as `place(model, move, ids)` has it."""

    def objective(model: nn.Module, move: Tensor, batch: Batch) -> Tensor:
        attacked = cross_entropy(model(place(model, move, batch[0])), batch[1])
        if weight == 1:
            return attacked
        return (1 - weight) * cross_entropy(clean_logits(model, batch), batch[1]) + weight * attacked

    return objective


def smooth(
    strength: float, apart: Callable[[Tensor, Tensor], Tensor], place: Callable[[nn.Module, Tensor, Tensor], Tensor]
) -> Objective:
    """L(f(x), y) + lambda D(f(z), f(x)), with z as `place` has it."""

    def objective(model: nn.Module, move: Tensor, batch: Batch) -> Tensor:
        logits = clean_logits(model, batch)
        distance = apart(model(place(model, move, batch[0])), logits)
        return cross_entropy(logits, batch[1]) + strength * distance

    return objective


def near_average(strength: float, mu: float, near: Callable[[Batch, Tensor], Tensor]) -> Objective:
    """`smooth` with the symmetric KL, and mu times the distance from the average model's answers (SMART)."""

    def objective(model: nn.Module, move: Tensor, batch: Batch) -> Tensor:
        logits = clean_logits(model, batch)
        distance = symmetric_kl(model(along(model, move, batch[0])), logits)
        return cross_entropy(logits, batch[1]) + strength * distance + mu * near(batch, logits)

    return objective


def payoff(config: "Config", table: Tensor) -> Payoff:
    """What is reported: the cross-entropy at the move, which for ascc is a point of the hull, for ibp the whole box."""
    if config.method == "ibp":
        return boxes.payoff(table)
    return of_model(cross_entropy) if config.method != "ascc" else hull.payoff(table)


def learner(
    config: "Config", model: nn.Module, optimizer: torch.optim.Optimizer, within: Within, table: Tensor, tools: Tools
) -> Learner:
    """The learner of a method. Until the adversary is there it trains as usual."""
    progress = tools.progress

    def begun() -> bool:
        return progress() >= config.warmup

    def late(objective: Objective) -> Objective:
        def either(model: nn.Module, move: Any, batch: Batch) -> Any:
            return objective(model, move, batch) if begun() else cross_entropy(clean_logits(model, batch), batch[1])

        return either

    strength = config.strength if config.strength is not None else 4.0 if config.method == "ascc" else 1.0
    if config.method == "freelb":
        size = 1.5 / config.steps if config.step_size is None else config.step_size
        return Accumulating(
            model, optimizer, within, steps=config.steps, step_size=size, weight=config.weight, begun=begun, tools=tools
        )
    if config.method == "smart":
        made = partial(near_average, strength, config.proximal)
        return Proximal(model, optimizer, lambda near: late(made(near)), decay=config.decay, tools=tools)
    objectives: dict[str, Callable[[], Objective]] = {
        "none": lambda: of_model(cross_entropy),
        "vat": lambda: smooth(strength, towards_clean, along),
        "ascc": lambda: smooth(strength, kl, partial(hull.placed, table)),
        "ibp": lambda: boxes.objective(table, lambda: stage(config, progress())),
        "a2t": lambda: shared(config.weight, lambda _, z, __: z),
        "random-substitution": lambda: shared(config.weight, lambda _, z, __: z),
    }
    objective = late(objectives.get(config.method, lambda: shared(config.weight, along))())
    return inner.descent(model, optimizer, objective, tools)


def stage(config: "Config", progress: float) -> tuple[float, float]:
    """For ibp the share of the box, in [0, 1], and kappa, at a progress in [0, 1]."""
    since = progress - config.warmup
    share = 1.0 if progress >= 1 else ramp(since, config.growth, start=0.0) if since >= 0 else 0.0
    return share, 1 + share * (config.kappa - 1)


def adversary(config: "Config", payoff: Payoff, within: Within, table: Tensor, tools: Tools) -> Adversary:
    """The adversary of a method, nature before the end of its warm-up."""
    full = _full(config, payoff, within, table, tools)
    if not config.warmup:
        return full
    return Curriculum(lambda progress: full if progress >= config.warmup else Nature(), tools.progress)


def _full(config: "Config", payoff: Payoff, within: Within, table: Tensor, tools: Tools) -> Adversary:
    rng, view = tools.rng, tools.view

    def embedded(attack: Attack, ascended: Payoff = payoff, compared: bool = False) -> Embedding:
        return Embedding(ascended, within, attack, rng, view, clean_logits if compared else None)

    climb = partial(ascent, steps=config.steps, step_size=config.step_size)
    made: dict[str, Callable[[], Adversary]] = {
        "none": Nature,
        "ibp": Nature,
        "fgm": lambda: embedded(fgsm),
        "pgd": lambda: embedded(climb),
        "freelb": lambda: embedded(started),
        "vat": lambda: embedded(virtual, divergence(kl), compared=True),
        "smart": lambda: embedded(climb, divergence(symmetric_kl), compared=True),
        "neftune": lambda: embedded(noise),
        "a2t": lambda: Mixture(Ranked(Substituted(table, config.words, 1), view), config.attacked, rng),
        "random-substitution": lambda: Mixture(Drawn(table, config.words, rng), config.attacked, rng),
        "ascc": lambda: hull.Hull(table, config.steps, config.step_size or 1.0, config.sparsity, rng, view),
    }
    return made[config.method]()
