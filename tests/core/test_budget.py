"""The shortest step that buys a rise: against convex programs, and where those cannot look (scale, dtype, shape)."""

import math
import warnings
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.core import budget
from sparring.core.budget import fill, steepest_first
from sparring.core.threat import L1, L2, Linf, norm

P = {Linf: math.inf, L2: 2.0, L1: 1.0}
INF = math.inf
KINDS = st.sampled_from([Linf, L2, L1])
BOXES = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-INF, INF), (0.0, INF), (-INF, 0.5)])
SEEDS = st.integers(0, 10_000)


def task(seed: int, shape: tuple[int, ...], low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normals with zeros and ties, points in the box, often on its edge, and what the whole room would buy."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=rng, dtype=torch.float64)
    w[torch.rand(shape, generator=rng) < 0.2] = 0.0
    if seed % 3 == 0:
        w = (2 * w).round() / 2
    near, far = max(low, -2.0), min(high, 2.0)
    z = near + (far - near) * torch.rand(shape, generator=rng, dtype=torch.float64)
    z[torch.rand(shape, generator=rng) < 0.2] = near
    z[torch.rand(shape, generator=rng) < 0.2] = far
    room = torch.where(w > 0, high - z, z - low)
    most = torch.where(w != 0, w.abs() * room, 0.0).flatten(1).sum(1)
    return w, z, most


def shortest(p: float, w: Tensor, rise: float, z: Tensor, low: float, high: float) -> float:
    """min ||d||_p over <w, d> >= rise and low <= z + d <= high, for one example."""
    d = cp.Variable(w.numel())
    start = z.flatten().numpy()
    constraints = [w.flatten().numpy() @ d >= rise]
    constraints += [start + d >= low] if math.isfinite(low) else []
    constraints += [start + d <= high] if math.isfinite(high) else []
    problem = cp.Problem(cp.Minimize(cp.norm(d, p)), constraints)
    with warnings.catch_warnings():  # the test's own tolerance judges
        warnings.filterwarnings("ignore", "Solution may be inaccurate")
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    assert problem.status in ("optimal", "optimal_inaccurate")
    return float(np.asarray(problem.value))


@settings(max_examples=150)
@given(KINDS, st.sampled_from([(1,), (1, 1), (4,), (3, 2), (2, 7), (2, 2, 3)]), BOXES, SEEDS, st.floats(0.01, 0.99))
def test_reach_is_the_solution_of_its_program(
    kind: Any, shape: tuple[int, ...], box: tuple[float, float], seed: int, share: float
) -> None:
    w, z, most = task(seed, shape if len(shape) > 1 else (*shape, 1), *box)
    w, z = w.reshape(shape), z.reshape(shape)
    rise = share * most.clamp(max=3.0)
    threat = kind(0.1, *box)
    d = threat.reach(w, rise, z)
    assert d.shape == z.shape
    assert ((z + d >= box[0] - 1e-12) & (z + d <= box[1] + 1e-12)).all()
    bought = (w * d).reshape(len(z), -1).sum(1)
    torch.testing.assert_close(bought, rise, rtol=1e-9, atol=1e-12)  # exactly enough: more would be longer
    for i in range(len(z)):
        expected = shortest(P[kind], w[i], float(rise[i]), z[i], *box)
        assert float(norm(d, P[kind])[i]) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=60)
@given(KINDS, SEEDS, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), st.sampled_from([1.0, 1.5, INF]))
def test_a_rise_that_the_box_does_not_hold_uses_all_the_room(
    kind: Any, seed: int, dtype: torch.dtype, factor: float
) -> None:
    w, z, _ = task(seed, (3, 6), 0.0, 1.0)
    w, z = w.to(dtype), z.to(dtype)
    corner = torch.where(w > 0, 1 - z, torch.where(w < 0, -z, 0.0))
    most = (w.double() * torch.where(w > 0, 1 - z.double(), -z.double())).sum(1)
    d = kind(0.1).reach(w, (most * factor * (1 + 1e-5) + 1e-3).to(torch.promote_types(dtype, torch.float32)), z)
    assert d.dtype == dtype
    assert torch.equal(d, corner)


