"""Two accuracies on the same examples: their difference, its interval, and whether chance explains it.

Two runs, two attacks or two libraries judged on the same examples agree about most of them. Only those they disagree
about tell them apart, so the interval of a paired difference is much narrower than two intervals side by side suggest.
"""

import math
from typing import Any

import torch
from torch import Tensor

from sparring.evaluation.interval import wilson


def difference(a: Tensor, b: Tensor) -> dict[str, Any]:
    """The accuracy of a minus that of b, with a 95 % interval and a test.

    Args:
        a: whether each example is right in the one, bool `[N]`.
        b: whether the same example is right in the other, bool `[N]`.

    Returns:
        `{"difference", "low", "high", "p", "only_a", "only_b", "n"}`: the difference in [-1, 1] with the interval of
        `newcombe`, the p-value of `mcnemar`, and how many examples are right in a only and in b only. Interval and test
        answer slightly different questions and may disagree when p is near 0.05.

    Raises:
        ValueError: unless a and b are bool tensors `[N]` of one length N >= 1.
    """
    if a.dtype != torch.bool or b.dtype != torch.bool or a.dim() != 1 or a.shape != b.shape or len(a) == 0:
        raise ValueError(
            "a and b must be bool tensors [N] about the same examples, N >= 1. "
            f"Got {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}."
        )
    b = b.to(a.device)
    both, only_a, only_b = (int(part.sum()) for part in (a & b, a & ~b, b & ~a))
    low, high = newcombe(both, only_a, only_b, len(a) - both - only_a - only_b)
    p = mcnemar(only_a, only_b)
    share = (only_a - only_b) / len(a)
    return {"difference": share, "low": low, "high": high, "p": p, "only_a": only_a, "only_b": only_b, "n": len(a)}


def newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    """The 95 % square-and-add interval of a paired difference: Newcombe, "Improved confidence intervals for the
    difference between binomial proportions based on paired data", 1998, method 10.

    With p, q the two shares, (p1, p2) and (q1, q2) their Wilson intervals, and phi the correlation of the answers,

        (p - q) - sqrt((p - p1)^2 - 2 phi (p - p1)(q2 - q) + (q2 - q)^2)   to
        (p - q) + sqrt((p2 - p)^2 - 2 phi (p2 - p)(q - q1) + (q - q1)^2),

    where phi's numerator, both x neither - only_a x only_b, is moved towards zero by n / 2 if it is positive. It stays
    inside [-1, 1], and keeps its coverage where no example disagrees: there Wald's interval has no width at all.

    Args:
        both, only_a, only_b, neither: counts of examples, of which at least one is positive.
    """
    n = both + only_a + only_b + neither
    p, q = (both + only_a) / n, (both + only_b) / n
    (p_low, p_high), (q_low, q_high) = wilson(both + only_a, n), wilson(both + only_b, n)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    agreement: float = both * neither - only_a * only_b
    if agreement > 0:
        agreement = max(agreement - n / 2, 0.0)
    phi = agreement / math.sqrt(margins) if margins else 0.0
    below = (p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2
    above = (p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2
    return max(-1.0, p - q - math.sqrt(max(0.0, below))), min(1.0, p - q + math.sqrt(max(0.0, above)))


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided exact p-value of "a and b are right equally often": McNemar, "Note on the sampling error of the
    difference between correlated proportions or percentages", 1947, in its binomial form.

    Given that an example is right in one only, under the null it is either with probability 1/2, so

        p = min(1, 2 P[X <= min(only_a, only_b)])   with X ~ Binomial(only_a + only_b, 1/2).
    """
    n, k = only_a + only_b, min(only_a, only_b)
    successes = torch.arange(k + 1, dtype=torch.float64)
    total = torch.tensor(n + 1.0, dtype=torch.float64)
    log_mass = total.lgamma() - (successes + 1).lgamma() - (n - successes + 1).lgamma() - n * math.log(2)
    return min(1.0, 2 * log_mass.logsumexp(0).exp().item())
