"""Per-example losses: closed forms, invariances, and where gradients vanish."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.core.gain import ClassifierGain, JudgingGain
from sparring.core.payoff import Loss, cross_entropy, dlr, kl, margin, of_model, zero_one

SEEDS = st.integers(0, 10_000)
CLASSES = st.integers(3, 7)
LOSSES = [cross_entropy, margin, dlr, zero_one]


def draw(seed: int, k: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn((6, k), generator=rng, dtype=torch.float64)
    return logits, torch.randint(0, k, (6,), generator=rng)


@given(SEEDS, CLASSES)
def test_closed_forms(seed: int, k: int) -> None:
    """Each loss written out example by example, in the numbers of Python's math."""
    logits, y = draw(seed, k)
    for b, (row, own) in enumerate(zip(logits.tolist(), y.tolist(), strict=True)):
        total = sum(math.exp(value) for value in row)
        assert cross_entropy(logits, y)[b].item() == pytest.approx(-math.log(math.exp(row[own]) / total), abs=1e-12)
        rival = max(value for c, value in enumerate(row) if c != own)
        assert margin(logits, y)[b].item() == rival - row[own]
        first, _, third = sorted(row, reverse=True)[:3]
        assert dlr(logits, y)[b].item() == pytest.approx((rival - row[own]) / (first - third), rel=1e-9)
        assert zero_one(logits, y)[b].item() == float(row.index(max(row)) != own)


@given(SEEDS, CLASSES)
def test_positive_margin_is_misclassification(seed: int, k: int) -> None:
    logits, y = draw(seed, k)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)
    assert torch.equal(dlr(logits, y) > 0, logits.argmax(1) != y)
    assert torch.equal(zero_one(logits, y) == 1, margin(logits, y) > 0)
    assert (cross_entropy(logits, y)[margin(logits, y) > 0] > math.log(2)).all()  # p_y < 1/2


@given(SEEDS, CLASSES, st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_dlr_ignores_the_scale_and_the_shift_of_logits(seed: int, k: int, scale: float, shift: float) -> None:
    logits, y = draw(seed, k)
    torch.testing.assert_close(dlr(scale * logits + shift, y), dlr(logits, y), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(margin(scale * logits + shift, y), scale * margin(logits, y), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(cross_entropy(logits + shift, y), cross_entropy(logits, y), rtol=1e-9, atol=1e-9)


def test_dlr_stays_in_its_range_where_the_label_is_on_top_and_needs_three_classes() -> None:
    logits, _ = draw(0, 5)
    value = dlr(logits, logits.argmax(1))
    assert ((value >= -1) & (value <= 0)).all()
    with pytest.raises(ValueError, match=r"at least 3 classes\. Got 2; use 'margin' instead"):
        dlr(logits[:, :2], logits[:, :2].argmax(1))


@given(SEEDS, CLASSES)
def test_kl_is_gibbs_inequality(seed: int, k: int) -> None:
    """KL(p || q) >= 0, zero with zero gradient at q = p, and sum p log(p / q)."""
    logits, _ = draw(seed, k)
    reference, _ = draw(seed + 1, k)
    p, q = reference.softmax(1), logits.softmax(1)
    value = kl(logits, reference)
    assert (value >= 0).all()
    torch.testing.assert_close(value, (p * (p / q).log()).sum(1), rtol=1e-9, atol=1e-12)
    at_itself = reference.clone().requires_grad_(True)
    itself = kl(at_itself, reference)
    (gradient,) = torch.autograd.grad(itself.sum(), at_itself)
    assert itself.abs().max() < 1e-12
    assert gradient.abs().max() < 1e-12
    elsewhere = logits.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(kl(elsewhere, reference).sum(), elsewhere)
    torch.testing.assert_close(gradient, q - p, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_per_example(loss: Loss) -> None:
    logits, y = draw(3, 4)
    value = loss(logits, y)
    assert value.shape == (6,)
    assert torch.equal(value[[2, 0]], loss(logits[[2, 0]], y[[2, 0]]))
    assert loss(logits[:0], y[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [*LOSSES, kl])
def test_half_precision_is_widened(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """The answer is float32's on the same logits, not one rounded to eight bits."""
    logits, y = draw(1, 5)
    narrow = logits.to(dtype)
    other: Any = logits.flip(1).to(dtype) if loss is kl else y
    value = loss(narrow, other)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(narrow.float(), other.float() if loss is kl else y))
    assert loss(logits, logits if loss is kl else y).dtype == torch.float64


def test_the_margin_has_a_gradient_where_cross_entropy_has_none() -> None:
    logits = torch.tensor([[200.0, 0.0, -50.0]], requires_grad=True)
    y = torch.tensor([0])
    (of_ce,) = torch.autograd.grad(cross_entropy(logits, y).sum(), logits)
    (of_margin,) = torch.autograd.grad(margin(logits, y).sum(), logits)
    assert torch.equal(of_ce, torch.zeros(1, 3))
    assert torch.equal(of_margin, torch.tensor([[-1.0, 1.0, 0.0]]))


@given(SEEDS, CLASSES)
def test_gradient_of_cross_entropy_is_softmax_minus_one_hot(seed: int, k: int) -> None:
    logits, y = draw(seed, k)
    at = logits.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(at, y).sum(), at)
    expected = logits.softmax(1) - torch.nn.functional.one_hot(y, k)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_the_gain_of_a_classifier_judges_values_and_narrows() -> None:
    logits, y = draw(5, 4)
    gain = ClassifierGain(nn.Identity(), y, margin)
    assert isinstance(gain, JudgingGain)
    value, lost = gain.judge(logits)
    assert torch.equal(value, gain(logits))
    assert torch.equal(lost, logits.argmax(1) != y)
    for rows in (torch.tensor([4, 1]), lost):
        assert torch.equal(gain.take(rows)(logits[rows]), value[rows])
    payoff = of_model(margin)
    assert torch.equal(payoff(nn.Identity(), logits, (logits, y)), value)