@settings(max_examples=60)
@given(KINDS, SEEDS, BOXES, st.sampled_from([torch.float64, torch.float32]))
def test_no_rise_needs_no_step_and_a_zero_normal_moves_nothing(
    kind: Any, seed: int, box: tuple[float, float], dtype: torch.dtype
) -> None:
    w, z, _ = task(seed, (3, 6), *box)
    w, z = w.to(dtype), z.to(dtype)
    threat = kind(0.1, *box)
    for rise in (0.0, -0.7, -INF):
        assert torch.equal(threat.reach(w, torch.full((3,), rise, dtype=dtype), z), torch.zeros_like(z))
    for rise in (0.0, 0.7, INF):
        assert torch.equal(
            threat.reach(torch.zeros_like(w), torch.full((3,), rise, dtype=dtype), z), torch.zeros_like(z)
        )
    d = threat.reach(w, torch.full((3,), 0.05, dtype=dtype), z)
    assert (d[w == 0] == 0).all()


@settings(max_examples=60)
@given(KINDS, SEEDS, BOXES, st.floats(0.01, 0.95))
@example(L1, 0, (-INF, INF), 0.5)
def test_float32_and_half_precision_agree_with_float64(
    kind: Any, seed: int, box: tuple[float, float], share: float
) -> None:
    w, z, most = task(seed, (4, 30), *box)
    rise = share * most.clamp(max=3.0)
    threat = kind(0.1, *box)
    exact = threat.reach(w, rise, z)
    d = threat.reach(w.float(), rise.float(), z.float())
    assert d.dtype == torch.float32
    # which of two tied coordinates moves is free: what it buys and what it costs are not
    for got, want in (((w * d).sum(1), (w * exact).sum(1)), (norm(d, P[kind]), norm(exact, P[kind]))):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
    coarse = threat.reach(w.bfloat16(), rise.float(), z.bfloat16())
    torch.testing.assert_close((w * coarse).sum(1), rise, rtol=0.05, atol=0.05)


@given(KINDS, st.sampled_from([1e-30, 1e-20, 1e20, 1e30]), SEEDS)
def test_the_scale_of_the_normal_does_not_matter(kind: Any, scale: float, seed: int) -> None:
    """The square of a float32 gradient of 1e-20 is zero, and that of 1e20 is infinite."""
    w, z, most = task(seed, (3, 6), 0.0, 1.0)
    w, z, rise = w.float(), z.float(), (0.5 * most).float()
    threat = kind(0.1)
    torch.testing.assert_close(threat.reach(w * scale, rise * scale, z), threat.reach(w, rise, z), rtol=1e-4, atol=1e-5)


@given(KINDS, SEEDS)
def test_examples_do_not_see_each_other(kind: Any, seed: int) -> None:
    w, z, most = task(seed, (5, 6), 0.0, 1.0)
    rise = torch.linspace(-0.5, 1.5, 5, dtype=torch.float64) * most
    together = kind(0.1).reach(w, rise, z)
    alone = torch.cat([kind(0.1).reach(w[i : i + 1], rise[i : i + 1], z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert kind(0.1).reach(w[:0], rise[:0], z[:0]).shape == (0, 6)


def test_budgets_by_hand() -> None:
    gain, room = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.5, 9.0, 1.0]])
    ones = torch.ones_like(gain)
    for t, by_hand in (
        (fill(gain, ones, room, torch.tensor([3.0])), [0.5, 0.5, 0.5]),
        (fill(gain, ones, room, torch.tensor([5.5])), [0.5, 2.0, 1.0]),
        # (9 + 1 + 4) s reaches 7/3 where the first room is used up, at s = 1/6; (1 + 4) s buys the rest
        (fill(gain, gain, room, torch.tensor([2.5])), [0.5, 0.2, 0.4]),
        (steepest_first(gain, room, torch.tensor([2.5])), [0.5, 0.0, 0.5]),
        (steepest_first(gain, room, torch.tensor([5.5])), [0.5, 2.0, 1.0]),
    ):
        torch.testing.assert_close(t, torch.tensor([by_hand]))


