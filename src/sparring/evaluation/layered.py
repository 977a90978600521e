"""Two layers, of which the second is asked about what the first lets pass, at one total rate of false alarms.

    y(x) = 1[ s1(x) > t1 ]  or  1[ s2(x) > t2 ]

Of any rows, with DR1 the share that the first layer calls attacks,

    DR = DR1 + (1 - DR1) P(s2 > t2 | s1 <= t1),

so that adding a layer at the same t1 can only raise detection, and can only raise false alarms. Whether it is worth
something shows only where the total rate of false alarms is the same: t1 has to go up for what the second layer costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from sparring.evaluation.detection import threshold_at

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Of the false alarms, how many the first layer may raise: what a split is chosen from."""


@dataclass(frozen=True)
class Layered:
    """Thresholds of two layers.

    Args:
        first: t1.
        second: t2.
        share: of the false alarms, how many the first layer was given.
    """

    first: float
    second: float
    share: float

    def called(self, first: Tensor, second: Tensor) -> Tensor:
        """Which rows are called attacks, bool `[N]`.

        Args:
            first, second: the scores of the layers, higher for more malicious, `[N]`.
        """
        return (first.double() > self.first) | (second.double() > self.second)

    def decided(self, first: Tensor, second: Tensor) -> Tensor:
        """Which layer called each row, int64 `[N]`: 1, 2, or 0 for neither."""
        behind = torch.where(second.double() > self.second, 2, 0)
        return torch.where(first.double() > self.first, 1, behind)


def thresholds(first: Tensor, second: Tensor, false_positives: float, share: float) -> Layered:
    """The thresholds by which at most this share of benign rows is called an attack by either layer, as near to it as
    ties allow.

    Of n rows k = floor(n `false_positives`) may be called. The first layer gets round(k `share`) of them, fewer where
    scores tie; the second gets what is left of k, on the rows that the first lets pass.

    Args:
        first, second: scores of the same benign rows, `[N]`, N >= 1.
        false_positives: in [0, 1).
        share: in [0, 1]; with 1 the second layer calls only what is above every benign row that reaches it.

    Raises:
        ValueError: for a share outside of it, or scores that do not match.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"The 'share' parameter must be a number in the range [0, 1]. Got {share!r} instead.")
    if first.shape != second.shape:
        raise ValueError(f"'first' and 'second' must be of one shape. Got {list(first.shape)}, {list(second.shape)}.")
    threshold_at(first, false_positives)  # its errors, about the rate and the scores
    n = len(first)
    allowed = floor(n * false_positives)
    if (allowed + 1) / n <= false_positives:  # rounding, as in threshold_at
        allowed += 1
    at_first = threshold_at(first, round(allowed * share) / n)
    passed = first.double() <= at_first
    left = allowed - int((~passed).sum())
    return Layered(at_first, threshold_at(second[passed], left / int(passed.sum())), share)


@dataclass(frozen=True, eq=False)
class Case:
    """What a split is judged by: one pair of layers, and what it says of rows.

    Args:
        benign: scores of both layers for benign rows, `[N]` each.
        malicious: the same for one or more sets of malicious rows (clean, attacked, of a type that the layers do not
            know), each of which counts the same.
    """

    benign: tuple[Tensor, Tensor]
    malicious: tuple[tuple[Tensor, Tensor], ...]

    def detected(self, false_positives: float, share: float) -> float:
        """The share of malicious rows that is called, averaged over the sets."""
        at = thresholds(*self.benign, false_positives, share)
        found = [float(at.called(*rows).double().mean()) for rows in self.malicious]
        return sum(found) / len(found)


def split(cases: Sequence[Case], false_positives: float, shares: Sequence[float] = SHARES) -> float:
    """The share of the false alarms for the first layer by which most is detected, averaged over the cases; of equal
    ones the largest, which leaves most to the first layer.

    Args:
        cases: none of their rows may be what the layers are judged on.
        false_positives: as for `thresholds`.
        shares: to choose from.
    """
    if not cases or not shares:
        raise ValueError("A split needs cases and shares to choose from. Got none.")
    ordered = sorted(shares, reverse=True)
    found = [sum(case.detected(false_positives, share) for case in cases) for share in ordered]
    return ordered[found.index(max(found))]
