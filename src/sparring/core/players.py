"""The players: small parts that together make every game. None knows an engine, a device or a norm.

What an engine owns (mixed precision, `backward` with scaling, gradient clipping) is handed in as a callable, with the
plain torch one as default, so the same player runs in a notebook and on eight GPUs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.attack import Attack
from sparring.core.game import Adversary, Batch, Metrics, Move, Payoff
from sparring.core.gradient import View, frozen
from sparring.core.payoff import hard
from sparring.core.threat import Threat, for_classes
from sparring.core.weights import Perturbation

Objective = Callable[[nn.Module, Move, Batch], Tensor | tuple[Tensor, Metrics]]
"""What a learner descends: a number per example `[B]`, and with it, if it likes, scalars that tell of the round."""


class Descent:
    """A learner: one optimiser step per round on the mean of a per-example objective.

    Args:
        model: trained in train mode.
        optimizer: over the model's parameters.
        objective: `(model, move, batch) -> [B]`, what this player descends; often the payoff, sometimes a surrogate.
            Where it answers with `([B], metrics)`, the metrics are reported beside the loss.
        backward: how to differentiate the reduced loss; an engine hands in its own.
        clip: called between backward and step, for example to clip gradients.
        perturbation: a weight-space adversary (AWP, SAM): the gradient is taken where it has moved the weights to.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        *,
        backward: Callable[[Tensor], object] = torch.Tensor.backward,
        clip: Callable[[], object] | None = None,
        perturbation: Perturbation | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.backward = backward
        self.clip = clip
        self.perturbation = perturbation

    def update(self, move: Move, batch: Batch) -> Metrics:
        self.model.train()
        told: Metrics = {}

        def differentiate() -> Tensor:
            answer = self.objective(self.model, move, batch)
            losses, metrics = (answer, {}) if isinstance(answer, Tensor) else answer
            told.update(metrics)
            loss = losses.mean()
            self.optimizer.zero_grad(set_to_none=True)
            self.backward(loss)
            return loss

        loss = differentiate() if self.perturbation is None else self.perturbation(self.model, differentiate)
        if self.clip is not None:
            self.clip()
        self.optimizer.step()
        return {"loss": loss.detach(), **{name: value.detach() for name, value in told.items()}}


def first(batch: Batch) -> Tensor:
    """The inputs of a batch `(x, y)`."""
    return batch[0]


@dataclass(frozen=True)
class Attacker:
    """An adversary that solves a fresh inner problem for each batch, against the frozen model.

    Args:
        payoff: what it ascends; often the game's payoff, sometimes a surrogate (TRADES: KL).
        threat: where the move may be.
        attack: `(gain, x, threat, rng=...) -> z`, hyper-parameters bound.
        rng: source of the attack's randomness, on the batch's device.
        start: where the attack starts from, given the batch: by default its inputs.
        view: how the attack sees the model; a cheaper copy of the same function makes the whole answer cheaper.
        reference: `(model, batch) -> tensor`, what the payoff compares with (TRADES: the logits at the clean inputs).
            Computed once per batch, without gradient, and given to the payoff as the last part of the batch.
    """

    payoff: Payoff
    threat: Threat
    attack: Attack
    rng: torch.Generator | None = None
    start: Callable[[Batch], Tensor] = first
    view: View = frozen
    reference: Callable[[nn.Module, Batch], Tensor] | None = None

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        x = self.start(batch)
        threat = self.threat if len(batch) < 2 else for_classes(self.threat, hard(batch[1]))
        with self.view(model) as seen:
            if self.reference is not None:
                with torch.no_grad():
                    batch = (*batch, self.reference(seen, batch))
            return self.attack(lambda z, /: self.payoff(seen, z, batch), x, threat, rng=self.rng).detach()


