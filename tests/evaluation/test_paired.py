"""The paired difference against published figures, exact coverage, simulation and an independent implementation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from sparring.evaluation.interval import wilson
from sparring.evaluation.paired import difference, mcnemar, newcombe

COUNTS = st.integers(0, 60)
TABLES = st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(lambda table: sum(table) > 0)


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[Tensor, Tensor]:
    """Bool tensors with these counts."""
    a = torch.tensor([True] * both + [True] * only_a + [False] * only_b + [False] * neither)
    b = torch.tensor([True] * both + [False] * only_a + [True] * only_b + [False] * neither)
    return a, b


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, table II
        ((59, 6, 16, 80), -0.1186, -0.0046),  # Fagerland, Lydersen & Laake 2017, chapter 8
    ],
)
def test_newcombe_is_the_published_figure(table: tuple[int, int, int, int], low: float, high: float) -> None:
    assert newcombe(*table) == pytest.approx((low, high), abs=5e-5)


@given(TABLES)
def test_newcombe_turns_with_its_arguments_and_holds_the_difference(table: tuple[int, int, int, int]) -> None:
    both, only_a, only_b, neither = table
    low, high = newcombe(*table)
    share = (only_a - only_b) / sum(table)
    assert -1 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert newcombe(both, only_b, only_a, neither) == pytest.approx((-high, -low), abs=1e-12)
    assert newcombe(neither, only_a, only_b, both) == pytest.approx((low, high), abs=1e-12)  # errors for hits


@given(st.integers(1, 60), st.integers(0, 60))
def test_where_nothing_correlates_newcombe_squares_and_adds_two_wilsons(hits: int, misses: int) -> None:
    """b is always right, so that phi is zero."""
    n = hits + misses
    low, high = newcombe(hits, 0, misses, 0)
    (p_low, p_high), (q_low, q_high), p = wilson(hits, n), wilson(n, n), hits / n
    assert low == pytest.approx(max(-1, p - 1 - math.hypot(p - p_low, q_high - 1)), abs=1e-12)
    assert high == pytest.approx(min(1, p - 1 + math.hypot(p_high - p, 1 - q_low)), abs=1e-12)


@pytest.mark.parametrize(
    "cells",
    [
        (0.5, 0.05, 0.05, 0.4),  # two runs that agree about most
        (0.45, 0.15, 0.02, 0.38),
        (0.85, 0.1, 0.01, 0.04),  # near one
        (0.02, 0.02, 0.08, 0.88),  # near zero
        (0.25, 0.25, 0.25, 0.25),  # no correlation
        (0.05, 0.5, 0.4, 0.05),  # negative correlation
    ],
)
def test_newcombe_covers_as_often_as_it_says(cells: tuple[float, float, float, float]) -> None:
    """The exact coverage at n = 40: the probability of every possible table whose interval holds the truth."""
    n, truth = 40, cells[1] - cells[2]
    coverage = 0.0
    for both in range(n + 1):
        for only_a in range(n + 1 - both):
            for only_b in range(n + 1 - both - only_a):
                table = (both, only_a, only_b, n - both - only_a - only_b)
                low, high = newcombe(*table)
                if low <= truth <= high:
                    log_mass = math.lgamma(n + 1) - sum(math.lgamma(k + 1) for k in table)
                    coverage += math.exp(log_mass + sum(k * math.log(c) for k, c in zip(table, cells, strict=True)))
    assert 0.935 < coverage < 0.99


def test_the_interval_of_two_simulated_runs_covers_and_their_test_keeps_its_level(rng: torch.Generator) -> None:
    covered = rejected = 0
    trials, n = 1000, 200
    for _ in range(trials):
        hard = torch.rand(n, generator=rng)  # what is hard for one is hard for the other
        a, b = (torch.rand(n, generator=rng) > 0.3 * hard + 0.5 * (hard > 0.8) for _ in range(2))
        row = difference(a, b)
        covered += row["low"] <= 0 <= row["high"]
        rejected += row["p"] < 0.05
    assert covered / trials == pytest.approx(0.95, abs=0.02)
    assert rejected / trials < 0.05


def test_pairing_finds_what_two_intervals_side_by_side_hide() -> None:
    a, b = answers(450, 20, 2, 528)
    row = difference(a, b)
    assert row["low"] > 0
    assert row["p"] < 0.001
    assert wilson(470, 1000)[0] < wilson(452, 1000)[1]


@given(TABLES)
def test_difference_counts(table: tuple[int, int, int, int]) -> None:
    a, b = answers(*table)
    shuffle = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
    row = difference(a[shuffle], b[shuffle])
    assert row["difference"] == pytest.approx(a.double().mean().item() - b.double().mean().item(), abs=1e-12)
    assert (row["low"], row["high"]) == newcombe(*table)
    assert (row["only_a"], row["only_b"], row["n"]) == (table[1], table[2], sum(table))
    assert row["p"] == mcnemar(table[1], table[2])


def test_the_same_answers_twice_differ_by_nothing_known_no_better_than_n_allows() -> None:
    for n in (1, 10, 1000):
        right = torch.arange(n) % 2 == 0
        row = difference(right, right)
        assert (row["difference"], row["p"]) == (0.0, 1.0)
        assert row["low"] < 0 < row["high"]


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_scipys_binomial(only_a: int, only_b: int) -> None:
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_disagreements_neither_overflows_nor_rounds_away() -> None:
    assert mcnemar(50_500, 49_500) == pytest.approx(binomtest(50_500, 100_000).pvalue, rel=1e-7)
    assert mcnemar(0, 1000) == pytest.approx(2.0**-999, rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(3), torch.ones(3)),
        (torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool)),
        (torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.bool)),
        (torch.ones((2, 2), dtype=torch.bool), torch.ones((2, 2), dtype=torch.bool)),
    ],
)
def test_what_cannot_be_paired_is_refused(a: Tensor, b: Tensor) -> None:
    with pytest.raises(ValueError, match=r"bool tensors \[N\] about the same examples"):
        difference(a, b)
