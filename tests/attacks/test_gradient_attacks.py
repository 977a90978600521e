"""MI-FGSM and Auto-PGD: exact maxima on linear models, and what holds on any model."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks.apgd import apgd
from sparring.attacks.apgd_l1 import apgd_l1, highest, sparse_ascent
from sparring.attacks.momentum import mi_fgsm
from sparring.core.attack import Attack
from sparring.core.attack import restarts as restarted
from sparring.core.compose import Intersection, Masked, Union
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import Loss, cross_entropy, dlr, margin
from sparring.core.pgd import pgd
from sparring.core.standing import DeadStartError
from sparring.core.threat import L1, L2, Linf, Threat

MASK = torch.tensor([1, 1, 0, 1, 0, 1]).expand(1, 1, 6, 6)
THREATS: list[Threat] = [
    Linf(0.05), L2(0.4), L1(1.5), Masked(L2(0.5), MASK), Masked(L1(1.5), MASK), Intersection(Linf(0.1), L2(0.4)),
    Union(Linf(0.05), L2(0.3)),
]  # fmt: skip
ATTACKS: list[Any] = [mi_fgsm, partial(mi_fgsm, random_start=True), partial(apgd, steps=12)]
Seeded = Callable[..., torch.Generator]


def cornered(seed: int, n: int = 12, batch: int = 6) -> tuple[ClassifierGain, Tensor, Tensor]:
    """The margin of a two-class linear model, inputs `[batch, n]` of which four tenths of the coordinates sit on the
    box's edge, all standing, and the margin's slope w."""
    rng = torch.Generator().manual_seed(seed)
    model = nn.Linear(n, 2).double().requires_grad_(False)
    model.weight.copy_(torch.randn((2, n), generator=rng))
    model.bias.copy_(torch.randn(2, generator=rng))
    x = torch.rand((batch, n), generator=rng, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=rng) < 0.4, x.round(), x)
    y = model(x).argmax(1)
    return ClassifierGain(model, y, margin), x, model.weight[1 - y] - model.weight[y]


def highest_rise(w: Tensor, x: Tensor, threat: Linf | L2 | L1) -> Tensor:
    """max <w, d> over ||d|| <= eps with x + d in the box, `[B]`: by bisection for the multiplier in L2."""
    slope, room = w.abs(), torch.where(w >= 0, threat.high - x, x - threat.low)
    if isinstance(threat, Linf):
        return (slope * room.clamp(max=threat.eps)).sum(1)
    if isinstance(threat, L1):
        slope, order = slope.sort(1, descending=True)
        room = room.gather(1, order)
        return (slope * torch.minimum(room, (threat.eps - room.cumsum(1) + room).clamp(min=0))).sum(1)
    low, high = torch.zeros(len(w), 1, dtype=w.dtype), torch.full((len(w), 1), 1e9, dtype=w.dtype)
    for _ in range(200):
        s = (low + high) / 2
        inside = torch.minimum(s * slope, room).norm(dim=1, keepdim=True) <= threat.eps
        low, high = torch.where(inside, s, low), torch.where(inside, high, s)
    return (slope * torch.minimum(low * slope, room)).sum(1)


def rugged(z: Tensor) -> Tensor:
    """A gain with many local maxima, on which steps of every size fail at times."""
    return (torch.sin(40 * z) + torch.cos(25 * z.roll(1, 1) * z)).sum(1)


def counted(gain: ClassifierGain, n: int) -> tuple[Counted, Meter]:
    meter = Meter.of(n)
    return Counted(gain, meter), meter


# On a linear model the maximum is known


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([Linf(0.1), L2(0.3), L2(1.5), L1(0.7), L1(2.0), L1(6.0)]), st.booleans())
def test_apgd_reaches_the_maximum_of_a_linear_model_where_the_box_is_active(
    seed: int, threat: Any, early_stop: bool
) -> None:
    gain, x, w = cornered(seed)
    best = gain(x) + highest_rise(w, x, threat)
    z = apgd(gain, x, threat, early_stop=early_stop, rng=torch.Generator().manual_seed(seed))
    assert (gain(z) <= best + 1e-9).all()
    assert torch.equal(gain.judge(z)[1], best > 0)
    rows = best <= 0 if early_stop else slice(None)
    torch.testing.assert_close((gain(z) - gain(x))[rows], (best - gain(x))[rows], rtol=1e-4, atol=0)


@pytest.mark.parametrize("threat", [Linf(0.1, -9, 9), L2(0.3, -9, 9), L1(0.7, -9, 9)], ids=["linf", "l2", "l1"])
def test_twenty_steps_of_apgd_do_where_the_box_is_far_and_a_hundred_of_pgd_do_not_in_l2(
    threat: Any, rng: torch.Generator
) -> None:
    gain, x, w = cornered(0, n=50)
    rise = highest_rise(w, x, threat)
    torch.testing.assert_close(gain(apgd(gain, x, threat, steps=20, rng=rng)) - gain(x), rise, rtol=1e-6, atol=0)
    if isinstance(threat, L2):
        assert (gain(pgd(gain, x, threat, steps=100, rng=rng)) - gain(x) < 0.995 * rise).all()


@pytest.mark.parametrize("threat", [Linf(0.1, -9, 9), L2(0.3, -9, 9), L1(0.7, -9, 9, sparsity=1.0)])
def test_mi_fgsm_reaches_the_maximum_of_a_linear_model_with_its_default_step(threat: Any) -> None:
    gain, x, w = cornered(1)
    torch.testing.assert_close(gain(mi_fgsm(gain, x, threat)) - gain(x), highest_rise(w, x, threat), rtol=1e-9, atol=0)


@given(st.integers(0, 1000), st.sampled_from([0.3, 2.0, 50.0]))
def test_the_conditional_step_is_the_maximum_of_a_linear_gain(seed: int, eps: float) -> None:
    _, x, w = cornered(seed)
    threat = L1(eps)
    z = highest(w, x, threat)
    assert threat.contains(z, x).all()
    torch.testing.assert_close((w * (z - x)).sum(1), highest_rise(w, x, threat))
    assert torch.isfinite(highest(w, x, L1(eps, -math.inf, math.inf))).all()


def test_masked_apgd_spends_its_steps_where_it_may(seeded: Seeded) -> None:
    """Where the largest slopes are held, their sparse steps would all be wasted."""
    gain, x, w = cornered(3)
    closed = w.abs() > w.abs().median(1, keepdim=True).values
    for threat in (L1(0.7), L1(3.0), L2(0.3)):
        best = highest_rise(torch.where(closed, 0.0, w), x, threat)
        z = apgd(gain, x, Masked(threat, ~closed), steps=20, rng=seeded(0))
        torch.testing.assert_close(gain(z) - gain(x), best, rtol=1e-3, atol=0)
        for d in (sparse_ascent(w, x, Masked(L1(1.0), ~closed), torch.full((len(x),), 3.0)), z - x):
            assert not (closed & (d != 0)).any()
    d = sparse_ascent(w, x, Masked(L1(1.0), ~closed), torch.ones(len(x)))
    assert ((d != 0).sum(1) == 1).all()


@given(st.integers(0, 1000), st.integers(1, 12))
def test_a_sparse_step_moves_the_k_steepest_coordinates_that_can_move(seed: int, k: int) -> None:
    _, x, w = cornered(seed)
    free = torch.where(w > 0, x < 1, x > 0)
    d = sparse_ascent(w, x, L1(1.0), torch.full((len(x),), k + 0.9))
    moved = d != 0
    assert not (moved & ~free).any()
    assert torch.equal(moved.sum(1), free.sum(1).clamp(max=k))
    torch.testing.assert_close(d.abs().sum(1), torch.ones(len(x), dtype=d.dtype))
    assert (d * w >= 0).all()
    least = torch.where(moved, w.abs(), math.inf).amin(1)
    assert (least >= torch.where(free & ~moved, w.abs(), 0.0).amax(1)).all()


# What holds on any model


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: type(t).__name__)
def test_results_are_allowed_repeat_and_touch_nothing(
    threat: Threat, early_stop: bool, curved: nn.Module, images: tuple[Tensor, Tensor], seeded: Seeded
) -> None:
    x, y = images
    gain = ClassifierGain(curved, y, cross_entropy)
    weights, before = [p.clone() for p in curved.parameters()], torch.random.get_rng_state()
    for attack in ATTACKS:
        attack = partial(attack, early_stop=early_stop)
        copy = x.clone()
        z, again = (attack(gain, x, threat, rng=seeded(5)) for _ in range(2))
        assert threat.contains(z, x).all()
        assert torch.equal(z, again)
        assert torch.equal(x, copy)
        assert z.dtype == x.dtype
        assert not z.requires_grad
        if isinstance(threat, Masked):
            assert torch.equal(z[..., [2, 4]], x[..., [2, 4]])
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(p.grad is None and torch.equal(p, w) for p, w in zip(curved.parameters(), weights, strict=True))


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.5), L1(1.5)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr])
def test_the_best_of_the_allowed_points_seen_is_returned(
    threat: Any, loss: Loss, curved: nn.Module, images: tuple[Tensor, Tensor], rng: torch.Generator
) -> None:
    model, x, y = curved.double(), images[0].double(), images[1]
    inner = ClassifierGain(model, y, loss)
    for attack in ATTACKS:
        seen: list[Tensor] = []

        def gain(z: Tensor, seen: list[Tensor] = seen) -> Tensor:
            value = inner(z)
            seen.append(torch.where(threat.contains(z, x), value, -math.inf).detach())
            return value

        z = attack(gain, x, threat, rng=rng)
        torch.testing.assert_close(inner(z), torch.stack(seen).amax(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.2), L1(0.5)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("attack", ATTACKS[::2])
def test_early_stop_loses_at_least_the_same_examples_for_less_work(
    threat: Any, attack: Any, curved: nn.Module, images: tuple[Tensor, Tensor], seeded: Seeded
) -> None:
    x, y = images[0].double(), images[1]
    gain = ClassifierGain(curved.double(), y, cross_entropy)
    plain, all_of_them = counted(gain, len(x))
    stopping, fewer = counted(gain, len(x))
    lost = gain.judge(attack(plain, x, threat, rng=seeded(1)))[1]
    z = attack(stopping, x, threat, early_stop=True, rng=seeded(1))
    lost_early = gain.judge(z)[1]
    assert threat.contains(z, x).all()
    assert (lost_early >= lost).all()
    assert 2 <= lost.sum() <= len(x) - 2  # neither outcome is trivial
    assert (fewer.forwards <= all_of_them.forwards).all()
    assert (fewer.forwards[lost_early] < all_of_them.forwards[lost_early]).any()
    whole = attack(plain, x, threat, rng=seeded(1))
    torch.testing.assert_close(z[~lost_early], whole[~lost_early], rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_the_budget_is_what_it_says(steps: int, curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    for attack, threat, extra in ((apgd, Linf(0.01), 1), (mi_fgsm, L2(0.05), 1), (apgd, L1(0.01), 3)):
        gain, meter = counted(ClassifierGain(curved, y, margin), len(x))
        attack(gain, x, threat, steps=steps)
        assert meter.forwards.unique().numel() == 1
        assert steps + 1 <= meter.forwards[0] <= steps + extra
        assert meter.backwards[0] <= meter.forwards[0] - 1


def test_restarts_are_never_weaker_and_attack_only_who_stands(
    curved: nn.Module, images: tuple[Tensor, Tensor], seeded: Seeded
) -> None:
    x, y = images
    for threat in (Linf(0.03), L1(0.5)):
        before = torch.full((len(x),), -math.inf)
        gain = ClassifierGain(curved, y, margin)
        for count in (1, 2, 4):
            z = apgd(gain, x, threat, steps=5, restarts=count, rng=seeded(3))
            assert (gain(z) >= before).all()
            before = gain(z)
            once: Attack = partial(apgd, steps=5)
            assert torch.equal(z, restarted(once, count)(gain, x, threat, rng=seeded(3)))
        stopping, meter = counted(gain, len(x))
        lost = gain.judge(apgd(stopping, x, threat, steps=5, restarts=3, early_stop=True, rng=seeded(3)))[1]
        assert meter.forwards[lost].double().mean() < meter.forwards[~lost].double().mean()


def test_each_example_is_attacked_as_if_alone(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """Step sizes, checkpoints and sparsity are its own: without randomness, a batch is its examples one by one."""
    x, y = images[0].double(), images[1]
    gain = ClassifierGain(curved.double(), y, cross_entropy)

    class Still:
        """A threat whose random point is x itself."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def sample(self, x: Tensor, rng: Any = None) -> Tensor:
            return x

        def take(self, rows: Tensor) -> "Still":
            return self

    for threat in (Still(Linf(0.05)), Still(L2(0.5))):
        together = apgd(gain, x, threat, steps=30)
        for i in range(0, len(x), 5):
            rows = torch.tensor([i])
            torch.testing.assert_close(apgd(gain.take(rows), x[rows], threat, steps=30), together[rows])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0), Masked(L1(2.0), torch.ones(1, 8))])