class Critic:
    """An adversary that is itself a network and lives on between batches: a discriminator, a domain classifier.

    Its move is the network. It trains against the frozen model and holds no gradient when the learner differentiates
    through it. With `steps=1` and plain SGD on both sides, a game against a Critic is alternating descent-ascent.

    Args:
        network: the critic.
        optimizer: over the critic's parameters.
        payoff: `(model, network, batch) -> [B]`, what the critic ascends (its own surrogate: a WGAN critic subtracts
            its gradient penalty here).
        steps: ascent steps per batch.
        backward: how to differentiate; an engine hands in its own.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        payoff: Payoff,
        *,
        steps: int = 1,
        backward: Callable[[Tensor], object] = torch.Tensor.backward,
    ) -> None:
        self.network = network.requires_grad_(False)
        self.optimizer = optimizer
        self.payoff = payoff
        self.steps = steps
        self.backward = backward

    def respond(self, model: nn.Module, batch: Batch) -> nn.Module:
        self.network.train().requires_grad_(True)
        with frozen(model):
            for _ in range(self.steps):
                self.optimizer.zero_grad(set_to_none=True)
                self.backward(-self.payoff(model, self.network, batch).mean())
                self.optimizer.step()
        return self.network.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """The network and its optimiser."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


@dataclass(frozen=True)
class Nature:
    """An adversary that plays the batch as it came: a game against Nature is standard training."""

    start: Callable[[Batch], Tensor] = first

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.start(batch)


@dataclass(frozen=True)
class Fixed:
    """An adversary that always plays the same move: a universal perturbation, a trained critic."""

    move: Move

    def respond(self, model: nn.Module, batch: Batch) -> Move:
        return self.move


@dataclass(frozen=True)
class Mixture:
    """An adversary that answers a random share of the examples and leaves the rest to nature.

    Only the chosen examples are attacked, so half the share costs half the attack.

    Args:
        adversary: answers with a tensor shaped like the inputs.
        share: of the batch, in [0, 1]; rounded to a whole number of examples.
        rng: source of the choice, on the batch's device.
        nature: what the others play.
    """

    adversary: Adversary
    share: float = 0.5
    rng: torch.Generator | None = None
    nature: Nature = Nature()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"The 'share' parameter must be a number in the range [0, 1]. Got {self.share!r} instead.")

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        z = self.nature.respond(model, batch)
        count = round(self.share * len(z))
        if count == 0:
            return z
        rows = torch.randperm(len(z), generator=self.rng, device=z.device)[:count]
        return z.index_copy(0, rows, self.adversary.respond(model, tuple(part[rows] for part in batch)))


@dataclass(frozen=True)
class OwnExamples:
    """An adversary that answers the examples of one class, which are its own, and leaves the rest to nature.

    Args:
        adversary: answers with a tensor shaped like the inputs.
        label: the class.
        nature: what the others play.
    """

    adversary: Adversary
    label: int
    nature: Nature = Nature()

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        z = self.nature.respond(model, batch)
        rows = (hard(batch[1]) == self.label).nonzero().squeeze(1)
        if len(rows) == 0:
            return z
        return z.index_copy(0, rows, self.adversary.respond(model, tuple(part[rows] for part in batch)))


@dataclass(frozen=True)
class Joint:
    """Several adversaries that answer the same model and batch; the move is the tuple of their moves."""

    adversaries: Sequence[Adversary]

    def respond(self, model: nn.Module, batch: Batch) -> tuple[Move, ...]:
        return tuple(adversary.respond(model, batch) for adversary in self.adversaries)


@dataclass(frozen=True)
class Curriculum:
    """An adversary that grows with training: any adversary whose strength is a function of progress.

    Args:
        at: the adversary to play at a given progress in [0, 1].
        progress: where training is now; an engine moves it, a script may use a counter.
    """

    at: Callable[[float], Adversary]
    progress: Callable[[], float]

    def respond(self, model: nn.Module, batch: Batch) -> Move:
        return self.at(self.progress()).respond(model, batch)
