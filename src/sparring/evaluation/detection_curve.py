"""The ROC curve in few points, and the area under it with an interval: what a record keeps of many scores."""

from typing import Any

import torch
from torch import Tensor

from sparring.evaluation.detection import auroc, roc
from sparring.evaluation.interval import bootstrap

POINTS = 80
"""Rates of false alarms at which a curve is kept, evenly spaced on a logarithmic axis."""


def curve(benign: Tensor, malicious: Tensor, points: int = POINTS) -> list[dict[str, float]]:
    """The most that is detected at each of some rates of false alarms.

    Args:
        benign, malicious: scores, higher for more malicious, `[N]` and `[M]`, at least one each.
        points: at most so many, between one benign row in N and all of them; 0 is another.

    Returns:
        `[{"false positives", "detection"}, ...]`, shares in [0, 1], the first rising.
    """
    raised, found, _ = roc(torch.cat([benign, malicious]), _labels(benign, malicious))
    wanted = torch.logspace(0, 1, points, base=len(benign), dtype=torch.float64) / len(benign)
    wanted = torch.cat([torch.zeros(1, dtype=torch.float64), wanted])
    last = torch.searchsorted(raised, wanted + 1e-12, right=True) - 1
    last = last.unique_consecutive()
    return [
        {"false positives": float(fp), "detection": float(dr)} for fp, dr in zip(raised[last], found[last], strict=True)
    ]


def area(benign: Tensor, malicious: Tensor, rng: torch.Generator, *, resamples: int = 200) -> dict[str, Any]:
    """`{"value", "low", "high"}`: the area under the ROC curve with its 95 % interval, from a bootstrap of the rows of
    both classes, each resampled on its own.

    Args:
        benign, malicious: as for `curve`.
        rng: source of the resampling.
        resamples: of the bootstrap.
    """
    labels = _labels(benign, malicious)
    value = auroc(torch.cat([benign, malicious]), labels)

    def statistic(rows: Tensor) -> float:
        others = torch.randint(len(benign), (len(benign),), generator=rng)
        return auroc(torch.cat([benign[others], malicious[rows]]), labels)

    low, high = bootstrap(statistic, len(malicious), rng, resamples=resamples)
    return {"value": value, "low": low, "high": high}


def _labels(benign: Tensor, malicious: Tensor) -> Tensor:
    return torch.cat([torch.zeros(len(benign), dtype=torch.bool), torch.ones(len(malicious), dtype=torch.bool)])