def test_every_dtype_stays_allowed_and_rises(threat: Any, dtype: torch.dtype, rng: torch.Generator) -> None:
    w = torch.randn((8,), generator=rng).to(dtype)
    x = torch.rand((5, 8), generator=rng).to(dtype)
    for attack in ATTACKS:
        z = attack(lambda z: (z * w).sum(1).float(), x, threat, rng=rng)
        assert z.dtype == dtype
        assert threat.contains(z, x).all()
        assert ((z - x) * w).double().sum(1).min() > 0.02


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0)])
@pytest.mark.parametrize("early_stop", [False, True])
def test_batches_of_none_and_one(threat: Any, early_stop: bool, curved: nn.Module, images: Any) -> None:
    x, y = images
    for attack in ATTACKS:
        for n in (0, 1):
            z = attack(ClassifierGain(curved, y[:n], margin), x[:n], threat, early_stop=early_stop)
            assert z.shape == x[:n].shape
            assert threat.contains(z, x[:n]).all()


def test_the_difference_of_logits_ratio_is_blind_to_scale(
    curved: nn.Module, images: tuple[Tensor, Tensor], seeded: Seeded
) -> None:
    x, y = images[0].double(), images[1]

    class Scaled(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return 1024 * model(z)

    model = curved.double()
    once, again = (apgd(ClassifierGain(m, y, dlr), x, Linf(0.05), steps=20, rng=seeded(0)) for m in (model, Scaled()))
    torch.testing.assert_close(once, again, rtol=0, atol=1e-9)


def test_a_start_whose_value_is_no_number_is_not_kept(rng: torch.Generator) -> None:
    def gain(z: Tensor) -> Tensor:
        return z[:, 1] - z[:, 0] + torch.where(z[:, 0] > 0.5, math.nan, 0.0)

    x = torch.full((8, 3), 0.5)
    assert gain(Linf(0.1).sample(x, torch.Generator().manual_seed(0))).isnan().any()
    torch.testing.assert_close(gain(apgd(gain, x, Linf(0.1), steps=10, rng=rng)), torch.full((8,), 0.2))


@pytest.mark.parametrize("threat", [Linf(0.3), L2(0.5), L1(1.0)], ids=lambda t: type(t).__name__)
def test_another_seed_is_another_start(threat: Any, seeded: Seeded) -> None:
    x = torch.rand((4, 5), generator=seeded(0))
    for attack in ATTACKS[1:]:
        assert not torch.equal(attack(rugged, x, threat, rng=seeded(1)), attack(rugged, x, threat, rng=seeded(2)))


# Refusals


@pytest.mark.parametrize("early_stop", [False, True])
def test_a_saturated_softmax_is_refused(
    early_stop: bool, curved: nn.Module, images: tuple[Tensor, Tensor], rng: torch.Generator
) -> None:
    x, y = images

    class Scaled(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return 1e6 * curved(z)

    for attack, threat in ((apgd, Linf(1e-5)), (mi_fgsm, Linf(1e-5)), (apgd, L1(1e-5)), (apgd_l1, L1(1e-5))):
        with pytest.raises(DeadStartError, match="margin payoff"):
            attack(ClassifierGain(Scaled(), y, cross_entropy), x, threat, steps=3, early_stop=early_stop, rng=rng)
        gain = ClassifierGain(Scaled(), y, margin)
        attack(gain, x, threat, steps=3, early_stop=early_stop, rng=rng)


def test_a_restart_may_find_what_is_left_saturated(rng: torch.Generator) -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    model.weight.copy_(50 * torch.eye(2))
    model.bias.zero_()
    gain = ClassifierGain(model, torch.tensor([0, 0]), cross_entropy)
    x = torch.tensor([[0.52, 0.48], [1.0, 0.0]])
    for threat in (Linf(0.1), L1(0.15)):
        z = apgd(gain, x, threat, steps=5, restarts=3, early_stop=True, rng=rng)
        assert gain.judge(z)[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("attack", "threat", "arguments", "message"),
    [
        (apgd, Linf(0.1), {"steps": 0}, r"'steps' parameter must be an int in the range \[1, inf\). Got 0"),
        (apgd, L1(0.1), {"restarts": 1.5}, "'restarts' parameter must be an int"),
        (apgd, Linf(0.1), {"rho": 0}, r"'rho' parameter must be a number in the range \(0, 1\]. Got 0"),
        (apgd, Linf(0.1), {"momentum": 1.5}, "'momentum' parameter must be a number"),
        (apgd_l1, L1(0.1), {"steps": -1}, "'steps' parameter must be an int"),
        (mi_fgsm, Linf(0.1), {"steps": 0}, "'steps' parameter must be an int"),
        (mi_fgsm, Linf(0.1), {"step_size": 0.0}, "'step_size' parameter must be a number"),
        (mi_fgsm, Linf(0.1), {"mu": -1.0}, r"'mu' parameter must be a number in the range \[0, inf\). Got -1.0"),
    ],
)
def test_arguments_out_of_range_are_named(attack: Any, threat: Any, arguments: Any, message: str) -> None:
    for x in (torch.rand(2, 3), torch.rand(0, 3)):
        with pytest.raises(ValueError, match=message):
            attack(lambda z: z.sum(1), x, threat, **arguments)


def test_what_an_attack_cannot_do_it_says() -> None:
    blind: Any = lambda z: z.sum(1)  # noqa: E731
    for attack, threat in ((apgd, Linf(0.1)), (apgd, L1(0.1)), (mi_fgsm, L2(0.1))):
        with pytest.raises(TypeError, match=r"early_stop=True.*needs a gain with 'judge'"):
            attack(blind, torch.rand(2, 3), threat, early_stop=True)
        with pytest.raises(TypeError, match="floating-point"):
            attack(blind, torch.ones(2, 3, dtype=torch.long), threat)
    with pytest.raises(TypeError, match=r"needs an L1 threat, or a Masked one\. Got Linf; use apgd"):
        apgd_l1(blind, torch.rand(2, 3), Linf(0.1))
