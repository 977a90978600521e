"""FreeLB: the gradient of the weights is averaged over the K texts that the ascent passes, in one optimiser step.

    g <- (1 - a) grad_theta L(f(x), y);  for t = 1..K:  g <- g + (a / K) grad_theta L(f(x + d_t), y),
                                         d_{t+1} = project(d_t + step_size steepest(grad_d L(f(x + d_t), y)))

Zhu, Cheng, Gan, Sun, Goldstein, Liu, "FreeLB: enhanced adversarial training for natural language understanding", 2020.
One backward pass serves both players, so K steps cost K passes where PGD-K costs K + 1 of the model and one more.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.core.game import Batch, Metrics
from sparring.core.payoff import cross_entropy
from sparring.core.tools import Tools
from sparring.systems.text_at.offsets import Within, bare, embed


class Accumulating:
    """A learner that ascends from the adversary's move and descends the mean over what it passes.

    Dropout, where the model has it, is the same in all K passes: the gradient of one network is climbed, not of K.

    Args:
        model: trained in train mode.
        optimizer: over the model's parameters.
        within: the threat model.
        steps: K, passes of the ascent.
        step_size: of each, in radii.
        weight: a, share of the adversarial loss, in [0, 1].
        begun: whether the adversary is there yet; before, a step is one of standard training.
        tools: backward and clip; one clip before the one step.

    Raises:
        ValueError: `tools.perturbation` is given: it would differentiate at other weights than the ascent does.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        within: Within,
        *,
        steps: int,
        step_size: float,
        weight: float,
        begun: Callable[[], bool] = lambda: True,
        tools: Tools,
    ) -> None:
        if tools.perturbation is not None:
            raise ValueError(
                "The 'perturbation' tool must be None for freelb, whose backward passes serve both players. "
                f"Got {tools.perturbation!r} instead; use pgd with it."
            )
        self.model, self.optimizer, self.within, self.tools = model, optimizer, within, tools
        self.steps, self.step_size, self.weight, self.begun = steps, step_size, weight, begun

    def update(self, move: Tensor, batch: Batch) -> Metrics:
        """One optimiser step; the loss reported is the one whose gradient was accumulated."""
        self.model.train()
        ids, y = batch[0], batch[1]
        weight = self.weight if self.begun() else 0.0
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=ids.device)
        if weight < 1:
            loss = (1 - weight) * cross_entropy(self.model(ids), y).mean()
            self.tools.backward(loss)
            total = total + loss.detach()
        if weight > 0:
            total = total + self._ascend(move, ids, y, weight)
        if self.tools.clip is not None:
            self.tools.clip()
        self.optimizer.step()
        return {"loss": total}

    def _ascend(self, move: Tensor, ids: Tensor, y: Tensor, weight: float) -> Tensor:
        """Accumulate the gradient of the adversarial part; its loss."""
        threat = self.within(bare(self.model))
        with torch.no_grad():
            x = embed(self.model, ids)
        total = torch.zeros((), device=x.device)
        offset = move.detach() - x
        dropout = torch.get_rng_state(), torch.cuda.get_rng_state(x.device) if x.is_cuda else None
        for _ in range(self.steps):
            torch.set_rng_state(dropout[0])
            if dropout[1] is not None:
                torch.cuda.set_rng_state(dropout[1], x.device)
            offset = offset.detach().requires_grad_(True)
            loss = weight / self.steps * cross_entropy(self.model(embed(self.model, ids) + offset), y).mean()
            self.tools.backward(loss)
            total = total + loss.detach()
            gradient = offset.grad
            assert gradient is not None
            z = x + offset.detach()
            z = threat.project(z + self.step_size * threat.eps * threat.steepest(gradient, z), x)
            offset = z - x
        return total
