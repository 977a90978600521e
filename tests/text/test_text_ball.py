"""Balls of embedded texts: closed forms, what stays, and the attacks of the core on them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from texts import SENTENCES, TOKENIZER, model_of

from sparring.attacks.apgd import apgd
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.pgd import pgd
from sparring.domains.text.ball import SentenceBall, TokenBall
from sparring.domains.text.embedded import mean_norm

IDS = TOKENIZER.encode(SENTENCES, 16)
balls = pytest.mark.parametrize("ball", [TokenBall(0.3, 2.0), SentenceBall(0.3, 2.0)])


def embedded(dtype=torch.float32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=dtype)[..., None]
    return torch.cat([torch.randn(3, 4, 5, generator=rng, dtype=dtype) * real, real], -1)


def far(x, size=1.0, seed=1):
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def test_a_token_is_projected_onto_its_own_ball():
    x = embedded(torch.float64)
    z = TokenBall(0.3, 2.0).project(far(x), x)
    for b, t in ((0, 0), (0, 3), (1, 1), (2, 0)):
        d = (far(x) - x)[b, t, :-1]
        wanted = x[b, t, :-1] + d * min(1, 0.6 / float(d.norm()))
        torch.testing.assert_close(z[b, t, :-1], wanted)


def test_a_text_is_projected_onto_the_ball_of_all_its_tokens():
    x = embedded(torch.float64)
    z = SentenceBall(0.3, 2.0).project(far(x), x)
    for b, n in ((0, 4), (1, 2), (2, 1)):
        d = (far(x) - x)[b, :n, :-1]
        torch.testing.assert_close(z[b, :n, :-1], x[b, :n, :-1] + d * 0.6 / d.norm())


@balls
@given(seed=st.integers(0, 1000), size=st.floats(0.01, 100))
def test_projection_stays_inside_leaves_padding_alone_and_is_the_nearest(ball, seed, size):
    x = embedded(seed=seed)
    z = far(x, size, seed + 1)
    near = ball.project(z, x)
    assert ball.contains(near, x).all()
    assert torch.equal(near[..., -1], x[..., -1])
    assert torch.equal(near[x[..., -1] == 0], x[x[..., -1] == 0])
    torch.testing.assert_close(ball.project(near, x), near)
    real = x[..., -1:] == 1
    other = ball.sample(x, torch.Generator().manual_seed(seed))
    gaps = [((where - z) * real)[..., :-1].double().flatten(1).norm(dim=1) for where in (near, other)]
    assert (gaps[0] <= gaps[1] + 1e-4 * size).all()


@balls
def test_samples_fill_the_ball_and_move_nothing_else(ball, rng):
    x = embedded().repeat(400, 1, 1)
    z = ball.sample(x, rng)
    assert ball.contains(z, x).all()
    assert torch.equal(z[..., -1], x[..., -1])
    assert torch.equal(z[x[..., -1] == 0], x[x[..., -1] == 0])
    share = (z - x)[2::3, 0, :-1].norm(dim=1) / 0.6  # one token of five dimensions: P(share <= s) = s^5
    assert abs(float((share**5).mean()) - 0.5) < 0.05
    again = ball.sample(x, torch.Generator().manual_seed(0))
    assert torch.equal(z, again)


@balls
def test_the_steepest_step_has_length_one_in_its_own_norm_and_no_other_gains_more(ball, rng):
    x, gradient = embedded(), torch.randn(3, 4, 6, generator=rng)
    step = ball.steepest(gradient, x)
    torch.testing.assert_close(ball.distance(x + step, x), torch.ones(3))
    assert not step[..., -1].any()
    assert not step[x[..., -1] == 0].any()
    best = (step * gradient).sum((1, 2))
    for seed in range(50):
        other = ball.scaled(1 / 0.3).sample(x, torch.Generator().manual_seed(seed)) - x
        assert ((other * gradient).sum((1, 2)) <= best + 1e-5).all()
    assert not ball.steepest(torch.zeros_like(x), x).any()


def test_the_steepest_step_is_each_token_s_gradient_normalised():
    x, gradient = embedded(), far(embedded(), 1, 5)
    step = TokenBall(0.3, 2.0).steepest(gradient, x)
    torch.testing.assert_close(step[0, 1, :-1], 2 * gradient[0, 1, :-1] / gradient[0, 1, :-1].norm())
    whole = SentenceBall(0.3, 2.0).steepest(gradient, x)
    torch.testing.assert_close(whole[1, :2, :-1], 2 * gradient[1, :2, :-1] / gradient[1, :2, :-1].norm())


@balls
def test_a_step_that_reaches_a_rise_is_the_shortest(ball, rng):
    x, normal = embedded(torch.float64), torch.randn(3, 4, 6, generator=rng, dtype=torch.float64)
    rise = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    step = ball.reach(normal, rise, x)
    torch.testing.assert_close((step * normal).sum((1, 2)), rise)
    length = ball.distance(x + step, x)
    slope = (ball.steepest(normal, x) * normal).sum((1, 2))  # what a length of one gains at most
    torch.testing.assert_close(length, rise / slope)


@balls
def test_with_the_radius_the_ball_vanishes(ball):
    x = embedded()
    z = ball.scaled(1e-9).project(far(x), x)
    torch.testing.assert_close(z, x, rtol=0, atol=1e-8)
    assert ball.scaled(2.0).eps == 0.6
    assert ball.describe()["eps"] == 0.3
    assert ball.take(torch.tensor([0])) == ball


@balls
def test_what_is_outside_is_refused(ball):
    x = embedded()
    edge = x + 0.3 * ball.steepest(torch.ones_like(x), x)
    assert ball.contains(edge, x).all()
    assert not ball.contains(x + 0.301 * ball.steepest(torch.ones_like(x), x), x).any()
    padding, mask, broken = x.clone(), x.clone(), x.clone()
    padding[1, 3, 0] = 0.01
    mask[0, 0, -1] = 0.99
    broken[2, 0, 0] = torch.nan
    assert ball.contains(padding, x).tolist() == [True, False, True]
    assert ball.contains(mask, x).tolist() == [False, True, True]
    assert ball.contains(broken, x).tolist() == [True, True, False]


@pytest.mark.parametrize("kind", [TokenBall, SentenceBall])
@pytest.mark.parametrize(("eps", "unit"), [(0, 1.0), (-1, 1.0), (0.1, 0), (float("nan"), 1), (True, 1.0), (0.1, None)])
def test_a_radius_that_is_none_is_refused(kind, eps, unit):
    with pytest.raises(ValueError, match=rf"of {kind.__name__} must be a number in the range \(0, inf\)"):
        kind(eps, unit)


@pytest.mark.parametrize("kind", [TokenBall, SentenceBall])
def test_pgd_and_apgd_run_on_embedded_texts(kind, rng):
    model = model_of("transformer")
    x = model.embed(IDS).detach()
    y = model(x).argmax(1)
    ball = kind(0.3, mean_norm(model))
    gain = ClassifierGain(model, y, margin)
    clean = gain(x).detach()
    for attack in (pgd, apgd):
        z = attack(gain, x, ball, steps=10, rng=rng)
        assert ball.contains(z, x).all()
        assert (gain(z) > clean + 1e-4).all()


def test_on_a_linear_model_pgd_finds_the_best_of_the_ball(rng):
    """gain = <w, mean_t z_t>: the best is every token eps along w, which gains eps * unit * ||w||."""
    x, w = embedded(torch.float64), torch.randn(5, generator=rng, dtype=torch.float64)
    gain = lambda z: ((z[..., :-1] @ w) * x[..., -1]).sum(1) / x[..., -1].sum(1)  # noqa: E731
    z = pgd(gain, x, TokenBall(0.3, 2.0), steps=1, random_start=False)
    torch.testing.assert_close(gain(z) - gain(x), torch.full((3,), 0.6 * float(w.norm()), dtype=torch.float64))