@pytest.mark.parametrize("box", [(0.0, 1.0), (-INF, INF)])
def test_sorting_and_looking_where_it_nearly_always_is_give_the_same_answer(
    monkeypatch: pytest.MonkeyPatch, box: tuple[float, float]
) -> None:
    """Gains over eight orders of magnitude, which tangents need many steps for, and rises up to all there is."""
    rng = torch.Generator().manual_seed(0)
    scale = 10 ** (8 * torch.rand((40, 200), generator=rng, dtype=torch.float64) - 8)
    for w in (scale * torch.randn((40, 200), generator=rng), torch.randn((40, 200), generator=rng).double()):
        z = torch.rand((40, 200), generator=rng, dtype=torch.float64)
        most = (w * torch.where(w > 0, 1 - z, -z)).sum(1)
        rise = torch.linspace(0.0, 1.0 if box[0] == 0 else 30.0, 40, dtype=torch.float64) * most
        for kind in (Linf, L2, L1):
            quick = kind(0.1, *box).reach(w, rise, z)
            with monkeypatch.context() as patch:
                patch.setattr(budget, "TANGENTS", 1)
                patch.setattr(budget, "FIRST", 1000)
                sorted_ = kind(0.1, *box).reach(w, rise, z)
            torch.testing.assert_close(quick, sorted_, rtol=1e-7, atol=1e-9)
            torch.testing.assert_close((w * quick).sum(1), rise, rtol=1e-9, atol=1e-12)


def test_large_images_keep_their_precision() -> None:
    rng = torch.Generator().manual_seed(0)
    w, z = torch.randn((2, 3, 224, 224), generator=rng), torch.rand((2, 3, 224, 224), generator=rng)
    rise = torch.tensor([5.0, 20_000.0])
    for kind in (Linf, L2, L1):
        d = kind(0.1).reach(w, rise, z)
        torch.testing.assert_close((w * d).double().flatten(1).sum(1), rise.double(), rtol=1e-3, atol=0)


# A radius of each example's own


@settings(max_examples=100)
@given(KINDS, SEEDS, BOXES, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), st.floats(0.05, 3.0))
@pytest.mark.filterwarnings("ignore:The 'eps' parameter of Linf")
def test_within_a_radius_is_the_projection_with_that_eps(
    kind: Any, seed: int, box: tuple[float, float], dtype: torch.dtype, far: float
) -> None:
    w, x, _ = task(seed, (4, 3, 2), *box)
    x = x.to(dtype)
    z = x + (far * w).to(dtype)
    threat = kind(0.1, *box)
    radius = torch.tensor([0.01, 0.125, 0.7, 2.0], dtype=torch.float64)
    for given_as in (radius, radius.to(dtype)):
        got = threat.within(z, x, given_as)
        assert got.dtype == dtype
        for i, eps in enumerate(given_as.tolist()):
            expected = kind(eps, *box).project(z[i : i + 1], x[i : i + 1])
            ulp = torch.finfo(dtype).eps
            torch.testing.assert_close(got[i : i + 1], expected, rtol=0, atol=8 * ulp)
            assert kind(eps, *box).contains(got[i : i + 1], x[i : i + 1]).all()
    one = threat.within(z, x, 0.7)
    torch.testing.assert_close(one[2], threat.within(z, x, radius)[2], rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert torch.equal(threat.within(z, x, torch.zeros(4, dtype=torch.float64)), x)


@given(KINDS, SEEDS)
def test_distance_is_the_norm_and_what_is_within_is_no_farther(kind: Any, seed: int) -> None:
    w, x, _ = task(seed, (4, 6), 0.0, 1.0)
    threat, radius = kind(0.1), torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(threat.distance(x + w, x), torch.linalg.vector_norm(w, ord=P[kind], dim=1))
    assert (threat.distance(threat.within(x + w, x, radius), x) <= radius * (1 + 1e-9)).all()
