"""DPO: its closed forms and limits, and the log-probability of an answer."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparring.core.preference import answer_log_probability, dpo

N = 64


def drawn(seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [-5 * torch.rand(N, generator=rng, dtype=torch.float64) for _ in range(4)]


def test_it_is_the_formula_of_the_paper() -> None:
    w, lo, rw, rl = drawn()
    expected = -torch.log(torch.sigmoid(0.3 * ((w - rw) - (lo - rl))))
    assert torch.allclose(dpo(w, lo, (rw, rl), 0.3), expected)


def test_the_reference_itself_has_log_two_and_half_beta_as_gradient() -> None:
    w, lo, _, _ = drawn()
    chosen, rejected = w.clone().requires_grad_(True), lo.clone().requires_grad_(True)
    loss = dpo(chosen, rejected, (w, lo), 0.7)
    assert torch.allclose(loss, torch.full((N,), math.log(2), dtype=torch.float64))
    loss.sum().backward()
    assert torch.allclose(chosen.grad, torch.full((N,), -0.35, dtype=torch.float64))
    assert torch.allclose(rejected.grad, torch.full((N,), 0.35, dtype=torch.float64))


def test_a_small_beta_is_its_linear_part_and_a_large_one_a_hinge() -> None:
    w, lo, rw, rl = drawn()
    margin = (w - rw) - (lo - rl)
    small = 1e-6
    assert torch.allclose((dpo(w, lo, (rw, rl), small) - math.log(2)) / small, -margin / 2, atol=1e-5)
    assert torch.allclose(dpo(w, lo, (rw, rl), 1e4) / 1e4, (-margin).clamp(min=0), atol=1e-3)


def test_only_the_margin_counts() -> None:
    w, lo, rw, rl = drawn()
    assert torch.allclose(dpo(w + 3, lo + 3, (rw, rl), 0.1), dpo(w, lo, (rw, rl), 0.1))
    assert torch.allclose(dpo(w, lo, (rw, rl), 0.1) - dpo(lo, w, (rl, rw), 0.1), -0.1 * ((w - rw) - (lo - rl)))


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_has_to_be_positive(beta: float) -> None:
    with pytest.raises(ValueError, match="'beta' parameter"):
        dpo(*drawn()[:2], tuple(drawn()[2:]), beta)  # type: ignore[arg-type]


def test_answers_are_summed_by_row() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, tokens = torch.randn(5, 7, generator=rng), torch.tensor([1, 0, 6, 2, 2])
    each = F.log_softmax(logits, -1)[torch.arange(5), tokens]
    got = answer_log_probability(logits, tokens, torch.tensor([0, 0, 2, 2, 2]), 3)
    assert torch.allclose(got, torch.stack([each[:2].sum(), torch.tensor(0.0), each[2:].sum()]))
