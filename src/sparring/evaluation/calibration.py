"""Calibration: does a confidence of 80 % mean right four times in five?"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from sparring.evaluation.interval import bootstrap

BINS = 15


def calibration(logits: Tensor, y: Tensor, rng: torch.Generator) -> dict[str, Any]:
    """Expected calibration error with 15 equal bins of confidence (Guo et al., "On calibration of modern neural
    networks", 2017), its bootstrap interval, and the bins of a reliability diagram.

    Args:
        logits: `[N, K]`.
        y: labels `[N]`.
        rng: of the bootstrap, on the CPU.

    Returns:
        `{"ece", "low", "high", "n", "bins": [{"low", "high", "confidence", "accuracy", "count"}]}`, no empty bins.
    """
    probability = logits.detach().float().cpu().softmax(1)
    y = y.cpu()

    def ece(rows: Tensor) -> float:
        value = multiclass_calibration_error(probability[rows], y[rows], logits.shape[1], n_bins=BINS, norm="l1")
        return float(value)

    low, high = bootstrap(ece, len(y), rng)
    return {"ece": ece(torch.arange(len(y))), "low": low, "high": high, "n": len(y), "bins": bins(probability, y)}


def bins(probability: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """Mean confidence, accuracy and count of every bin of confidence that holds an example."""
    confidence, prediction = probability.max(1)
    index = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    rows = []
    for i in index.unique().tolist():
        inside = index == i
        rows.append(
            {
                "low": i / BINS,
                "high": (i + 1) / BINS,
                "confidence": confidence[inside].mean().item(),
                "accuracy": (prediction[inside] == y[inside]).double().mean().item(),
                "count": int(inside.sum()),
            }
        )
    return rows
