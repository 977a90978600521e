"""Inputs from outside the training distribution: does the model know that it does not know them?"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.standing import check_count
from sparring.evaluation.calibration import expected_error
from sparring.evaluation.interval import accuracy, bootstrap
from sparring.evaluation.subject import subject

KEPT = 0.95
"""The share of inside inputs that a detector lets pass when its false positives are counted."""


def outside(
    model: nn.Module,
    x_in: Tensor,
    x_out: Tensor,
    *,
    y_in: Tensor | None = None,
    y_out: Tensor | None = None,
    rng: torch.Generator,
    batch_size: int = 256,
    low: float = 0.0,
    high: float = 1.0,
    resamples: int = 200,
) -> dict[str, Any]:
    """Tell inputs inside the training distribution from others by how sure the model is of them.

    Two scores, higher inside: `softmax`, the largest softmax probability (Hendrycks & Gimpel, "A baseline for detecting
    misclassified and out-of-distribution examples in neural networks", 2017), and `energy`, the log of the sum of the
    exponentials of all logits (Liu et al., "Energy-based out-of-distribution detection", 2020, eq. 4 at T = 1, with
    the sign that makes it a score).

    Args:
        model: `[B, ...] -> [B, K]` logits; evaluated in eval mode, left as it was found.
        x_in: inputs from the training distribution that it was not trained on `[N, ...]`, in [low, high].
        x_out: inputs from elsewhere `[M, ...]`, in [low, high].
        y_in, y_out: labels, where known; those of x_out only if it holds the same classes.
        rng: of the bootstrap, on the CPU; it is left where it was.
        batch_size: examples at a time.
        low, high: bounds that inputs must be inside.
        resamples: of the bootstrap, which draws from inside and outside inputs separately.

    Returns:
        JSON types: `n_in`, `n_out`; `scores`: for `softmax` and `energy` each `auroc`, the probability that an inside
        input scores higher than an outside one (ties half), and `fpr95`, the share of outside inputs that pass where
        95 % of the inside ones do, both `{"value", "low", "high"}`; `inside` and `outside`: `mean_confidence`, and with
        labels `accuracy` (Wilson) and `ece`, else None for these.

    Raises:
        ValueError: where data or the model's output is not what it has to be.
    """
    check_count("resamples", resamples)
    parts = []
    for x, y in ((x_in, y_in), (x_out, y_out)):
        stand_in = torch.zeros(len(x), dtype=torch.long, device=x.device) if y is None else y
        asked = subject(model, (x, stand_in), low=low, high=high, batch_size=batch_size)
        parts.append((asked.logits.double().cpu(), None if y is None else asked.y.cpu()))
    (logits_in, _), (logits_out, _) = parts
    scores = {}
    for name, score in (("softmax", confidence), ("energy", energy)):
        scores[name] = _detection(score(logits_in), score(logits_out), rng, resamples)
    inside, beyond = (_answers(logits, y, rng) for logits, y in parts)
    return {
        "n_in": len(logits_in),
        "n_out": len(logits_out),
        "scores": scores,
        "inside": inside,
        "outside": beyond,
    }


def confidence(logits: Tensor) -> Tensor:
    """The log of the largest softmax probability `[B]`: in its order, and distinct where the probability rounds to 1.

    The log of p is -log(1 + r) with r the sum of exp(logit - largest) over the other classes; -r orders the same.
    """
    top = logits.topk(logits.shape[1], dim=1).values
    return -(top[:, 1:] - top[:, :1]).exp().sum(1).log1p()


def energy(logits: Tensor) -> Tensor:
    """The log of the sum of the exponentials of the logits `[B]`: minus the free energy."""
    return logits.logsumexp(1)


def auroc(score_in: Tensor, score_out: Tensor) -> float:
    """The area under the ROC curve of telling inside (positive) from outside by a score that is higher inside."""
    from sklearn.metrics import roc_auc_score

    truth = torch.cat([torch.ones(len(score_in)), torch.zeros(len(score_out))])
    return float(roc_auc_score(truth.numpy(), torch.cat([score_in, score_out]).numpy()))


def false_positives(score_in: Tensor, score_out: Tensor) -> float:
    """The share of outside inputs at or above the highest threshold that 95 % of the inside ones reach."""
    kept = math.ceil(KEPT * len(score_in) - 1e-9)
    threshold = score_in.sort(descending=True).values[kept - 1]
    return (score_out >= threshold).double().mean().item()


def _detection(score_in: Tensor, score_out: Tensor, rng: torch.Generator, resamples: int) -> dict[str, Any]:
    """Both figures with their intervals, from the same resamples."""
    figures = {}
    for name, figure in (("auroc", auroc), ("fpr95", false_positives)):
        same = rng.clone_state()

        def resampled(rows: Tensor, figure: Any = figure, same: torch.Generator = same) -> float:
            others = torch.randint(len(score_out), (len(score_out),), generator=same)
            return float(figure(score_in[rows], score_out[others]))

        low, high = bootstrap(resampled, len(score_in), same, resamples=resamples)
        figures[name] = {"value": figure(score_in, score_out), "low": low, "high": high}
    return figures


def _answers(logits: Tensor, y: Tensor | None, rng: torch.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {"mean_confidence": logits.softmax(1).amax(1).mean().item(), "accuracy": None, "ece": None}
    if y is not None:
        row |= {"accuracy": accuracy(logits.argmax(1) == y), "ece": expected_error(logits, y, rng.clone_state())}
    return row
