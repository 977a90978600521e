"""How a run computes: layout, precision and compilation of the learner's pass and of the attack's view, by measurement.

The best choice differs by model and machine (bfloat16 is worth a factor of five to a ResNet on one processor and two on
another, compiling helps one network and slows the next), so `auto` times a few passes of the real model on a real
batch. What was chosen stands in the run's record, and a resumed run takes it from there: a choice by the clock is made
once.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core.game import Batch
from sparring.core.gradient import View, frozen, value_and_gradient
from sparring.core.payoff import cross_entropy
from sparring.core.view import Compiled, Fast, Speed, disagreement
from sparring.engine.precision import Autocast

WORTH = 0.93
"""A choice has to take less than this share of the time of what it replaces: less is within what timing can tell."""

COMPILE_PAYS = 300.0
"""Seconds of attack ahead from which on a processor a trial compilation, about a minute, can pay."""

PLAIN = Speed()
WHOLE = Speed(channels_last=True, bfloat16=True, folded=True)


@dataclass(frozen=True)
class Choice:
    """How the two passes of a round are computed.

    Args:
        attack: the view that attacks see.
        learner: the learner's own pass; `channels_last` and `bfloat16` only.
        note: why something that was asked for is not so; empty where there is nothing to say.
    """

    attack: Speed = PLAIN
    learner: Speed = PLAIN
    note: str = ""

    def __str__(self) -> str:
        said = f"computed: attack {self.attack}; learner {self.learner}"
        return f"{said}; {self.note}" if self.note else said

    def as_record(self) -> dict[str, Any]:
        """Plain data, for the run's record."""
        return asdict(self)

    @staticmethod
    def from_record(data: dict[str, Any]) -> "Choice":
        """What `as_record` wrote."""
        return Choice(Speed(**data["attack"]), Speed(**data["learner"]), data["note"])


def choose(
    model: nn.Module,
    batch: Batch,
    *,
    precision: Literal["auto", "32", "bf16"],
    compiling: Literal["auto", "on", "off"],
    rounds: int,
    gradients: int = 10,
) -> Choice:
    """The choice for a model, on the device where it is.

    Args:
        model: left as it is; copies are timed.
        batch: `(x, y)`, the first examples are used.
        precision: "32" is the model as it is, "bf16" everything at once, "auto" whatever is fastest.
        compiling: "on" compiles the view; "auto" where it is measured to be faster and there is time to gain.
        rounds: rounds ahead.
        gradients: of the attack in a round.

    Raises:
        ValueError: bf16 is asked of a GPU that has none.
    """
    x, y = batch[0], batch[1]
    if precision == "bf16" and x.is_cuda and not torch.cuda.is_bf16_supported():
        raise ValueError(
            "The 'precision' parameter must be '32' or 'auto' on this GPU, which has no bfloat16. Got 'bf16'."
        )
    note = ""
    if precision == "32":
        attack, learner = PLAIN, PLAIN
    elif precision == "bf16":
        attack, learner = WHOLE, Speed(channels_last=True, bfloat16=True)
        try:
            _attack_seconds(model, x[:8], y[:8], attack)
        except Exception as error:  # a user's model may refuse to be copied or cast: the attack sees it as it is
            attack, note = PLAIN, _reason("the attack is in float32", error)
    else:
        attack = _fastest((PLAIN, Speed(channels_last=True, folded=True), WHOLE), partial(_attack_seconds, model, x, y))
        learner = _fastest(
            (PLAIN, Speed(channels_last=True), Speed(channels_last=True, bfloat16=True)),
            partial(_learner_seconds, model, x, y),
        )
    if compiling == "off":
        return Choice(attack, learner, note)
    eager = _attack_seconds(model, x, y, attack)
    if compiling == "auto" and not x.is_cuda and eager * rounds * gradients < COMPILE_PAYS:
        return Choice(attack, learner, note)
    compiled = Speed(**{**asdict(attack), "compiled": True})
    try:
        seconds = _attack_seconds(model, x, y, compiled)
    except Exception as error:  # a compiler may fail in any way
        return Choice(attack, learner, _reason("not compiled", error))
    if compiling == "on" or seconds < WORTH * eager:
        return Choice(compiled, learner, note)
    return Choice(attack, learner, note)


def dress(model: nn.Module, choice: Choice, x: Tensor, *, played: nn.Module | None = None) -> tuple[nn.Module, View]:
    """The module that the learner trains through, and the view that its attacks see.

    Args:
        model: holds the weights; its convolutions are brought to the layout chosen.
        choice: what `choose` found.
        x: a few inputs.
        played: what computes the model's function for the learner, where that is a wrapper of it (DDP).
    """
    speed, inner = choice.learner, model if played is None else played
    if speed.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if speed != PLAIN:
        inner = Autocast(inner, _context(x, speed), channels_last=speed.channels_last)
    if choice.attack == PLAIN:
        return inner, frozen if inner is model else partial(_frozen_within, model)
    with frozen(model):
        return inner, Fast(model, x[:2], choice.attack, within=inner)


@contextmanager
def _frozen_within(model: nn.Module, _: nn.Module) -> Iterator[nn.Module]:
    """The model itself, whatever wraps it for the learner."""
    with frozen(model):
        yield model


def _reason(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {error}".splitlines()[0]


def _context(x: Tensor, speed: Speed) -> Callable[[], Any]:
    return partial(torch.autocast, x.device.type, torch.bfloat16) if speed.bfloat16 else nullcontext


def _fastest(candidates: tuple[Speed, ...], seconds: Callable[[Speed], float]) -> Speed:
    best, least = candidates[0], seconds(candidates[0])
    for speed in candidates[1:]:
        try:
            taken = seconds(speed)
        except Exception:  # a user's model may refuse to be copied or cast: then it is used as it is
            continue
        if taken < WORTH * least:
            best, least = speed, taken
    return best


def _attack_seconds(model: nn.Module, x: Tensor, y: Tensor, speed: Speed) -> float:
    """The least time of an input gradient through the view; an error where the view answers something else."""
    with frozen(model):
        seen = model if speed == PLAIN else Fast(model, x[:2], speed).seen
        if speed != PLAIN:
            with torch.no_grad():
                logits = model(x[:64])
            error = disagreement(seen if not speed.compiled else seen.module, logits, x[:64])  # type: ignore[arg-type]
            if error > (0.1 if speed.bfloat16 else 1e-3):
                raise ArithmeticError(f"the view '{speed}' is {error:.2g} away from the model")
        taken = _least(lambda: value_and_gradient(lambda z: cross_entropy(seen(z), y), x), x)
    if isinstance(seen, Compiled) and seen.failure is not None:
        raise seen.failure
    return taken


def _learner_seconds(model: nn.Module, x: Tensor, y: Tensor, speed: Speed) -> float:
    """The least time of a training pass of a copy."""
    played, _ = dress(copy.deepcopy(model).train(), Choice(PLAIN, speed), x)

    def once() -> None:
        cross_entropy(played(x), y).mean().backward()

    return _least(once, x)


def _least(once: Callable[[], object], x: Tensor, *, repeats: int = 3, most: float = 3.0) -> float:
    """The least time of a few calls, after one that is not counted."""
    best, end = float("inf"), time.perf_counter() + most
    for repeat in range(repeats + 1):
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        begun = time.perf_counter()
        once()
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        if repeat:
            best = min(best, time.perf_counter() - begun)
            if time.perf_counter() > end:
                break
    return best
