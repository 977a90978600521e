"""SMART's second half: a step that does not go far from a moving average of the models before it.

    theta_{t+1} = argmin F(theta) + mu E[ symmetric KL(f_theta(x), f_theta~_t(x)) ],
    theta~_t = (1 - beta) theta_t + beta theta~_{t-1}

Jiang, He, Chen, Liu, Gao, Zhao, "SMART: robust and efficient fine-tuning for pre-trained natural language models
through principled regularized optimization", 2020, section 3.2. Here as there one optimiser step stands for the argmin.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core import inner
from sparring.core.game import Batch, Metrics
from sparring.core.gradient import frozen
from sparring.core.players import Objective
from sparring.core.tools import Tools
from sparring.engine.averaging import Average, Exponential
from sparring.systems.text_at.offsets import clean_logits, symmetric_kl


class Proximal:
    """A learner that keeps the average of its models and stays near it.

    Args:
        model, optimizer: as of `Descent`.
        objective: `(model, z, batch, near) -> [B]`: F with mu times `near(logits at x)` added where it has these.
        decay: beta, per step.
        tools: what an engine hands in.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Callable[[Callable[[Batch, Tensor], Tensor]], Objective],
        *,
        decay: float,
        tools: Tools,
    ) -> None:
        self.average = Average(model, Exponential(decay))
        self.model, self.count = model, 0
        self.descent = inner.descent(model, optimizer, objective(self.near), tools)

    def near(self, batch: Batch, logits: Tensor) -> Tensor:
        """The Bregman distance of the answers `[B, K]` at the texts of a batch from the average model's, `[B]`."""
        with frozen(self.average.module) as before, torch.no_grad():
            others = clean_logits(before, batch)
        return symmetric_kl(logits, others)

    def update(self, move: Any, batch: Batch) -> Metrics:
        if self.count == 0:  # the average begins at the first model, wherever its weights came from since
            self.average.update(self.model, 1)
        metrics = self.descent.update(move, batch)
        self.count += 1
        self.average.update(self.model, self.count + 1)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The average and how many models are in it."""
        return {"average": self.average.state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        self.average.load_state_dict(state["average"])
        self.count = state["count"]
