"""Calibration figures against closed forms and torchmetrics, and temperature scaling against what it must do."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from sparring.evaluation.calibration import BINS, adaptive_ece, brier, calibration, ece, expected_error, nll
from sparring.evaluation.interval import bootstrap
from sparring.evaluation.temperature import BOUND, calibrated, fit_temperature


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(n=400, classes=5, sharpness=2.0, seed=0):
    """Logits, and labels drawn from their own softmax: calibrated up to chance."""
    logits = sharpness * torch.randn(n, classes, generator=seeded(seed), dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=seeded(seed + 1))[:, 0]


@given(st.integers(0, 100), st.integers(2, 8), st.floats(0.1, 8))
def test_ece_is_torchmetrics(seed, classes, sharpness):
    logits, y = drawn(300, classes, sharpness, seed)
    confidence, prediction = logits.softmax(1).max(1)
    expected = multiclass_calibration_error(logits.softmax(1), y, classes, n_bins=BINS, norm="l1")
    assert ece(confidence, prediction == y) == pytest.approx(float(expected), abs=1e-6)


def test_the_interval_of_ece_is_the_bootstrap_of_torchmetrics():
    logits, y = drawn(200)

    def statistic(rows):
        return float(multiclass_calibration_error(logits.softmax(1)[rows], y[rows], 5, n_bins=BINS, norm="l1"))

    expected = bootstrap(statistic, 200, seeded(3))
    rng = seeded(3)
    row = calibration(logits, y, rng)
    assert (row["low"], row["high"]) == pytest.approx(expected, abs=1e-6)
    assert expected_error(logits, y, seeded(3)) == {key: row[key] for key in ("ece", "low", "high")}
    after = seeded(3)
    bootstrap(statistic, 200, after)
    assert torch.equal(rng.get_state(), after.get_state())  # as many draws as one bootstrap, however many figures


def test_every_figure_has_its_interval_and_is_json():
    logits, y = drawn()
    row = calibration(logits.float(), y, seeded())
    assert set(row) == {"ece", "low", "high", "n", "bins", "adaptive_ece", "brier", "nll"}
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    for name in ("brier", "nll"):
        part = row[name]
        assert part["low"] < part["value"] < part["high"]
    assert row["adaptive_ece"]["low"] < row["adaptive_ece"]["high"]
    for name, each in (("brier", brier(logits.softmax(1), y)), ("nll", nll(logits, y))):
        assert row[name]["value"] == pytest.approx(each.mean().item(), abs=1e-6)
        half = 1.96 * each.std().item() / 20  # the normal interval of a mean of 400
        assert row[name]["low"] == pytest.approx(each.mean().item() - half, abs=0.3 * half)
        assert row[name]["high"] == pytest.approx(each.mean().item() + half, abs=0.3 * half)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("p", [0.55, 0.8, 0.97])
def test_one_confidence_throughout_has_closed_forms(share, p):
    """Confidence p, right in a share of n: both errors are |p - share|, Brier's and the likelihood two-valued."""
    n = 200
    y = (torch.arange(n) >= share * n).long()
    row = calibration(torch.tensor([[p, 1 - p]], dtype=torch.float64).log().expand(n, 2), y, seeded())
    assert row["ece"] == pytest.approx(abs(p - share))
    assert row["adaptive_ece"]["value"] == pytest.approx(abs(p - share))
    assert row["brier"]["value"] == pytest.approx(share * 2 * (1 - p) ** 2 + (1 - share) * 2 * p**2)
    assert row["nll"]["value"] == pytest.approx(-share * math.log(p) - (1 - share) * math.log(1 - p))


@given(st.integers(1, 20), st.integers(0, 10**6))
def test_adaptive_ece_is_ece_where_confidences_are_spread_evenly(each, seed):
    confidence = (torch.arange(BINS * each, dtype=torch.float64) + 0.5) / (BINS * each)
    order = torch.randperm(len(confidence), generator=seeded(seed))
    right = torch.rand(len(confidence), generator=seeded(seed)) < 0.6
    assert adaptive_ece(confidence[order], right[order]) == pytest.approx(ece(confidence, right))


def test_adaptive_bins_are_equally_full():
    """Five hundred confidences above 0.9 are one bin of ECE, where errors cancel, and fifteen adaptive ones."""
    confidence = torch.linspace(0.94, 0.99, 600, dtype=torch.float64)
    right = torch.arange(600) >= 40  # the least sure fifteenth is always wrong
    accuracy, mean = 560 / 600, confidence.mean().item()
    assert ece(confidence, right) == pytest.approx(abs(accuracy - mean))
    parts = (confidence - right.double()).view(15, 40).mean(1).abs().mean().item()
    assert adaptive_ece(confidence, right) == pytest.approx(parts)
    assert adaptive_ece(confidence, right) > 2 * ece(confidence, right)
    mixed = torch.randperm(600, generator=seeded())
    assert adaptive_ece(confidence[mixed], right[mixed]) == pytest.approx(parts)


