"""Temperature scaling: one number that makes a classifier as sure as it has reason to be, without changing an answer.

Guo et al., "On calibration of modern neural networks", 2017, section 4.2. What it achieves is reported apart from the
model's own calibration: a model that needs it is not calibrated.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.evaluation.calibration import calibration, nll

BOUND = 100.0
"""Temperatures are sought in [1 / BOUND, BOUND]."""


@dataclass(frozen=True)
class Temperature:
    """A temperature fitted to N examples; called with logits `[B, K]` it gives `logits / value`.

    Attributes:
        value: above 1 where the model was too sure, below 1 where it was not sure enough.
        n: examples it was fitted to.
        nll_before, nll_after: mean negative log-likelihood on them, in nats, at temperature 1 and at `value`.
        bounded: the likelihood rises up to the end of the interval searched, which `value` is: every example is
            right (the best temperature is 0), or confidence says nothing about the label (it is infinite).
    """

    value: float
    n: int
    nll_before: float
    nll_after: float
    bounded: bool

    def __call__(self, logits: Tensor) -> Tensor:
        """`logits / value`, of the same shape and dtype."""
        return logits / self.value


def fit_temperature(logits: Tensor, y: Tensor) -> Temperature:
    """The temperature of the highest likelihood on held-out examples, by Newton's method in float64.

    The negative log-likelihood is convex in b = 1 / T. Its slope is the mean, over examples, of the logit expected
    under softmax(b logits) less the label's; its curvature the mean variance. A step of Newton's that leaves the
    interval known to hold the root is replaced by the interval's geometric middle.

    Args:
        logits: `[N, K]`, on examples that the model was not trained on and calibration is not reported on.
        y: labels `[N]`.

    Raises:
        ValueError: where the shapes do not match, there is no example, or a logit is not finite.
    """
    if logits.dim() != 2 or y.shape != logits.shape[:1] or len(y) == 0:
        raise ValueError(f"logits must be [N, K] and y [N] with N >= 1. Got {list(logits.shape)} and {list(y.shape)}.")
    if not logits.isfinite().all():
        raise ValueError("logits must be finite. Got NaN or infinity.")
    z, y = logits.detach().double().cpu(), y.cpu().long()
    low, high = 1 / BOUND, BOUND
    if _slope(z, y, 1.0)[0] == 0:
        b = 1.0  # also where every class gets the same logit, so that no temperature is better
    elif _slope(z, y, low)[0] >= 0:
        b = low
    elif _slope(z, y, high)[0] <= 0:
        b = high
    else:
        b = _root(z, y, low, high)
    before, after = nll(z, y).mean().item(), nll(b * z, y).mean().item()
    return Temperature(1 / b, len(y), before, after, bounded=b in (low, high))


def calibrated(fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], rng: torch.Generator) -> dict[str, Any]:
    """Calibration before and after temperature scaling, on other examples than the temperature was fitted to.

    Args:
        fit: logits `[N, K]` and labels `[N]` to fit the temperature to.
        held: logits `[M, K]` and labels `[M]` to report on; none of them may be among `fit`.
        rng: of the bootstrap, on the CPU; before and after are resampled alike.

    Returns:
        `{"temperature", "bounded", "n_fit", "nll_fit_before", "nll_fit_after", "before", "after"}`, the last two as
        `sparring.evaluation.calibration.calibration` has them.
    """
    temperature, (logits, y) = fit_temperature(*fit), held
    before = calibration(logits, y, rng.clone_state())
    after = calibration(temperature(logits.double()), y, rng)
    return {
        "temperature": temperature.value,
        "bounded": temperature.bounded,
        "n_fit": temperature.n,
        "nll_fit_before": temperature.nll_before,
        "nll_fit_after": temperature.nll_after,
        "before": before,
        "after": after,
    }


def _root(z: Tensor, y: Tensor, low: float, high: float) -> float:
    """Where the slope, which rises from below 0 at low to above 0 at high, is 0."""
    b = 1.0
    for _ in range(100):
        slope, curvature = _slope(z, y, b)
        low, high = (b, high) if slope < 0 else (low, b)
        new = b - slope / curvature if curvature > 0 else math.inf
        new = new if low < new < high else math.sqrt(low * high)
        if abs(new - b) <= 1e-12 * b:
            return new
        b = new
    return b


def _slope(z: Tensor, y: Tensor, b: float) -> tuple[float, float]:
    """First and second derivative of the mean negative log-likelihood of softmax(b z) in b."""
    probability = (b * z).softmax(1)
    mean = (probability * z).sum(1)
    curvature = (probability * (z - mean[:, None]) ** 2).sum(1).mean()
    return (mean - z.gather(1, y[:, None])[:, 0]).mean().item(), curvature.item()
