"""A claim that one way to train is better than another, and the verdict that paired measurements allow.

Two arms, the method and its baseline, are trained from the same seeds and judged on the same test images, so every
comparison is paired twice: seed by seed and image by image. Nothing is trained here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.evaluation.paired import difference

Z = 1.959963984540054  # the 0.975 quantile of the normal distribution

METRICS = ("robust accuracy", "clean accuracy", "overfitting gap")


@dataclass(frozen=True)
class Arm:
    """One way to train, measured.

    Args:
        name: as a reader calls it.
        results: for each seed, each metric's value on each test image `[N]`, bool or float; the metric is their mean.
            Images stand in the same order for every seed and arm.
        doubts: names of evaluation checks that failed: the arm's robust accuracy may be too high.
    """

    name: str
    results: Mapping[int, Mapping[str, Tensor]]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """That the method's metric is better than the baseline's by at least the least effect.

    Args:
        name: of the method.
        question: in words.
        method, baseline: the two arms, with the same seeds.
        metric: one of `METRICS`, in the arms' results.
        direction: whether a higher or a lower metric is better.
        least_effect: by how much at least, in the metric's unit, in (-1, 1); negative allows the method to be worse.
    """

    name: str
    question: str
    method: Arm
    baseline: Arm
    metric: str = "robust accuracy"
    direction: Literal["higher", "lower"] = "higher"
    least_effect: float = 0.0

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"The 'direction' parameter must be higher or lower. Got {self.direction!r} instead.")
        if not -1 < self.least_effect < 1:
            raise ValueError(
                "The 'least_effect' parameter must be a number in the range (-1, 1). "
                f"Got {self.least_effect!r} instead."
            )
        if set(self.method.results) != set(self.baseline.results) or not self.method.results:
            raise ValueError(
                "The two arms must have the same seeds, at least one. Got "
                f"{sorted(self.method.results)} and {sorted(self.baseline.results)}."
            )


@dataclass(frozen=True)
class Verdict:
    """The answer, in one of three words, and the figures that it follows from, as JSON types."""

    verdict: Literal["supported", "not supported", "inconclusive"]
    effect: dict[str, Any]


def verdict(claim: Claim) -> Verdict:
    """The rule. Let d be how much better the method is (method minus baseline, or the reverse where lower is better),
    with the 95 % interval of `paired`.

    - supported: the interval lies wholly above the least effect;
    - not supported: it lies wholly below;
    - inconclusive: it contains the least effect; or there is one seed; or the side that won is in doubt: a failed
      check says that an arm's robust accuracy may be too high, so it cannot be what decides in that arm's favour.
    """
    seeds = sorted(claim.method.results)
    method, baseline = (_stacked(arm, claim.metric, seeds) for arm in (claim.method, claim.baseline))
    if method.shape != baseline.shape:
        raise ValueError(
            "The two arms must be judged on the same test images. "
            f"Got {method.shape[1]} and {baseline.shape[1]} of them."
        )
    first, second = (method, baseline) if claim.direction == "higher" else (baseline, method)
    found = paired(first, second)
    answer: Literal["supported", "not supported", "inconclusive"] = "inconclusive"
    if found["low"] is not None and found["low"] > claim.least_effect and not claim.method.doubts:
        answer = "supported"
    if found["high"] is not None and found["high"] < claim.least_effect and not claim.baseline.doubts:
        answer = "not supported"
    effect = {
        "question": claim.question,
        "metric": claim.metric,
        "direction": claim.direction,
        "least_effect": claim.least_effect,
        **found,
        "by_seed": by_seed(claim, seeds),
        "doubts": {"method": list(claim.method.doubts), "baseline": list(claim.baseline.doubts)},
    }
    return Verdict(answer, effect)


def paired(a: Tensor, b: Tensor) -> dict[str, Any]:
    """The mean of a minus that of b over seeds and images, with an interval for another seed and other images.

    With d_i the difference of seed i, over S seeds, the t interval is d +- t_{S-1} s / sqrt(S). It answers for the
    images at hand; what other images would change is v, the variance of the images' main effect,

        v = s_images^2 / N - s_rest^2 / (S N)   (not below 0),

    s_images of the differences averaged over seeds, s_rest of what neither seed nor image explains. Its half-width
    1.96 sqrt(v) is not below 3 / N, the rule of three: N images on which two models never disagree do not show that
    they are equal (Hanley & Lippman-Hand, "If nothing goes wrong, is everything all right?", 1983). The two half-widths
    are joined by square-and-add, as in Newcombe 1998 and Zou & Donner, "Construction of confidence limits about effect
    measures", 2008: the interval is never narrower than the t interval.

    Args:
        a, b: `[S, N]`, S >= 1 seeds and N >= 2 images.

    Returns:
        `{"difference", "standard_error", "low", "high", "over_seeds": {"low", "high", "df"}, "image_error", "seeds",
        "n"}`: the standard error is that over seeds; what one seed cannot give is None.
    """
    if a.shape != b.shape or a.dim() != 2 or a.shape[0] < 1 or a.shape[1] < 2:
        raise ValueError(f"a and b must be [S >= 1, N >= 2] alike. Got {list(a.shape)} and {list(b.shape)}.")
    d = a.double() - b.double()
    seeds, n = d.shape
    per_seed, per_image, mean = d.mean(1), d.mean(0), d.mean()
    found: dict[str, Any] = {"difference": mean.item(), "standard_error": None, "low": None, "high": None}
    if seeds == 1:
        image_error = (per_image.var() / n).sqrt().item()
        return {**found, "over_seeds": None, "image_error": image_error, "seeds": 1, "n": n}
    rest = d - per_seed[:, None] - per_image + mean
    s_rest = rest.square().sum() / ((seeds - 1) * (n - 1))
    image_error = (per_image.var() / n - s_rest / (seeds * n)).clamp(min=0).sqrt().item()
    seeds_only = over_seeds(per_seed.tolist())
    half = math.hypot(t_quantile(seeds - 1) * seeds_only["standard_error"], max(Z * image_error, 3 / n))
    return {
        "difference": mean.item(),
        "standard_error": seeds_only["standard_error"],
        "low": mean.item() - half,
        "high": mean.item() + half,
        "over_seeds": {name: seeds_only[name] for name in ("low", "high", "df")},
        "image_error": image_error,
        "seeds": seeds,
        "n": n,
    }


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """`{"mean", "standard_error", "low", "high", "df", "n"}` of one value for each seed, with the 95 % t interval on
    n - 1 degrees of freedom; all but the mean and n are None for a single seed.
    """
    n = len(values)
    mean = sum(values) / n
    if n == 1:
        return {"mean": mean, "standard_error": None, "low": None, "high": None, "df": None, "n": 1}
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = t_quantile(n - 1) * error
    return {"mean": mean, "standard_error": error, "low": mean - half, "high": mean + half, "df": n - 1, "n": n}


def by_seed(claim: Claim, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """For each seed how much better the method is; where the metric is right or wrong per image, with Newcombe's
    interval and McNemar's test over the images."""
    rows = []
    for seed in seeds:
        a, b = claim.method.results[seed][claim.metric], claim.baseline.results[seed][claim.metric]
        if claim.direction == "lower":
            a, b = b, a
        if a.dtype == b.dtype == torch.bool:
            rows.append({"seed": seed, **difference(a, b)})
        else:
            rows.append({"seed": seed, "difference": (a.double() - b.double()).mean().item(), "n": len(a)})
    return rows


