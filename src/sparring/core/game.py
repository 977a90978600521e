"""The game: min over the learner, max over the adversary, of the expected payoff.

    min_theta  E_batch [ max_{move in threat}  payoff(model_theta, move, batch) ]

A pixel perturbation, a discriminator, a rival driver and a weight offset are all *moves*. Each player may optimise a
surrogate of its own (TRADES descends cross-entropy + beta KL while its adversary ascends KL); `Game.payoff` is the
quantity that is reported.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = tuple[Tensor, ...]
"""What nature deals: for a classifier `(x, y)`, with x `[B, ...]` and y `[B]`."""

Move = Any
"""What the adversary answers: usually the adversarial input `z`, shaped like x; sometimes a network or a tuple."""

Metrics = dict[str, Tensor]
"""What a learner reports of one update: detached scalars, left on their device so that reading them is a choice."""

Payoff = Callable[[Any, Any, Any], Tensor]
"""`payoff(model, move, batch) -> [B]`: one number per example, never reduced; the adversary wants it high."""


class Adversary(Protocol):
    """Answers a model and a batch with a move, and leaves both exactly as it found them."""

    def respond(self, model: nn.Module, batch: Batch) -> Move: ...


class Learner(Protocol):
    """Holds the model and improves it against a move."""

    @property
    def model(self) -> nn.Module: ...

    def update(self, move: Move, batch: Batch) -> Metrics: ...


@runtime_checkable
class Stateful(Protocol):
    """A player that carries something from round to round (a critic, a perturbation): saved, so that a killed run
    resumes exactly."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


@dataclass(frozen=True)
class Game:
    """A learner, an adversary, and the payoff between them."""

    learner: Learner
    adversary: Adversary
    payoff: Payoff


def play(game: Game, batches: Iterable[Batch]) -> Iterator[Metrics]:
    """Play one round per batch and yield the learner's metrics after each.

    This is the whole training loop. Learning-rate schedules, progress, checkpoints and early stopping live in the
    caller's `for` statement, which runs between one round and the next.
    """
    for batch in batches:
        move = game.adversary.respond(game.learner.model, batch)
        yield game.learner.update(move, batch)
