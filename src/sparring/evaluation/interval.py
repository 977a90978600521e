"""Ninety-five percent intervals: Wilson's for a share, percentiles of a bootstrap for everything else."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Z = 1.959963984540054  # the 0.975 quantile of the normal distribution


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The score interval of a share of n independent trials (Wilson, "Probable inference", 1927).

    Unlike hits/n +- 2 standard errors it stays inside [0, 1] and keeps its coverage near 0 and 1.
    """
    share = hits / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(right: Tensor) -> dict[str, Any]:
    """`{"accuracy", "low", "high", "n"}` of a bool tensor `[N]`."""
    hits, n = int(right.sum()), len(right)
    low, high = wilson(hits, n)
    return {"accuracy": hits / n, "low": low, "high": high, "n": n}


def bootstrap(
    statistic: Callable[[Tensor], float], n: int, rng: torch.Generator, *, resamples: int = 200
) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of `statistic(rows)` over rows drawn with replacement from n examples."""
    draws = torch.tensor(
        [statistic(torch.randint(n, (n,), generator=rng)) for _ in range(resamples)], dtype=torch.float64
    )
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
