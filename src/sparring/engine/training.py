"""How a model is optimised, whatever the game: the outer half of every run, as a frozen record of scalars."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sparring.core.schedule import Progress
from sparring.core.weights import Perturbation
from sparring.engine.averaging import Average, Equal, Exponential


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
    ema_warmup: bool = False
    """The decay grows as min(ema, (1 + t) / (10 + t)) over steps t, so that a short run forgets its first weights."""
    swa: float = 0.0
    """Share of training after which the weights at the end of every epoch are averaged, which is then what is kept; 0
    is off."""
    augment: Literal["none", "pad-crop", "pad-crop-flip", "cutout", "idbh-weak", "idbh-strong"] = "none"
    """Random augmentation on the training device; cutout and idbh crop as well, and flip but for handwritten digits."""
    cutmix: float = 0.0
    """Probability that a batch is mixed by CutMix: a box of each image from another one, the labels by area."""
    label_smoothing: float = 0.0
    """Share of every label that is spread evenly over all classes."""
    validation: float = 0.1
    """Share of the training set held out to choose the best checkpoint by robust accuracy. The test set never is."""
    validation_steps: int = 10
    """PGD steps of the validation attack."""
    examples: int = 0
    """Use only this many training examples, chosen by the seed, and as much less to validate on; 0 uses all."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """auto times float32 and bfloat16, memory layouts and folded BatchNorm on the real model and takes the fastest; 32
    is the model as it is, the same on every machine of a kind. Evaluation is verified in float32 whatever is chosen."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the copy that attacks see; auto where it is measured to be faster and there is time to gain."""
    perturb: Literal["none", "awp", "sam", "asam"] = "none"
    """A weight-space adversary on top of any method: adversarial weight perturbation, sharpness-aware minimisation."""
    perturb_size: float = 0.01
    """gamma of awp (0.005 to 0.01 in its paper), rho of sam (0.05) and asam (0.5)."""
    perturb_warmup: float = 0.0
    """Share of training before the weight-space adversary begins, in [0, 1]."""
    guard: Literal["off", "warn", "stop", "rollback"] = "stop"
    """What to do when robust accuracy that was there is suddenly gone (catastrophic overfitting) or clean accuracy is:
    say so, stop, or go back to the last sound state at half the learning rate, three times at most."""
    guard_checks: int = 1
    """How often an epoch the guard looks, with PGD-10 on at most 256 held-out examples."""

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 1),
            ("batch_size", 1),
            ("validation_steps", 1),
            ("examples", 0),
            ("guard_checks", 1),
        ):
            _require(
                self, name, isinstance(getattr(self, name), int) and getattr(self, name) >= low, f"an int >= {low}"
            )
        for name in ("weight_decay", "clip", "perturb_size"):
            _require(self, name, 0 <= getattr(self, name) < math.inf, "a number in the range [0, inf)")
        _require(self, "learning_rate", 0 < self.learning_rate < math.inf, "a number in the range (0, inf)")
        for name in ("ema", "swa", "label_smoothing"):
            _require(self, name, 0 <= getattr(self, name) < 1, "a number in the range [0, 1)")
        _require(self, "cutmix", 0 <= self.cutmix <= 1, "a number in the range [0, 1]")
        _require(self, "swa", not (self.swa and self.ema), "0 where 'ema' is on: one average is kept")
        _require(self, "ema_warmup", bool(self.ema) or not self.ema_warmup, "False where 'ema' is 0")
        _require(self, "perturb_warmup", 0 <= self.perturb_warmup <= 1, "a number in the range [0, 1]")
        _require(self, "validation", 0 < self.validation < 1, "a number in the range (0, 1)")

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over these parameters, at its peak learning rate."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
        )

    def make_perturbation(self, progress: Progress) -> Perturbation | None:
        """The weight-space adversary that learners train against as well; None where none is asked for."""
        if self.perturb == "none":
            return None
        return Perturbation(self.perturb, self.perturb_size, start=lambda: progress() >= self.perturb_warmup)

    def make_average(self, model: nn.Module, epoch_steps: int) -> Average | None:
        """What averages this model's weights, over epochs of so many steps; None where none is asked for."""
        if self.swa:
            start = math.floor(self.swa * self.epochs * epoch_steps)
            return Average(model, Equal(start=start, every=epoch_steps))
        return Average(model, Exponential(self.ema, self.ema_warmup)) if self.ema else None


def _require(training: Training, name: str, holds: bool, constraint: str) -> None:
    if not holds:
        raise ValueError(f"The {name!r} parameter must be {constraint}. Got {getattr(training, name)!r} instead.")
