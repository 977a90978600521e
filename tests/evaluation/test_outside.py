"""Telling outside inputs from inside ones: areas against ranks, rates against counting, scores against definitions."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from torch import nn

from sparring.evaluation.outside import auroc, confidence, energy, false_positives, outside


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


scores = st.lists(st.integers(-3, 3), min_size=1, max_size=40).map(lambda row: torch.tensor(row, dtype=torch.float64))


@given(scores, scores)
def test_the_area_is_the_rank_statistic_with_ties_half(inside, beyond):
    pairs = (inside[:, None] > beyond).double() + 0.5 * (inside[:, None] == beyond)
    assert auroc(inside, beyond) == pytest.approx(pairs.mean().item())
    u = mannwhitneyu(inside.numpy(), beyond.numpy()).statistic
    assert auroc(inside, beyond) == pytest.approx(u / pairs.numel())
    assert auroc(beyond, inside) == pytest.approx(1 - auroc(inside, beyond))


@given(scores, scores)
def test_false_positives_are_counted_at_the_highest_threshold_that_keeps_95_percent(inside, beyond):
    thresholds = [t for t in inside.unique() if (inside >= t).double().mean() >= 0.95 - 1e-12]
    assert false_positives(inside, beyond) == (beyond >= max(thresholds)).double().mean().item()


def test_the_figures_of_two_normal_distributions():
    """Means apart by d: the area is Phi(d / sqrt 2), and of the outside Phi(1.645 - d) pass."""
    normal, d = torch.distributions.Normal(0.0, 1.0), 1.5
    inside = d + torch.randn(40000, generator=seeded(0), dtype=torch.float64)
    beyond = torch.randn(40000, generator=seeded(1), dtype=torch.float64)
    assert auroc(inside, beyond) == pytest.approx(normal.cdf(torch.tensor(d / math.sqrt(2))).item(), abs=0.005)
    assert false_positives(inside, beyond) == pytest.approx(normal.cdf(torch.tensor(1.6449 - d)).item(), abs=0.015)


def test_confidence_orders_as_the_largest_probability_and_beyond_where_it_rounds_to_one():
    logits = 3 * torch.randn(500, 6, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(confidence(logits), logits.softmax(1).amax(1).log())
    sure = torch.tensor([[60.0, 0.0], [70.0, 0.0], [500.0, 0.0]], dtype=torch.float64)
    assert sure.softmax(1).amax(1).tolist() == [1, 1, 1]
    one, two, three = confidence(sure).tolist()
    assert one < two < three <= 0


def test_energy_is_the_log_of_the_sum_and_sees_what_softmax_does_not():
    logits = torch.randn(50, 4, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(energy(logits), logits.exp().sum(1).log())
    assert torch.allclose(energy(logits + 2), energy(logits) + 2)
    assert torch.allclose(confidence(logits + 2), confidence(logits))


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 3))


def inputs(n, seed, middle=0.5):
    return (middle + 0.2 * torch.randn(n, 2, 2, 2, generator=seeded(seed))).clamp(0, 1)


def test_everything_is_reported_as_its_definition_has_it():
    model, x_in, x_out = linear(), inputs(120, 0), inputs(80, 1, 0.3)
    y_in, y_out = (torch.randint(0, 3, (n,), generator=seeded(n)) for n in (120, 80))
    rng = seeded(3)
    result = outside(model, x_in, x_out, y_in=y_in, y_out=y_out, rng=rng, batch_size=17, resamples=50)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["n_in"], result["n_out"]) == (120, 80)
    logits_in, logits_out = (model(x).detach().double() for x in (x_in, x_out))
    for name, score in (("softmax", confidence), ("energy", energy)):
        for figure, f in (("auroc", auroc), ("fpr95", false_positives)):
            row = result["scores"][name][figure]
            assert row["value"] == pytest.approx(f(score(logits_in), score(logits_out)), abs=1e-6)
            assert row["low"] <= row["value"] <= row["high"]
            assert row["low"] < row["high"]
    for part, logits, y in (("inside", logits_in, y_in), ("outside", logits_out, y_out)):
        row = result[part]
        assert row["mean_confidence"] == pytest.approx(logits.softmax(1).amax(1).mean().item(), abs=1e-6)
        assert row["accuracy"]["accuracy"] == pytest.approx((logits.argmax(1) == y).double().mean().item())
        assert row["ece"]["low"] <= row["ece"]["high"]
    again = outside(model, x_in, x_out, y_in=y_in, y_out=y_out, rng=seeded(3), resamples=50)
    assert again["scores"]["energy"]["auroc"] == pytest.approx(result["scores"]["energy"]["auroc"], abs=1e-6)


def test_without_labels_there_is_no_accuracy_and_nothing_else_changes():
    model, x_in, x_out = linear(), inputs(60, 0), inputs(40, 1)
    with_labels = outside(model, x_in, x_out, y_in=torch.zeros(60).long(), rng=seeded(), resamples=10)
    without = outside(model, x_in, x_out, rng=seeded(), resamples=10)
    assert without["scores"] == with_labels["scores"]
    assert (without["inside"]["accuracy"], without["inside"]["ece"], without["outside"]["accuracy"]) == (
        None,
        None,
        None,
    )


class Sum(nn.Module):
    """Surer, and of more energy, the brighter the input."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


def test_what_is_apart_is_told_apart_and_what_is_alike_is_not():
    bright, dark = 0.6 + 0.4 * torch.rand(100, 4, generator=seeded()), 0.4 * torch.rand(90, 4, generator=seeded(1))
    apart = outside(Sum(), bright, dark, rng=seeded(), resamples=20)["scores"]
    for name in ("softmax", "energy"):
        assert apart[name]["auroc"] == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
        assert apart[name]["fpr95"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    alike = outside(Sum(), bright, bright, rng=seeded(), resamples=20)["scores"]["softmax"]
    assert alike["auroc"]["value"] == pytest.approx(0.5)
    assert alike["fpr95"]["value"] == pytest.approx(0.95)
    assert alike["auroc"]["low"] < 0.5 < alike["auroc"]["high"]


def test_the_interval_of_the_area_is_as_wide_as_its_standard_error_says():
    """Hanley & McNeil, "The meaning and use of the area under a ROC curve", 1982, for continuous scores."""
    x_in, x_out = torch.rand(300, 4, generator=seeded(0)), 0.8 * torch.rand(200, 4, generator=seeded(1))
    row = outside(Sum(), x_in, x_out, rng=seeded(2), resamples=200)["scores"]["softmax"]["auroc"]
    a, n, m = row["value"], 300, 200
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    error = math.sqrt((a * (1 - a) + (n - 1) * (q1 - a**2) + (m - 1) * (q2 - a**2)) / (n * m))
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_bad_arguments_are_refused_with_what_is_wrong():
    with pytest.raises(ValueError, match=r"x must be inside \[0, 1\]"):
        outside(linear(), inputs(5, 0), inputs(5, 0) + 1, rng=seeded())
    with pytest.raises(ValueError, match="'resamples' parameter must be an int"):
        outside(linear(), inputs(5, 0), inputs(5, 0), rng=seeded(), resamples=0)
    with pytest.raises(ValueError, match=r"Labels must be in \[0, 3\)"):
        outside(linear(), inputs(5, 0), inputs(5, 0), y_out=torch.full((5,), 3), rng=seeded())
