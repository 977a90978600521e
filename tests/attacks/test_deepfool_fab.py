"""DeepFool and FAB: the nearest lost point of a linear model is known; on any model, what they return is checked."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks.deepfool import deepfool
from sparring.attacks.fab import fab, fab_targeted
from sparring.attacks.minimal import closer, within
from sparring.core.attack import Attack
from sparring.core.compose import Masked
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import cross_entropy, margin
from sparring.core.threat import L1, L2, Linf, norm

INF = math.inf
DUAL = {Linf: 1.0, L2: 2.0, L1: INF}
ATTACKS: list[Attack] = [deepfool, partial(fab, steps=20), partial(fab_targeted, steps=20)]
NAMES = ["deepfool", "fab", "fab_targeted"]
each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=NAMES)
each_kind = pytest.mark.parametrize("kind", [Linf, L2, L1])


@dataclass
class Recorded:
    """A gain that writes down where its rivals were asked for."""

    inner: ClassifierGain
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        return self.inner(z)

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.judge(z)

    def rivals(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach().clone())
        return self.inner.rivals(z)

    def take(self, rows: Tensor) -> "Recorded":
        return replace(self, inner=self.inner.take(rows))

    def towards(self, rival: Tensor) -> "Recorded":
        return replace(self, inner=self.inner.towards(rival))


def affine(seed: int, k: int, n: int = 8) -> nn.Linear:
    rng = torch.Generator().manual_seed(seed)
    model = nn.Linear(n, k, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.randn((k, n), generator=rng))
    model.bias.copy_(torch.randn(k, generator=rng))
    return model


def rises(model: nn.Linear, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Of each rival k, `[B, K]`: the normal w_k - w_y and what it lacks at x; nan for the truth."""
    normals = model.weight[None] - model.weight[y][:, None]
    logits = model(x)
    lacks = logits.gather(1, y[:, None]) - logits
    return normals, lacks.scatter(1, y[:, None], torch.nan)


# On a linear model the nearest lost point is known


@each_attack
@each_kind
@settings(max_examples=6)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 3, 6]))
def test_the_nearest_lost_point_of_a_linear_model_is_at_the_margin_over_the_dual_norm(
    attack: Attack, kind: Any, seed: int, k: int
) -> None:
    model, rng = affine(seed, k), torch.Generator().manual_seed(seed)
    x = torch.rand((5, 8), generator=rng, dtype=torch.float64)
    y = model(x).argmax(1)
    threat = kind(0.3, -INF, INF)
    z = attack(ClassifierGain(model, y, margin), x, threat)
    normals, lacks = rises(model, x, y)
    sizes = torch.stack([norm(normals[:, i], DUAL[kind]) for i in range(k)], 1)
    nearest = (lacks / sizes).nan_to_num(INF).amin(1)
    assert (model(z).argmax(1) != y).all()
    torch.testing.assert_close(threat.distance(z, x), nearest, rtol=1e-3, atol=1e-9)


@each_attack
@each_kind
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), k=st.sampled_from([2, 5]))
def test_the_nearest_lost_point_of_a_linear_model_inside_the_box(attack: Attack, kind: Any, seed: int, k: int) -> None:
    """The oracle is `reach`, which tests/core/test_budget.py holds against a convex program; a rival whose plane is
    near but outside the box does not count, and where all are outside, x is returned."""
    model, rng = affine(seed, k), torch.Generator().manual_seed(seed)
    x = torch.rand((6, 8), generator=rng, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=rng) < 0.4, x.round(), x)
    y = model(x).argmax(1)
    threat = kind(0.3)
    normals, lacks = rises(model, x, y)
    lengths = torch.full((6, k), INF, dtype=torch.float64)
    for i in range(k):
        d = threat.reach(normals[:, i], lacks[:, i].nan_to_num(0.0), x)
        there = (normals[:, i] * d).sum(1) >= lacks[:, i] * (1 - 1e-9)  # false for the truth, whose lack is nan
        lengths[:, i] = torch.where(there, threat.distance(d, torch.zeros_like(d)), INF)
    nearest = lengths.amin(1)
    z = attack(ClassifierGain(model, y, margin), x, threat)
    lost = model(z).argmax(1) != y
    assert torch.equal(lost, nearest.isfinite())
    assert torch.equal(z[~lost], x[~lost])
    assert ((z >= 0) & (z <= 1)).all()
    got = threat.distance(z, x)[lost]
    assert (got >= nearest[lost] * (1 - 1e-9)).all()
    # an overshoot that the box has bent is straightened by projection onto a smaller cube, not by the other balls
    assert (got <= nearest[lost] * (1.004 if kind is Linf else 1.02) + 1e-9).all()
    assert not lost.any() or (got / nearest[lost]).median() < 1.004