def overfitting(best: Tensor, last: Tensor) -> Tensor:
    """The robust-overfitting gap of each image `[N]`, in {-1, 0, 1}: right under attack in the best checkpoint minus
    right in the last one. Its mean is how much robust accuracy training lost again after its best epoch (Rice, Wong,
    Kolter, "Overfitting in adversarially robust deep learning", 2020).

    Args:
        best, last: bool `[N]`, the same images.
    """
    if best.shape != last.shape or best.dtype != torch.bool or last.dtype != torch.bool:
        raise ValueError(
            "best and last must be bool tensors [N] about the same images. "
            f"Got {best.dtype} {list(best.shape)} and {last.dtype} {list(last.shape)}."
        )
    return best.double() - last.double()


def t_probability(t: float, df: int) -> float:
    """P[|T| <= t] of Student's t with df degrees of freedom, a finite sum: Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = df % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(df // 2):
        total += term
        term *= square * (2 * k + 2) / (2 * k + 3) if odd else square * (2 * k + 1) / (2 * k + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(df: int, level: float = 0.95) -> float:
    """The t with P[|T| <= t] = level. Raises ValueError unless df >= 1 and level is in (0, 1)."""
    if df < 1 or not 0 < level < 1:
        raise ValueError(f"A t quantile needs df >= 1 and a level in (0, 1). Got df {df!r} and level {level!r}.")
    low, high = 0.0, 1.0
    while t_probability(high, df) < level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if t_probability(middle, df) < level else (low, middle)
    return high


def _stacked(arm: Arm, metric: str, seeds: Sequence[int]) -> Tensor:
    missing = [seed for seed in seeds if metric not in arm.results[seed]]
    if missing:
        raise ValueError(
            f"The arm {arm.name!r} must have the metric {metric!r} for every seed. Seed {missing[0]} has not."
        )
    return torch.stack([arm.results[seed][metric].double() for seed in seeds])
