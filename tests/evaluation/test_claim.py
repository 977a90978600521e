"""Verdicts: Student's t against the published table, the rule on constructed data, coverage by simulation."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sparring.evaluation.claim import (
    Arm,
    Claim,
    Verdict,
    over_seeds,
    overfitting,
    paired,
    t_probability,
    t_quantile,
    verdict,
)
from sparring.evaluation.claim_table import table, text


def arm(name: str, shares: Sequence[float], n: int = 1000, doubts: tuple[str, ...] = ()) -> Arm:
    """Each seed gets the first share of the images right: as few disagreements as there can be."""
    rights = {i: {"robust accuracy": torch.arange(n) < round(share * n)} for i, share in enumerate(shares)}
    return Arm(name, rights, doubts)


def judged(method: Arm, baseline: Arm, **rest: object) -> Verdict:
    return verdict(Claim("m", "better?", method, baseline, **rest))


@pytest.mark.parametrize(
    ("df", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (29, 2.045), (120, 1.980)],
)
def test_the_quantiles_are_those_of_the_published_table(df: int, quantile: float) -> None:
    assert t_quantile(df) == pytest.approx(quantile, abs=5e-4)
    assert t_probability(t_quantile(df), df) == pytest.approx(0.95, abs=1e-12)


def test_one_degree_of_freedom_is_cauchy_and_two_have_a_closed_form_and_many_are_normal() -> None:
    for t in (0.0, 0.3, 1.0, 7.0):
        assert t_probability(t, 1) == pytest.approx(2 / math.pi * math.atan(t), abs=1e-14)
        assert t_probability(t, 2) == pytest.approx(t / math.sqrt(2 + t * t), abs=1e-14)
    assert t_quantile(100_000, 0.99) == pytest.approx(2.5758, abs=1e-3)
    with pytest.raises(ValueError, match="df >= 1"):
        t_quantile(0)


def test_the_interval_over_seeds_is_the_textbook_one() -> None:
    """Values 1, 2, 3: mean 2, s = 1, standard error 1/sqrt(3), t_2 = 4.3027."""
    found = over_seeds([1.0, 2.0, 3.0])
    assert (found["mean"], found["df"], found["n"]) == (2.0, 2, 3)
    assert found["standard_error"] == pytest.approx(3**-0.5)
    assert found["high"] - 2 == pytest.approx(4.302653 / 3**0.5, abs=1e-6)
    assert over_seeds([0.5]) == {
        "mean": 0.5, "standard_error": None, "low": None, "high": None, "df": None, "n": 1
    }  # fmt: skip


def test_the_image_error_is_the_analysis_of_variance_written_out() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 40, generator=rng) for _ in range(2))
    d = (a.double() - b.double()).tolist()
    seeds, n = 3, 40
    grand = sum(map(sum, d)) / (seeds * n)
    row = [sum(r) / n for r in d]
    column = [sum(d[i][j] for i in range(seeds)) / seeds for j in range(n)]
    between = seeds * sum((c - grand) ** 2 for c in column) / (n - 1)
    within = sum((d[i][j] - row[i] - column[j] + grand) ** 2 for i in range(seeds) for j in range(n))
    variance = (between - within / ((seeds - 1) * (n - 1))) / (seeds * n)
    assert paired(a, b)["image_error"] ** 2 == pytest.approx(max(variance, 0.0), abs=1e-12)
    shift = torch.rand(1, 40, generator=rng)  # the same images are harder for every seed
    assert paired(a + 3 * shift, b)["image_error"] == pytest.approx((9 * shift.var().item() / n) ** 0.5, rel=0.2)


def test_equal_differences_in_every_image_leave_the_t_interval_and_the_rule_of_three() -> None:
    per_seed = torch.tensor([[0.01], [0.05], [0.03]], dtype=torch.float64)
    found = paired(per_seed.expand(3, 100), torch.zeros(3, 100))
    t_half = found["over_seeds"]["high"] - found["difference"]
    assert t_half == pytest.approx(4.302653 * 0.02 / 3**0.5, abs=1e-6)
    assert found["image_error"] == pytest.approx(0, abs=1e-9)
    assert found["high"] - found["difference"] == pytest.approx(math.hypot(t_half, 3 / 100))


def test_an_interval_above_the_least_effect_supports_one_below_does_not_one_around_it_is_inconclusive() -> None:
    better, worse = arm("m", (0.60, 0.61, 0.605)), arm("b", (0.50, 0.505, 0.51))
    found = judged(better, worse)
    assert found.verdict == "supported"
    assert found.effect["difference"] == pytest.approx(0.10)
    assert found.effect["low"] > 0
    assert judged(worse, better).verdict == "not supported"
    assert judged(better, worse, least_effect=0.10).verdict == "inconclusive"
    assert judged(better, worse, least_effect=0.20).verdict == "not supported"
    assert judged(worse, better, least_effect=-0.20).verdict == "supported"
    assert judged(worse, better, direction="lower").verdict == "supported"
    assert judged(better, worse, direction="lower").verdict == "not supported"


def test_equal_arms_are_inconclusive_against_zero_and_supported_against_a_margin() -> None:
    same = arm("m", (0.5, 0.5, 0.5))
    assert judged(same, same).verdict == "inconclusive"
    assert judged(same, same, least_effect=-0.01).verdict == "supported"
    few = arm("m", (0.5, 0.5, 0.5), n=100)
    assert judged(few, few, least_effect=-0.01).verdict == "inconclusive"  # 100 images cannot show one point


def test_one_seed_is_always_inconclusive() -> None:
    found = judged(arm("m", (0.9,)), arm("b", (0.1,)))
    assert found.verdict == "inconclusive"
    assert found.effect["standard_error"] is None
    assert found.effect["by_seed"][0]["low"] > 0.7


def test_a_failed_check_cannot_decide_in_favour_of_its_own_arm() -> None:
    high, low = (0.60, 0.61, 0.605), (0.50, 0.505, 0.51)
    doubted = ("gradient-alive",)
    assert judged(arm("m", high, doubts=doubted), arm("b", low)).verdict == "inconclusive"
    assert judged(arm("m", high), arm("b", low, doubts=doubted)).verdict == "supported"
    assert judged(arm("m", low), arm("b", high, doubts=doubted)).verdict == "inconclusive"
    assert judged(arm("m", low, doubts=doubted), arm("b", high)).verdict == "not supported"


def test_each_seed_has_newcombes_interval_and_mcnemars_test() -> None:
    rows = judged(arm("m", (0.6, 0.61)), arm("b", (0.5, 0.505))).effect["by_seed"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert [row["only_a"] for row in rows] == [100, 105]
    assert rows[0]["p"] == pytest.approx(2 * 0.5**100)


@pytest.mark.parametrize(("seed_spread", "image_spread"), [(0.02, 0.0), (0.0, 0.2), (0.01, 0.2)])
def test_the_interval_covers_another_seed_and_other_images(seed_spread: float, image_spread: float) -> None:
    """d_ij = 0.05 + a_i + b_j + e_ij: at least 95 % of 400 intervals cover 0.05, to three standard errors; where images
    differ, the t interval over seeds alone does not, and that is why it is not the one that decides."""
    rng = torch.Generator().manual_seed(1)
    hits = narrow = 0
    for _ in range(400):
        a = seed_spread * torch.randn(4, 1, generator=rng)
        b = image_spread * torch.randn(1, 200, generator=rng)
        d = 0.05 + a + b + 0.05 * torch.randn(4, 200, generator=rng)
        found = paired(d, torch.zeros_like(d))
        hits += found["low"] <= 0.05 <= found["high"]
        narrow += found["over_seeds"]["low"] <= 0.05 <= found["over_seeds"]["high"]
    assert hits / 400 >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5
    assert (narrow / 400 < 0.9) == (image_spread > 0)


def test_verdicts_on_true_ties_are_rarely_wrong() -> None:
    """Two methods of equal accuracy, whose seeds and images differ: a decided verdict in at most 5 % of 300 worlds."""
    rng = torch.Generator().manual_seed(2)
    decided = 0
    for _ in range(300):
        ease = torch.rand(1, 200, generator=rng)
        rights = [(torch.rand(3, 200, generator=rng) < ease) for _ in range(2)]
        arms = [Arm("x", {i: {"robust accuracy": right[i]} for i in range(3)}) for right in rights]
        decided += judged(*arms).verdict != "inconclusive"
    assert decided <= 0.05 * 300 + 3 * (300 * 0.05 * 0.95) ** 0.5


def test_the_overfitting_gap_is_best_minus_last_and_decides_where_lower_is_better() -> None:
    best, last = torch.arange(1000) < 600, torch.arange(1000) < 450
    gap = overfitting(best, last)
    assert gap.mean().item() == pytest.approx(0.15)
    assert gap.unique().tolist() == [0.0, 1.0]
    assert overfitting(last, best).mean().item() == pytest.approx(-0.15)
    with pytest.raises(ValueError, match="bool tensors"):
        overfitting(best, last.double())
    wide = Arm("b", {i: {"overfitting gap": gap.roll(i)} for i in range(3)})
    none = Arm("m", {i: {"overfitting gap": torch.zeros(1000, dtype=torch.float64)} for i in range(3)})
    found = judged(none, wide, metric="overfitting gap", direction="lower")
    assert found.verdict == "supported"
    assert found.effect["difference"] == pytest.approx(0.15)
    assert "p" not in found.effect["by_seed"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"direction": "up"}, "'direction' parameter must be higher or lower. Got 'up'"),
        ({"least_effect": 1.0}, "'least_effect' parameter must be a number in the range"),
        ({"baseline": arm("b", (0.5, 0.5))}, "must have the same seeds"),
        ({"metric": "speed"}, "must have the metric 'speed'"),
        ({"baseline": arm("b", (0.5, 0.5, 0.5), n=10)}, "same test images"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, object], words: str) -> None:
    whole = {"method": arm("m", (0.5, 0.5, 0.5)), "baseline": arm("b", (0.5, 0.5, 0.5)), **change}
    with pytest.raises(ValueError, match=words):
        verdict(Claim("m", "better?", **whole))


def record_of(name: str, rights: Tensor, base: Tensor) -> dict[str, object]:
    """A saved claim, with only what a table reads."""
    arms = [Arm(n, {i: {"robust accuracy": row} for i, row in enumerate(r)}) for n, r in ((name, rights), ("b", base))]
    found = judged(*arms)

    def row(role: str, title: str, r: Tensor) -> dict[str, object]:
        shares = r.double().mean(1).tolist()
        same = {key: over_seeds(shares) for key in ("clean", "robust", "gap", "seconds", "step_ratio")}
        return {"name": title, "role": role, "epochs": 3, "runs": [f"{title}-0"], **same}

    method = row("equal-time", f"{name}, equal time", rights) | {"verdict": found.verdict, "effect": found.effect}
    trial = {"data": "digits", "norms": ["linf"], "eps": [0.15], "suite": "quick"}
    effect = {"method": name, "arm": "equal-time", "trial": trial, **found.effect}
    return {"verdict": found.verdict, "effect": effect, "arms": [row("baseline", "b", base), method], "seeds": [0, 1]}


def test_the_table_has_a_shared_baseline_once_and_every_verdict() -> None:
    base, better = (torch.arange(100).expand(2, 100) < share for share in (50, 80))
    claims = [record_of("one", better, base), record_of("two", base, base)]
    lines = table(claims).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["b", "one, equal time", "two, equal time"]
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["baseline", "supported", "inconclusive"]
    assert len({line.count("|") for line in lines}) == 1
    said = text(claims[0])
    assert said.endswith("verdict: supported (least effect +0.0 points, equal time)")
    assert "+30.0" in said
