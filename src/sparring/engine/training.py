"""How a model is optimised, whatever the game: the outer half of every run, as a frozen record of scalars."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Training:
    """How a model is optimised. The defaults suit a small network and a few thousand images."""

    epochs: int = 30
    """Passes over the training examples."""
    batch_size: int = 64
    """Examples per step."""
    optimizer: Literal["sgd", "adamw"] = "adamw"
    """sgd has Nesterov momentum 0.9; adamw decouples its weight decay."""
    learning_rate: float = 2e-3
    """Peak learning rate; for sgd on CIFAR 0.1 is customary."""
    weight_decay: float = 1e-4
    """L2 penalty (sgd) or decoupled decay (adamw); for sgd on CIFAR 5e-4 is customary."""
    schedule: Literal["constant", "piecewise", "cosine", "one-cycle"] = "one-cycle"
    """Learning rate over training: piecewise drops tenfold at 1/2 and 3/4; one-cycle peaks at 0.3."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    ema: float = 0.0
    """Decay per step of an exponential moving average of the weights, which is then what is kept; 0 is off."""
    augment: Literal["none", "pad-crop", "pad-crop-flip"] = "none"
    """Random augmentation on the training device."""
    validation: float = 0.1
    """Share of the training set held out to choose the best checkpoint by robust accuracy. The test set never is."""
    validation_steps: int = 10
    """PGD steps of the validation attack."""
    examples: int = 0
    """Use only this many training examples, chosen by the seed, and as much less to validate on; 0 uses all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    precision: Literal["32", "bf16"] = "32"
    """float32, or bfloat16 autocast in training. Evaluation is always in float32."""

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 1), ("validation_steps", 1), ("examples", 0)):
            _require(
                self, name, isinstance(getattr(self, name), int) and getattr(self, name) >= low, f"an int >= {low}"
            )
        for name in ("weight_decay", "clip"):
            _require(self, name, 0 <= getattr(self, name) < math.inf, "a number in the range [0, inf)")
        _require(self, "learning_rate", 0 < self.learning_rate < math.inf, "a number in the range (0, inf)")
        _require(self, "ema", 0 <= self.ema < 1, "a number in the range [0, 1)")
        _require(self, "validation", 0 < self.validation < 1, "a number in the range (0, 1)")

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over these parameters, at its peak learning rate."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
        )


def _require(training: Training, name: str, holds: bool, constraint: str) -> None:
    if not holds:
        raise ValueError(f"The {name!r} parameter must be {constraint}. Got {getattr(training, name)!r} instead.")
