"""Intervals and calibration against closed forms and independent implementations."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sparring.evaluation.calibration import BINS, bins, calibration
from sparring.evaluation.interval import accuracy, bootstrap, wilson


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    hits, n = case
    low, high = wilson(hits, n)
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=1e-12)
    assert high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_covers_as_often_as_it_says() -> None:
    """The exact coverage at n = 50, averaged over shares: 95 % up to the lattice of the binomial."""
    n, shares = 50, torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    hits = torch.arange(n + 1, dtype=torch.float64)
    choose = torch.tensor([math.comb(n, k) for k in range(n + 1)], dtype=torch.float64)
    bounds = torch.tensor([wilson(k, n) for k in range(n + 1)], dtype=torch.float64)
    coverage = []
    for p in shares:
        mass = choose * p**hits * (1 - p) ** (n - hits)
        coverage.append(mass[(bounds[:, 0] <= p) & (p <= bounds[:, 1])].sum())
    assert torch.stack(coverage).mean().item() == pytest.approx(0.95, abs=0.01)


def test_accuracy_counts() -> None:
    row = accuracy(torch.tensor([True, True, False, True]))
    assert (row["accuracy"], row["n"]) == (0.75, 4)


def test_bootstrap_of_a_mean_is_its_normal_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)
    low, high = bootstrap(lambda rows: values[rows].mean().item(), 400, rng, resamples=4000)
    half = 1.96 * values.std().item() / 20
    assert low == pytest.approx(values.mean().item() - half, abs=0.01)
    assert high == pytest.approx(values.mean().item() + half, abs=0.01)


def test_ece_is_the_weighted_gap_of_its_bins() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 6, generator=rng)
    y = torch.randint(0, 6, (500,), generator=rng)
    result = calibration(logits, y, torch.Generator().manual_seed(0))
    gap = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in result["bins"]) / 500
    assert result["ece"] == pytest.approx(gap, abs=1e-6)
    assert result["low"] <= result["ece"] + 0.05
    assert sum(row["count"] for row in result["bins"]) == result["n"] == 500


def test_a_model_that_knows_its_odds_is_calibrated_and_an_overconfident_one_is_not() -> None:
    rng = torch.Generator().manual_seed(0)
    p = torch.rand(20000, generator=rng) * 0.5 + 0.5
    y = (torch.rand(20000, generator=rng) > p).long()
    honest = torch.stack([p.log(), (1 - p).log()], 1)
    assert calibration(honest, y, torch.Generator().manual_seed(0))["ece"] < 0.02
    certain = calibration(100 * honest, y, torch.Generator().manual_seed(0))
    assert certain["ece"] == pytest.approx(0.25, abs=0.02)


def test_bins_hold_their_own_confidences_edges_included() -> None:
    probability = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.5, 0.5]])
    rows = bins(probability, torch.tensor([0, 1, 0]))
    assert [row["count"] for row in rows] == [1, 1, 1]
    for row in rows:
        assert row["low"] - 1e-6 <= row["confidence"] <= row["high"] + 1e-6
        assert row["high"] - row["low"] == pytest.approx(1 / BINS)
