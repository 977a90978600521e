"""Calibration: does a confidence of 80 % mean right four times in five?"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparring.evaluation.interval import bootstrap

BINS = 15


def calibration(logits: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Any]:
    """How far confidences and labels are apart, each figure with its bootstrap interval, all from the same resamples.

    Args:
        logits: `[N, K]`.
        y: labels `[N]`.
        rng: of the bootstrap, on the CPU.

    Returns:
        `{"ece", "low", "high", "n", "bins", "adaptive_ece", "brier", "nll"}`. `ece` is the expected calibration error
        with 15 equal bins of confidence (Guo et al., "On calibration of modern neural networks", 2017), low and high
        its interval, and `bins` those of a reliability diagram: `[{"low", "high", "confidence", "accuracy", "count"}]`,
        no empty ones. The other three are `{"value", "low", "high"}`: see `adaptive_ece`, `brier` and `nll`.
    """
    logits, y = logits.detach().double().cpu(), y.cpu()
    probability = logits.softmax(1)
    confidence, right = _confidence(probability, y)
    brier_each, nll_each = brier(probability, y), nll(logits, y)

    def estimate(statistic: Callable[[Tensor], float]) -> dict[str, float]:
        same = rng.clone_state()
        low, high = bootstrap(statistic, len(y), same)
        return {"value": statistic(torch.arange(len(y))), "low": low, "high": high}

    figures = {
        "adaptive_ece": estimate(lambda rows: adaptive_ece(confidence[rows], right[rows])),
        "brier": estimate(lambda rows: brier_each[rows].mean().item()),
        "nll": estimate(lambda rows: nll_each[rows].mean().item()),
    }
    row = expected_error(logits, y, rng)
    return {**row, "n": len(y), "bins": bins(probability, y), **figures}


def expected_error(logits: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, float]:
    """The expected calibration error alone: `{"ece", "low", "high"}`, as `calibration` has it."""
    confidence, right = _confidence(logits.detach().double().cpu().softmax(1), y.cpu())
    low, high = bootstrap(lambda rows: ece(confidence[rows], right[rows]), len(right), rng)
    return {"ece": ece(confidence, right), "low": low, "high": high}


def ece(confidence: Tensor, right: Tensor) -> float:
    """The gap between mean confidence and accuracy in each of 15 equal bins of confidence, weighted by its share.

    Args:
        confidence: `[N]` in [0, 1], float64.
        right: whether each prediction is right `[N]`.
    """
    return _gap(confidence, right, _bin(confidence))


def adaptive_ece(confidence: Tensor, right: Tensor) -> float:
    """The same over 15 bins of equally many examples each (Nguyen & O'Connor, "Posterior calibration and exploratory
    analysis for natural language processing models", 2015), so that no bin is too empty to tell anything.

    The bins end at quantiles, so examples of equal confidence share one.
    """
    n = len(confidence)
    last = torch.tensor([-(-i * n // BINS) - 1 for i in range(1, BINS)]).clamp(min=0)
    return _gap(confidence, right, torch.searchsorted(confidence.sort().values[last], confidence))


def brier(probability: Tensor, y: Tensor) -> Tensor:
    """Squared distance of each prediction from the truth, summed over classes, in [0, 2] (Brier, "Verification of
    forecasts expressed in terms of probability", 1950): `[N]`."""
    truth = torch.nn.functional.one_hot(y.long(), probability.shape[1])
    return ((probability - truth) ** 2).sum(1)


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of each label, in nats: `[N]`."""
    return -logits.log_softmax(1).gather(1, y.long()[:, None])[:, 0]


def bins(probability: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """Mean confidence, accuracy and count of every bin of confidence that holds an example."""
    confidence, right = _confidence(probability, y)
    index = _bin(confidence)
    rows = []
    for i in index.unique().tolist():
        inside = index == i
        rows.append(
            {
                "low": i / BINS,
                "high": (i + 1) / BINS,
                "confidence": confidence[inside].mean().item(),
                "accuracy": right[inside].double().mean().item(),
                "count": int(inside.sum()),
            }
        )
    return rows


def _confidence(probability: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    confidence, prediction = probability.max(1)
    return confidence, prediction == y


def _bin(confidence: Tensor) -> Tensor:
    """The bin of each confidence, 0 ... 14; an edge belongs to the bin below it."""
    return (confidence * BINS).ceil().long().clamp(1, BINS) - 1


def _gap(confidence: Tensor, right: Tensor, index: Tensor) -> float:
    """Over bins, the sum of |sum of confidence - right|, by the number of examples."""
    excess = confidence - right.to(confidence)
    return (torch.zeros(BINS).to(excess).scatter_add_(0, index, excess).abs().sum() / len(excess)).item()
