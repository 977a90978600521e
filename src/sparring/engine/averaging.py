"""The mean of a model's weights along its training, which is then what is validated and kept.

How much of the weights after each step enters is a rule, and a function of the step alone: nothing but the mean itself
has to be saved to resume exactly.
"""

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


class Rule(Protocol):
    """How a mean moves."""

    def weight(self, step: int) -> float:
        """Share of the weights after step `step` (from 1) in the new mean, in [0, 1]: 0 passes over them, 1 starts
        the mean anew."""
        ...


@dataclass(frozen=True)
class Exponential:
    """EMA: mean <- d mean + (1 - d) weights after every step; the first weights are the first mean.

    As in Gowal et al., "Uncovering the limits of adversarial training", 2020, who use 0.995.

    Args:
        decay: d, in [0, 1). Weights older than 1 / (1 - d) steps hardly count.
        warmup: whether d grows as min(decay, (1 + t) / (10 + t)) with t means behind it (Rebuffi et al., "Fixing data
            augmentation to improve adversarial robustness", 2021, whose code also begins after 2.5 % of training: not
            here). Without it the first weights stay in the mean with d^t, which in a short run is most of it.
    """

    decay: float
    warmup: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"The 'decay' parameter must be a number in the range [0, 1). Got {self.decay!r} instead.")

    def weight(self, step: int) -> float:
        before = step - 1
        if before == 0:
            return 1.0
        return 1 - (min(self.decay, (1 + before) / (10 + before)) if self.warmup else self.decay)


@dataclass(frozen=True)
class Equal:
    """SWA: the arithmetic mean of one sample every `every` steps, those after step `start`; until then the last sample.

    Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018, and Chen et al.,
    "Robust overfitting may be mitigated by properly learned smoothening", 2021, take one sample per epoch; so does an
    engine that sets `every` to the steps of an epoch.

    Args:
        start: samples up to and including this step are not averaged, in [0, inf).
        every: steps between samples, in [1, inf).
    """

    start: int
    every: int

    def __post_init__(self) -> None:
        for name, value, low in (("start", self.start, 0), ("every", self.every, 1)):
            if value < low:
                raise ValueError(f"The {name!r} parameter must be an int >= {low}. Got {value!r} instead.")

    def weight(self, step: int) -> float:
        if step % self.every:
            return 0.0
        return 1 / max(1, step // self.every - self.start // self.every)


class Average:
    """A model whose weights are a mean of another's.

    BatchNorm's running statistics are averaged like weights (Izmailov et al. estimate them anew by a pass over the
    training data instead); whole numbers, such as BatchNorm's count of batches, are those of the last sample.

    Args:
        model: what is averaged. It is copied, and never changed.
        rule: how.
    """

    def __init__(self, model: nn.Module, rule: Rule) -> None:
        self.rule = rule
        self.module = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights of `model` after step `step`, counted from 1. Waits for no device."""
        weight = self.rule.weight(step)
        if weight == 0:
            return
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        real = [pair for pair in pairs if weight < 1 and pair[0].is_floating_point()]
        if real:
            torch._foreach_lerp_([mean for mean, _ in real], [new for _, new in real], weight)
        for mean, new in pairs:
            if weight == 1 or not mean.is_floating_point():
                mean.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """All there is to resume from."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers()]
