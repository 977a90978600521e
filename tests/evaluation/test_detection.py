"""Rates of detectors: closed forms, scikit-learn's answers, and what a threshold promises however many scores tie."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score, roc_curve

from sparring.evaluation.detection import at_rates, auroc, by_kind, f1, rates, roc, threshold_at
from sparring.evaluation.interval import wilson

SCORES = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.3, 0.4, 0.9, 0.95], dtype=torch.float64)
MALICIOUS = torch.tensor([False, False, False, False, True, True, True, True])


def drawn(levels: int, n: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with many ties (few levels) or hardly any."""
    chance = np.random.default_rng(seed)
    malicious = chance.uniform(size=n) < 0.3
    scores = chance.integers(0, levels, n) + levels // 3 * malicious
    return torch.from_numpy(scores.astype(np.float64) / (2 * levels)), torch.from_numpy(malicious)


def test_rates_counted_by_hand() -> None:
    """Above 0.4: one benign row of four, two attacks of four; rows at the threshold are not called attacks."""
    measured = rates(SCORES, MALICIOUS, 0.4)
    low, high = wilson(2, 4)
    assert measured["detection"] == {"rate": 0.5, "low": low, "high": high, "n": 4}
    low, high = wilson(1, 4)
    assert measured["false positives"] == {"rate": 0.25, "low": low, "high": high, "n": 4}
    assert measured["threshold"] == 0.4
    assert f1(SCORES, MALICIOUS, 0.4) == pytest.approx(2 * 2 / (2 * 2 + 1 + 2), abs=1e-15)
    assert f1(SCORES, MALICIOUS, 2.0) == 0.0


def test_the_area_counted_pair_by_pair() -> None:
    """The share of pairs in which the attack scores higher, ties half."""
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in SCORES[MALICIOUS] for b in SCORES[~MALICIOUS]]
    assert auroc(SCORES, MALICIOUS) == pytest.approx(sum(pairs) / 16, abs=1e-15)


def test_the_kinds_of_attack_are_told_apart_and_benign_rows_left_out() -> None:
    kinds = ["normal"] * 4 + ["scan", "flood", "flood", "flood"]
    measured = by_kind(SCORES, MALICIOUS, kinds, 0.4)
    assert list(measured) == ["flood", "scan"]
    assert measured["flood"]["rate"] == pytest.approx(2 / 3)
    assert (measured["flood"]["n"], measured["scan"]["n"], measured["scan"]["rate"]) == (3, 1, 0.0)
    assert (measured["flood"]["low"], measured["flood"]["high"]) == wilson(2, 3)


@pytest.mark.parametrize("levels", [2, 5, 50, 10**9])
def test_roc_and_its_area_are_scikit_learns(levels: int) -> None:
    scores, malicious = drawn(levels)
    raised, found, at = roc(scores, malicious)
    expected = roc_curve(malicious.numpy(), scores.numpy(), drop_intermediate=False)
    for ours, theirs in zip((raised, found, at), expected, strict=True):
        assert np.allclose(ours.numpy(), theirs, rtol=0, atol=1e-12, equal_nan=False)
    assert auroc(scores, malicious) == pytest.approx(roc_auc_score(malicious.numpy(), scores.numpy()), abs=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 50, 10**9])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_detection_at_a_rate_is_the_best_point_of_the_curve_within_it(levels: int, share: float) -> None:
    scores, malicious = drawn(levels)
    fpr, tpr, _ = roc_curve(malicious.numpy(), scores.numpy(), drop_intermediate=False)
    measured = at_rates(scores, malicious, (share,))[f"{100 * share:g} %"]
    assert measured["detection"]["rate"] == pytest.approx(tpr[fpr <= share].max(), abs=1e-12)
    assert measured["false positives"]["rate"] == pytest.approx(fpr[fpr <= share].max(), abs=1e-12)
    called = (scores > measured["threshold"]).numpy()
    ours, theirs = f1(scores, malicious, measured["threshold"]), f1_score(malicious.numpy(), called, zero_division=0.0)
    assert ours == pytest.approx(theirs, abs=1e-12)


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.999, 1.0]) | st.floats(0, 1), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.01, 0.05, 0.29, 0.3, 0.57, 0.99]),
)
def test_a_threshold_never_costs_more_false_alarms_than_it_may(values: list[float], share: float) -> None:
    """And the next lower score would cost more: it is as near as ties allow."""
    benign = torch.tensor(values, dtype=torch.float64)
    at = threshold_at(benign, share)
    assert Fraction(int((benign > at).sum()), len(values)) <= Fraction(str(share))
    ranked = sorted(values, reverse=True)
    below = max(v for v in values if v <= at)
    assert Fraction(sum(v >= below for v in ranked), len(values)) > Fraction(str(share))


def test_a_share_that_floating_point_cannot_hold_is_taken_as_written() -> None:
    """29 % of 100 rows are 29 rows, though 100 x 0.29 is below 29."""
    benign = torch.arange(100, dtype=torch.float64)
    assert int((benign > threshold_at(benign, 0.29)).sum()) == 29


def test_rows_that_were_at_the_threshold_stay_below_it_when_they_are_scored_again() -> None:
    """A hundred equal benign rows whose scores come out 5e-7 higher are not a hundred false alarms."""
    benign = torch.cat([torch.full((100,), 0.4), torch.tensor([0.7])]).double()
    at = threshold_at(benign, 0.01)
    assert int((benign + 5e-7 > at).sum()) == 1
    assert at == pytest.approx(0.4 + 1e-6, abs=1e-7)
    near = torch.tensor([0.4, 0.4 + 1e-8], dtype=torch.float64)
    assert int((near > threshold_at(near, 0.5)).sum()) == 1


def test_detectors_of_one_class_only() -> None:
    measured = rates(SCORES[:4], MALICIOUS[:4], 0.4)
    assert measured["detection"] is None
    assert measured["false positives"]["n"] == 4
    with pytest.raises(ValueError, match=r"both classes\. Got 0 attacks of 4 rows"):
        roc(SCORES[:4], MALICIOUS[:4])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: threshold_at(SCORES, 1.0), r"'false_positives' parameter must be a number in the range \[0, 1\)"),
        (lambda: threshold_at(SCORES, float("nan")), "'false_positives'"),
        (lambda: threshold_at(SCORES[:0], 0.1), "'benign' parameter must be a floating-point tensor"),
        (lambda: threshold_at(SCORES / 0 * 0, 0.1), "'benign' parameter must hold finite numbers. Got nan"),
        (lambda: rates(SCORES, MALICIOUS.long(), 0.1), "'malicious' parameter must be a bool tensor"),
        (lambda: rates(SCORES, MALICIOUS[:3], 0.1), "'malicious' parameter must be a bool tensor"),
        (lambda: rates(SCORES.long(), MALICIOUS, 0.1), "'scores' parameter must be a floating-point tensor"),
        (lambda: by_kind(SCORES, MALICIOUS, ["flood"], 0.1), "'kinds' parameter must have a word for each of 8"),
    ],
)
def test_bad_input_is_named(call: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()  # type: ignore[operator]
