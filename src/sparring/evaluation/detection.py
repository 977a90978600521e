"""How well scores tell attacks from benign traffic: rates with intervals at a threshold, and all thresholds at once.

A row is called an attack where its score is above the threshold, not where it is equal. Thresholds are fixed on benign
rows alone, so no attack is needed to choose one, and on rows that are not those a detector is then judged on.
"""

from collections.abc import Sequence
from math import floor, inf
from typing import Any

import torch
from torch import Tensor

from sparring.evaluation.interval import wilson

MARGIN = 1e-6
"""The most that a threshold is put above the score that it must not call an attack: scores computed again, in batches
of another size, differ by less, and rows that are equal would raise false alarms together."""


def threshold_at(benign: Tensor, false_positives: float) -> float:
    """The threshold that calls at most this share of benign rows an attack, and as near to it as ties allow.

    With k = floor(n `false_positives`) it is just above the score of rank k + 1 from the top: at most k scores are
    above it, fewer where that score occurs more than once. "Just" is half the way to the next score that occurs, and
    1e-6 at most.

    Args:
        benign: scores of benign rows, higher for more malicious, `[N]`, N >= 1.
        false_positives: in [0, 1).

    Raises:
        ValueError: for a share outside of it, and scores that are none.
    """
    ordered = _scores(benign, "benign").sort(descending=True).values
    n = len(ordered)
    if not 0 <= false_positives < 1:
        raise ValueError(
            f"The 'false_positives' parameter must be a number in the range [0, 1). Got {false_positives!r} instead."
        )
    allowed = floor(n * false_positives)
    if (allowed + 1) / n <= false_positives:  # 0.29 x 100 is 28.999999999999996 in floating point
        allowed += 1
    at = float(ordered[allowed])
    larger = ordered[ordered > at]
    gap = float(larger[-1]) - at if len(larger) else inf
    return at + min(MARGIN, gap / 2)


def rates(scores: Tensor, malicious: Tensor, threshold: float) -> dict[str, Any]:
    """What a detector finds and what it raises for nothing.

    Args:
        scores: higher for more malicious, `[N]`.
        malicious: which rows are attacks, bool `[N]`.
        threshold: a row above it is called an attack.

    Returns:
        `{"detection", "false positives", "threshold"}`, the first two `{"rate", "low", "high", "n"}` with the 95 %
        interval of Wilson over the n attacks and the n benign rows; None where there are none.
    """
    scores, malicious = _checked(scores, malicious)
    called = scores > threshold
    return {
        "detection": _share(called[malicious]),
        "false positives": _share(called[~malicious]),
        "threshold": threshold,
    }


def by_kind(scores: Tensor, malicious: Tensor, kinds: Sequence[str], threshold: float) -> dict[str, Any]:
    """The detection of each kind of attack: `{kind: {"rate", "low", "high", "n"}}`, in alphabetical order.

    Args:
        scores, malicious, threshold: as for `rates`.
        kinds: what each row is, N words; those of benign rows do not matter.
    """
    scores, malicious = _checked(scores, malicious)
    if len(kinds) != len(scores):
        raise ValueError(f"The 'kinds' parameter must have a word for each of {len(scores)} rows. Got {len(kinds)}.")
    called, places = scores > threshold, dict[str, list[int]]()
    for row in malicious.nonzero().squeeze(1).tolist():
        places.setdefault(str(kinds[row]), []).append(row)
    return {kind: _share(called[torch.tensor(places[kind])]) for kind in sorted(places)}


def roc(scores: Tensor, malicious: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every point that a threshold can reach.

    Args:
        scores, malicious: as for `rates`, with at least one row of each class.

    Returns:
        `(false positives, detection, scores)`, each float64 `[P + 1]` for P different scores in falling order: the
        shares of rows whose score is at least this one; the first point, with score inf, calls nothing an attack.
    """
    scores, malicious = _checked(scores, malicious)
    attacks = int(malicious.sum())
    if not 0 < attacks < len(scores):
        raise ValueError(f"There must be rows of both classes. Got {attacks} attacks of {len(scores)} rows.")
    ordered, order = scores.sort(descending=True)
    hits = malicious[order].double().cumsum(0)
    last = torch.cat([(ordered[1:] != ordered[:-1]).nonzero().squeeze(1), torch.tensor([len(ordered) - 1])])
    start = torch.zeros(1, dtype=torch.float64)
    found = torch.cat([start, hits[last]])
    raised = torch.cat([start, last.double() + 1 - hits[last]])
    return raised / (len(scores) - attacks), found / attacks, torch.cat([start + inf, ordered[last]])


def auroc(scores: Tensor, malicious: Tensor) -> float:
    """The area under the points of `roc`, in [0, 1]: the probability that an attack scores higher than a benign row,
    ties counted half."""
    raised, found, _ = roc(scores, malicious)
    return float(torch.trapezoid(found, raised))


def at_rates(scores: Tensor, malicious: Tensor, shares: Sequence[float] = (0.01, 0.05)) -> dict[str, Any]:
    """The detection at fixed rates of false alarms, with each threshold fixed on the benign rows given here.

    Two detectors are compared so. What one will do in service is `rates` at the threshold that it came with.

    Args:
        scores, malicious: as for `rates`, with at least one benign row.
        shares: of benign rows that may be called attacks, each in [0, 1).

    Returns:
        `{"1 %": rates(...), "5 %": rates(...)}`.
    """
    scores, malicious = _checked(scores, malicious)
    benign = scores[~malicious]
    return {f"{100 * share:g} %": rates(scores, malicious, threshold_at(benign, share)) for share in shares}


def f1(scores: Tensor, malicious: Tensor, threshold: float) -> float:
    """2 TP / (2 TP + FP + FN), in [0, 1]; 0 where nothing is found. It depends on the share of attacks in the rows."""
    scores, malicious = _checked(scores, malicious)
    called = scores > threshold
    hits, wrong = int((called & malicious).sum()), int((called != malicious).sum())
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


def _share(called: Tensor) -> dict[str, Any] | None:
    n = len(called)
    if n == 0:
        return None
    hits = int(called.sum())
    low, high = wilson(hits, n)
    return {"rate": hits / n, "low": low, "high": high, "n": n}


def _scores(scores: Tensor, name: str) -> Tensor:
    """As float64 on the CPU."""
    if scores.dim() != 1 or len(scores) == 0 or not scores.is_floating_point():
        got = f"{scores.dtype} {list(scores.shape)}"
        raise ValueError(f"The {name!r} parameter must be a floating-point tensor [N], N >= 1. Got {got} instead.")
    scores = scores.detach().double().cpu()
    if not bool(scores.isfinite().all()):
        raise ValueError(
            f"The {name!r} parameter must hold finite numbers. Got {float(scores[~scores.isfinite()][0])!r}."
        )
    return scores


def _checked(scores: Tensor, malicious: Tensor) -> tuple[Tensor, Tensor]:
    scores = _scores(scores, "scores")
    if malicious.dtype != torch.bool or malicious.shape != scores.shape:
        raise ValueError(
            f"The 'malicious' parameter must be a bool tensor [{len(scores)}]. "
            f"Got {malicious.dtype} {list(malicious.shape)} instead."
        )
    return scores, malicious.cpu()