@each_attack
@each_kind
def test_a_rival_that_the_box_keeps_out_of_reach_is_passed_over(attack: Attack, kind: Any) -> None:
    """Class 1 lacks 0.3 of the first coordinate, which has 0.1 left; class 2 lacks 0.2 of the second."""
    model = nn.Linear(2, 3, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    model.bias.copy_(torch.tensor([0.0, -1.2, -0.7]))
    x = torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    z = attack(ClassifierGain(model, torch.tensor([0]), margin), x, kind(0.5))
    torch.testing.assert_close(z, torch.tensor([[0.9, 0.7]], dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("alpha_max", "eta", "beta"), [(0.1, 1.05, 0.9), (0.02, 1.05, 0.9), (0.02, 1.2, 1.0)])
def test_fab_walks_as_equation_9_has_it(alpha_max: float, eta: float, beta: float) -> None:
    """On a plane every step is along one line: positions on it, with x at 0 and the plane at 1."""
    model = affine(5, 2)
    x = torch.rand((1, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model(x).argmax(1)
    normal, lacks = (part[torch.arange(1), 1 - y] for part in rises(model, x, y))
    gain = Recorded(ClassifierGain(model, y, margin))
    fab(gain, x, L2(0.3, -INF, INF), steps=2, alpha_max=alpha_max, eta=eta, beta=beta)
    first, moved, second = ((normal * (gain.seen[i] - x)).sum(1) / lacks for i in (2, 3, 4))
    assert first.item() == pytest.approx(eta)
    assert moved.item() == pytest.approx(beta * eta)
    left = 1 - beta * eta  # negative where the walk goes on from past the plane
    alpha = min(alpha_max, abs(left) / (abs(left) + 1))
    assert second.item() == pytest.approx((1 - alpha) * (beta * eta + eta * left) + alpha * eta)


# On any model


@each_attack
@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_returned_is_lost_or_x(
    attack: Attack, kind: Any, dtype: torch.dtype, curved: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    curved.to(dtype)
    x, y = images[0].to(dtype), images[1].clone()
    with torch.no_grad():
        y[~(curved(x).argmax(1) == y)] = 0  # what rounding to half precision made of it
        y[:3] = (curved(x[:3]).argmax(1) + 1) % 5  # lost before anything moved
        lost = curved(x).argmax(1) != y
        copy, state = x.clone(), [p.clone() for p in curved.parameters()]
    z = attack(ClassifierGain(curved, y, cross_entropy), x, kind(0.05))
    assert z.dtype == dtype
    assert not z.requires_grad
    assert torch.equal(z[lost], x[lost])
    moved = (z != x).flatten(1).any(1)
    assert torch.equal(moved | lost, curved(z).argmax(1) != y)
    assert dtype == torch.bfloat16 or moved[3:].all()
    assert moved.double().mean() > 0.5
    assert ((z >= 0) & (z <= 1)).all()
    assert torch.equal(x, copy)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(curved.parameters(), state, strict=True))


@pytest.fixture
def bent(curved: nn.Module, images: tuple[Tensor, Tensor]) -> tuple[nn.Module, Tensor, Tensor]:
    """The small network with steeper layers, so that one linearisation is far from enough; all its images stand."""
    for layer in (curved[0], curved[3]):  # type: ignore[index]
        layer.weight.data *= 4
    with torch.no_grad():
        return curved, images[0], curved(images[0]).argmax(1)


@each_kind
def test_fab_is_nearer_than_deepfool(kind: Any, bent: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = bent
    gain, threat = ClassifierGain(model, y, margin), kind(0.05)
    far = {name: threat.distance(attack(gain, x, threat), x) for name, attack in zip(NAMES, ATTACKS, strict=True)}
    for name in NAMES[1:]:
        assert (far[name] < far["deepfool"] * 0.99).sum() > 2 + (far["deepfool"] < far[name] * 0.99).sum()
        assert far[name].mean() < far["deepfool"].mean()


@each_attack
def test_no_random_number_is_drawn_where_none_is_needed_and_examples_do_not_see_each_other(
    attack: Attack, curved: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images[0].double(), images[1]
    curved.double()
    gain, before = ClassifierGain(curved, y, margin), torch.random.get_rng_state()
    z = attack(gain, x, L2(0.05))
    assert torch.equal(z, attack(gain, x, L2(0.05)))
    assert torch.equal(before, torch.random.get_rng_state())
    rows = torch.tensor([5, 1, 17])
    torch.testing.assert_close(attack(gain.take(rows), x[rows], L2(0.05)), z[rows], rtol=0, atol=1e-9)


@each_attack
def test_an_abstention_is_neither_a_rival_nor_a_win(attack: Attack) -> None:
    model = affine(3, 5)
    x = torch.rand((6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = model(x).argsort(dim=1, descending=True)
    rows = order[:, 0] != 4
    x, y = x[rows], order[rows, 0]
    gain = ClassifierGain(model, y, margin, abstain=4)
    z = attack(gain, x, L2(0.3, -INF, INF))
    answer = model(z).argmax(1)
    assert ((answer != y) & (answer != 4)).all()


def test_a_point_on_the_boundary_moves_across_it() -> None:
    """Where a rival is exactly level nothing is lost yet, and the step onto the boundary has length zero."""
    model = nn.Linear(2, 3, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    model.bias.zero_()
    x, y = torch.tensor([[0.5, 0.5 - 1e-12]], dtype=torch.float64), torch.tensor([0])
    for attack in ATTACKS:
        z = attack(ClassifierGain(model, y, margin), x, L2(0.1))
        assert model(z).argmax(1).item() == 1
        assert norm(z - x, 2).item() < 1e-10


# Cost


def test_an_example_that_is_lost_costs_nothing_further(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    y = y.clone()
    y[:4] = (y[:4] + 1) % 5
    for attack in ATTACKS:
        meter = Meter.of(len(x))
        attack(Counted(ClassifierGain(curved, y, margin), meter), x, L2(0.3))
        assert (meter.forwards[:4] == 1).all()
        assert (meter.backwards[:4] == 0).all()
        assert (meter.forwards[4:] > 2).all()


def test_every_rival_costs_a_backward_pass_and_a_target_only_one(
    curved: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    for attack, backwards in (
        (partial(fab, steps=7), 7 * 4), (partial(fab, steps=7, restarts=2), 14 * 4),
        (partial(fab_targeted, steps=7, count=3), 21), (partial(fab_targeted, steps=7), 28),
        (partial(deepfool, steps=1), 4), (partial(deepfool, steps=1, candidates=2), 2),
    ):  # fmt: skip
        meter = Meter.of(len(x))
        attack(Counted(ClassifierGain(curved, y, margin), meter), x, L2(0.3))
        assert (meter.backwards == backwards).all()
        assert (meter.forwards <= backwards * 2 + 9).all()


def test_deepfool_leaves_at_the_first_lost_point() -> None:
    """One linearisation is enough on a linear model: two forward passes, seven in the search back."""
    model = affine(0, 4)
    x = torch.rand((5, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    meter = Meter.of(5)
    deepfool(Counted(ClassifierGain(model, model(x).argmax(1), margin), meter), x, L2(0.3, -INF, INF))
    assert meter.forwards.tolist() == [2 + 7] * 5
    assert meter.backwards.tolist() == [3] * 5


def test_more_steps_and_more_restarts_are_not_farther(
    bent: tuple[nn.Module, Tensor, Tensor], seeded: Callable[..., torch.Generator]
) -> None:
    model, x, y = bent
    gain, threat = ClassifierGain(model, y, margin), L2(0.05)
    far = [threat.distance(fab(gain, x, threat, steps=steps), x) for steps in (1, 5, 30)]
    far.append(threat.distance(fab(gain, x, threat, steps=30, restarts=2, rng=seeded(0)), x))
    missed = [torch.where(d == 0, INF, d) for d in far]  # x where nothing was found
    for before, after in pairwise(missed):
        assert (after <= before * 1.005).all()  # the search back may come out a little longer from a nearer point
    assert (missed[2] < 0.99 * missed[0]).any()


# Restarts, targets, early stop


@each_kind
def test_a_restart_begins_half_way_to_what_was_found_or_to_eps(
    kind: Any, bent: tuple[nn.Module, Tensor, Tensor], seeded: Callable[..., torch.Generator]
) -> None:
    model, x, y = bent[0].double(), bent[1].double(), bent[2]
    inner = ClassifierGain(model, y, margin)
    fab(first := Recorded(inner), x, kind(0.5), steps=1)
    found = kind(0.5).distance(first.seen[2], x)  # after x twice, once with its graph
    found = torch.where((model(first.seen[2]).argmax(1) != y) & (found > 0), found, INF)
    assert found.isfinite().sum() > 10
    low, high = float(found.amin()), float(found[found.isfinite()].amax())
    for eps in (0.5 * low, 2 * high if kind is not Linf else min(1.0, 2 * high)):
        threat, starts = kind(eps), []
        for seed in (1, 1, 2):
            fab(gain := Recorded(inner), x, threat, steps=1, restarts=2, rng=seeded(seed))
            starts.append(gain.seen[3])
        assert [torch.equal(starts[0], other) for other in starts[1:]] == [True, False]
        far, expected = threat.distance(starts[0], x), 0.5 * found.clamp(max=eps)
        assert (far <= expected * (1 + 1e-9)).all()
        assert (far >= 0.5 * expected).all()  # the box may have cut some
        assert ((far - expected).abs() <= 1e-9).double().mean() > 0.4


@each_kind
@pytest.mark.parametrize("attack", [partial(fab, steps=15), partial(fab_targeted, steps=15)], ids=NAMES[1:])
def test_early_stop_finds_who_can_be_lost_within_eps_for_less(
    attack: Any, kind: Any, bent: tuple[nn.Module, Tensor, Tensor]
) -> None:
    model, x, y = bent
    gain = ClassifierGain(model, y, margin)
    full = attack(gain, x, kind(0.5))
    threat = kind(float(kind(0.5).distance(full, x).median()) * 1.001)
    cut = within(attack)(gain, x, threat)
    inside = threat.contains(full, x)
    assert torch.equal(cut[~inside], x[~inside])
    assert torch.equal(cut[inside], full[inside])
    assert 0.3 < inside.double().mean() < 0.7
    meters = [Meter.of(len(x)) for _ in range(2)]
    for meter, early_stop in zip(meters, (False, True), strict=True):
        z = within(partial(attack, early_stop=early_stop))(Counted(gain, meter), x, threat)
        assert threat.contains(z, x).all()
        assert (model(z).argmax(1) != y).sum() >= inside.sum() - 1
        assert torch.equal((z != x).flatten(1).any(1), model(z).argmax(1) != y)
    assert meters[1].backwards[inside].sum() < 0.8 * meters[0].backwards[inside].sum()
    assert meters[1].forwards.sum() < meters[0].forwards.sum()


def test_targets_are_the_strongest_rivals_at_x() -> None:
    """With one step, where every target but one is out of reach: only when the count includes it is it found."""
    model = nn.Linear(4, 4, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.tensor([[0, 0, 0, 0], [1e-3, 0, 0, 0], [0, 1e-3, 0, 0], [0, 0, 0, 5.0]]))
    model.bias.copy_(torch.tensor([5.0, 3.0, 2.0, 0.0]))
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    x[0, 3] = 0.1
    gain = ClassifierGain(model, torch.tensor([0]), margin)
    assert torch.equal(fab_targeted(gain, x, Linf(0.9), count=2), x)
    z = fab_targeted(gain, x, Linf(0.9, 0.0, 2.0), count=3)
    assert model(z).argmax(1).item() == 3


def test_closer_keeps_what_is_lost_and_comes_close() -> None:
    model = affine(1, 3)
    x = torch.rand((6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model(x).argmax(1)
    gain, threat = ClassifierGain(model, y, margin), L2(0.3, -INF, INF)
    near = deepfool(gain, x, threat)
    for beyond in (1e-3, 0.02, 0.5):
        z = x + (near - x) * (1 + beyond)
        got = closer(gain, z, x, threat)
        assert (model(got).argmax(1) != y).all()
        assert (threat.distance(got, x) <= threat.distance(z, x)).all()
        torch.testing.assert_close(got, near, rtol=0, atol=1e-4)


# Arguments


@each_attack
def test_empty_batches_and_wrong_arguments(attack: Attack, curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    gain = ClassifierGain(curved, y, margin)
    assert attack(gain.take(torch.arange(0)), x[:0], L2(0.1)).shape == (0, 1, 6, 6)
    with pytest.raises(TypeError, match="rivals"):
        attack(lambda z: z.flatten(1).sum(1), x, L2(0.1))
    with pytest.raises(TypeError, match="needs a threat"):
        attack(gain, x, Masked(L2(0.1), torch.ones(1, 1, 6, 6)))
    with pytest.raises(TypeError, match="floating-point"):
        attack(gain, x.long(), L2(0.1))


@pytest.mark.parametrize(
    ("attack", "name", "value"),
    [
        (deepfool, "steps", 0), (deepfool, "candidates", 1.5), (deepfool, "overshoot", -0.1), (fab, "steps", True),
        (fab, "restarts", 0), (fab, "alpha_max", 1.1), (fab, "eta", 0), (fab, "beta", -0.1),
        (fab_targeted, "count", 0), (fab_targeted, "beta", "0.9"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused_by_name(attack: Any, name: str, value: Any) -> None:
    gain = ClassifierGain(affine(0, 3), torch.tensor([0]), margin)
    with pytest.raises(ValueError, match=rf"The '{name}' parameter must be .* Got {value!r} instead"):
        attack(gain, torch.full((1, 8), 0.5, dtype=torch.float64), L2(0.1), **{name: value})