@pytest.mark.parametrize("n", [1, 2, 14, 16])
def test_few_examples_still_have_figures(n):
    logits, y = drawn(n)
    row = calibration(logits, y, seeded())
    assert 0 <= row["adaptive_ece"]["value"] <= 1
    assert row["n"] == n


def test_brier_is_between_zero_and_two():
    certain = torch.eye(3, dtype=torch.float64)
    assert brier(certain, torch.tensor([0, 1, 2])).tolist() == [0, 0, 0]
    assert brier(certain, torch.tensor([1, 2, 0])).tolist() == [2, 2, 2]
    assert brier(torch.full((1, 3), 1 / 3, dtype=torch.float64), torch.tensor([1])).item() == pytest.approx(2 / 3)


def test_the_likelihood_of_a_saturated_model_is_finite():
    logits = torch.tensor([[1000.0, 0.0]], dtype=torch.float64)
    assert nll(logits, torch.tensor([0, 1])[:1]).item() == 0
    assert nll(logits, torch.tensor([1])).item() == 1000


@given(st.floats(0.05, 20), st.integers(0, 100), st.integers(2, 6))
def test_temperature_undoes_a_scaling(scale, seed, classes):
    """Logits times a factor: the temperature times the same factor, and the same probabilities."""
    logits, y = drawn(300, classes, 1.5, seed)
    one, other = fit_temperature(logits, y), fit_temperature(scale * logits, y)
    assert other.value == pytest.approx(scale * one.value, rel=1e-8)
    assert other.nll_after == pytest.approx(one.nll_after, abs=1e-10)


def test_the_temperature_of_a_calibrated_model_times_three_is_three():
    logits, y = drawn(40000)
    assert fit_temperature(logits, y).value == pytest.approx(1, abs=0.02)
    assert fit_temperature(3 * logits.float(), y).value == pytest.approx(3, abs=0.06)


@given(st.integers(0, 1000), st.integers(1, 40), st.floats(0.01, 50))
def test_the_likelihood_is_stationary_or_at_an_end_and_never_worse(seed, n, sharpness):
    logits = sharpness * torch.randn(n, 3, generator=seeded(seed), dtype=torch.float64)
    y = torch.randint(0, 3, (n,), generator=seeded(seed + 1))
    found = fit_temperature(logits, y)
    assert found.nll_after <= found.nll_before + 1e-12
    assert 1 / BOUND <= found.value <= BOUND
    assert found.bounded == (found.value in (1 / BOUND, BOUND))
    for factor in (0.999, 1.001):  # convex, so worse on both sides, or beyond the end
        if 1 / BOUND <= factor * found.value <= BOUND:
            assert nll(logits / (factor * found.value), y).mean().item() >= found.nll_after - 1e-12


def test_a_temperature_changes_no_answer():
    logits, y = drawn()
    temperature = fit_temperature(5 * logits, y)
    assert torch.equal(temperature(logits).argmax(1), logits.argmax(1))
    assert torch.equal(temperature(logits), logits / temperature.value)
    assert temperature(logits.float()).dtype == torch.float32


def test_no_finite_temperature_is_best_for_a_perfect_model_or_a_useless_one():
    y = torch.arange(30) % 3
    perfect = torch.nn.functional.one_hot(y).double()
    assert (fit_temperature(perfect, y).value, fit_temperature(perfect, y).bounded) == (1 / BOUND, True)
    assert (fit_temperature(-perfect, y).value, fit_temperature(-perfect, y).bounded) == (BOUND, True)
    flat = fit_temperature(torch.zeros(30, 3), y)
    assert (flat.value, flat.bounded, flat.nll_after) == (1.0, False, pytest.approx(math.log(3)))


def test_calibrated_reports_apart_what_scaling_achieves_on_other_examples():
    fit, held = drawn(4000), drawn(2000, seed=7)
    row = calibrated((4 * fit[0], fit[1]), (4 * held[0], held[1]), seeded())
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert row["temperature"] == pytest.approx(4, rel=0.1)
    assert (row["n_fit"], row["before"]["n"], row["after"]["n"]) == (4000, 2000, 2000)
    assert row["before"] == calibration(4 * held[0], held[1], seeded())
    assert row["after"]["ece"] < 0.04 < 0.15 < row["before"]["ece"]
    assert row["after"]["nll"]["high"] < row["before"]["nll"]["low"]


@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"logits must be \[N, K\] and y \[N\] with N >= 1. Got \[3\] and \[3\]"),
        (torch.zeros(0, 2), torch.zeros(0), r"Got \[0, 2\] and \[0\]"),
        (torch.zeros(3, 2), torch.zeros(2), r"Got \[3, 2\] and \[2\]"),
        (torch.full((3, 2), torch.inf), torch.zeros(3), "logits must be finite"),
    ],
)
def test_a_temperature_of_nothing_is_refused(logits, y, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, y.long())
