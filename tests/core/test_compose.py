"""Threat models made of threat models."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.core.compose import Intersection, Masked, Union
from sparring.core.threat import L1, L2, Linf, Threat, norm

INF = math.inf
SEEDS = st.integers(0, 10_000)
INNER = st.sampled_from([Linf(0.1), L2(0.4), L1(0.6, sparsity=1.0), L2(0.4, -INF, INF)])
FAR = st.sampled_from([0.05, 0.5, 3.0])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
SHAPES = st.sampled_from([(2, 5), (3,), (2, 1, 3, 3)])


def points(seed: int, shape: tuple[int, ...], far: float) -> tuple[Tensor, Tensor, torch.Generator]:
    """x in the unit box, often at its corners, and z up to `far` outside."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    x = torch.where(torch.rand(shape, generator=rng) < 0.2, x.round(), x)
    return x, x + far * (2 * torch.rand(shape, generator=rng, dtype=torch.float64) - 1), rng


def members() -> dict[str, Threat]:
    mask = torch.tensor([[1, 0, 1, 0, 1]])
    return {
        "masked": Masked(L2(0.4), mask),
        "intersection": Intersection(Linf(0.1), L2(0.15), L1(0.25)),
        "union": Union(Linf(0.1), L2(0.3), L1(0.5)),
        "masked union": Masked(Union(Linf(0.1), L1(0.3)), mask),
        "intersection with a mask": Intersection(Masked(Linf(0.2), mask), L2(0.3)),
        "union of intersections": Union(Intersection(Linf(0.1), L1(0.3)), L2(0.2)),
    }


COMPOSED = st.sampled_from(list(members().values()))


@given(COMPOSED, SEEDS, FAR, DTYPES)
def test_projections_and_samples_are_members_in_every_dtype(
    threat: Threat, seed: int, far: float, dtype: torch.dtype
) -> None:
    x, z, rng = points(seed, (4, 5), far)
    x, z = x.to(dtype), z.to(dtype)
    got = threat.project(z, x)
    assert got.dtype == dtype
    assert threat.contains(got, x).all()
    drawn = threat.sample(x, rng)
    assert drawn.dtype == dtype
    assert threat.contains(drawn, x).all()
    assert torch.equal(threat.project(x, x), x)


@given(COMPOSED, SEEDS, FAR)
def test_projection_keeps_its_members_and_treats_examples_apart(threat: Threat, seed: int, far: float) -> None:
    x, z, rng = points(seed, (4, 5), far)
    once = threat.project(z, x)
    torch.testing.assert_close(threat.project(once, x), once, rtol=0, atol=1e-9)
    order = torch.randperm(4, generator=rng)
    torch.testing.assert_close(threat.project(z[order], x[order]), once[order], rtol=0, atol=1e-12)
    alone = torch.cat([threat.project(z[i : i + 1], x[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(alone, once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", members())
def test_describe_is_json_and_scaled_and_empty_batches_work(name: str) -> None:
    threat = members()[name]
    told = threat.describe()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert threat.scaled(0.5).eps == threat.eps / 2
    empty = torch.empty(0, 5)
    for result in (threat.project(empty, empty), threat.sample(empty), threat.steepest(empty, empty)):
        assert result.shape == empty.shape
    assert threat.contains(empty, empty).shape == (0,)


# Masked


@given(INNER, SHAPES, SEEDS, FAR, DTYPES)
def test_masked_leaves_the_rest_bit_for_bit(
    inner: Threat, shape: tuple[int, ...], seed: int, far: float, dtype: torch.dtype
) -> None:
    x, z, rng = points(seed, shape, far)
    x, z = x.to(dtype), z.to(dtype)
    mask = torch.rand(shape, generator=rng) < 0.5
    threat = Masked(inner, mask)
    for moved in (threat.project(z, x), threat.sample(x, rng)):
        assert torch.equal(moved[~mask], x[~mask])
        assert threat.contains(moved, x).all()
    assert (threat.steepest(torch.ones_like(x), x)[~mask] == 0).all()


@given(INNER, SEEDS, FAR)
def test_masked_is_the_inner_threat_on_what_is_open(inner: Threat, seed: int, far: float) -> None:
    """Projecting under a mask is projecting the open coordinates alone: the closed ones add nothing to any norm."""
    x, z, _ = points(seed, (3, 6), far)
    mask = torch.tensor([[True, False, True, True, False, False]])
    threat = Masked(inner, mask)
    keep = mask[0].nonzero().squeeze(1)
    torch.testing.assert_close(threat.project(z, x)[:, keep], inner.project(z[:, keep], x[:, keep]), rtol=0, atol=1e-12)
    gradient = z - x
    torch.testing.assert_close(
        threat.steepest(gradient, x)[:, keep], inner.steepest(gradient[:, keep], x[:, keep]), rtol=0, atol=1e-12
    )


def test_masked_refuses_a_move_outside_its_mask() -> None:
    x = torch.full((2, 3), 0.5)
    threat = Masked(Linf(0.1), torch.tensor([[1, 1, 0]]))
    z = x.clone()
    z[0, 2] = math.nextafter(0.5, 1) + 1e-7  # within eps, but not free
    z[1, 0] = 0.55
    assert threat.contains(z, x).tolist() == [False, True]
    z[1, 0] = 0.7
    assert threat.contains(z, x).tolist() == [False, False]


def test_masked_takes_rows_of_a_mask_per_example_and_keeps_a_shared_one() -> None:
    mask = torch.tensor([[1, 0], [0, 1], [1, 1]])
    rows = torch.tensor([2, 0])
    assert torch.equal(Masked(Linf(0.1), mask).take(rows).mask, mask[rows])
    assert torch.equal(Masked(Linf(0.1), mask).take(torch.tensor([False, True, False])).mask, mask[1:2])
    assert torch.equal(Masked(Linf(0.1), mask[:1]).take(rows).mask, mask[:1])
    assert Masked(Linf(0.1), mask).describe()["share"] == pytest.approx(4 / 6)


# Intersection


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([((INF, 0.1), (2, 0.25)), ((2, 0.2), (1, 0.3)), ((INF, 0.1), (2, 0.2), (1, 0.35))]))
def test_intersection_projects_a_step_outside_onto_the_solution_of_the_program(
    nearest: Callable[..., Tensor], seed: int, balls: tuple[tuple[float, float], ...]
) -> None:
    """As an attack meets it: from a member, a step of a quarter of eps."""
    kinds: dict[float, Any] = {INF: Linf, 2: L2, 1: L1}
    threat = Intersection(*(kinds[p](eps) for p, eps in balls))
    x, z, rng = points(seed, (2, 6), 0.5)
    step = torch.randn((2, 6), generator=rng, dtype=torch.float64)
    z = threat.project(z, x)
    z = z + 0.25 * balls[0][1] * step / norm(step, 2)[:, None]
    expected = nearest(z, x, balls, 0.0, 1.0)
    torch.testing.assert_close(threat.project(z, x), expected, rtol=0, atol=2e-3)
    exact = Intersection(*threat.members, rounds=500).project(z, x)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-4)


@given(SEEDS)
def test_intersection_is_not_one_projection_after_another(nearest: Callable[..., Tensor], seed: int) -> None:
    """Dykstra's corrections are what brings it to the nearest point: without them it stops at some member."""
    threat = Intersection(L2(0.3), L1(0.4), rounds=300)
    x, z, _ = points(seed, (2, 5), 0.6)
    expected = nearest(z, x, [(2, 0.3), (1, 0.4)], 0.0, 1.0)
    got = threat.project(z, x)
    assert (norm(got - z, 2) <= norm(expected - z, 2) + 1e-3).all()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-2)


@given(SEEDS, FAR)
def test_intersection_of_nested_balls_is_the_smallest(seed: int, far: float) -> None:
    x, z, _ = points(seed, (3, 4), far)
    for small, large in ((L2(0.2), L2(0.5)), (Linf(0.1), Linf(0.3)), (L1(0.2), L2(0.9))):
        torch.testing.assert_close(Intersection(small, large).project(z, x), small.project(z, x), rtol=0, atol=1e-9)
    torch.testing.assert_close(Intersection(L2(0.2)).project(z, x), L2(0.2).project(z, x), rtol=0, atol=1e-9)


def test_intersection_contains_what_all_contain() -> None:
    x = torch.full((3, 4), 0.5)
    z = x + torch.tensor([[0.1, 0, 0, 0], [0.1, 0.1, 0.1, 0.1], [0.2, 0, 0, 0]])
    assert Linf(0.11).contains(z, x).tolist() == [True, True, False]
    assert L2(0.15).contains(z, x).tolist() == [True, False, False]
    assert Intersection(Linf(0.11), L2(0.15)).contains(z, x).tolist() == [True, False, False]
    assert Union(Linf(0.11), L2(0.15)).contains(z, x).tolist() == [True, True, False]


# Union


@given(SEEDS, FAR)
def test_union_projects_onto_the_nearest_member(seed: int, far: float) -> None:
    x, z, _ = points(seed, (5, 4), far)
    threat = Union(Linf(0.1), L2(0.15), L1(0.2))
    got = threat.project(z, x)
    each = torch.stack([member.project(z, x) for member in threat.members])
    distance = torch.stack([norm(point - z, 2) for point in each])
    torch.testing.assert_close(norm(got - z, 2), distance.amin(0), rtol=0, atol=1e-12)
    assert torch.equal(got, each[distance.argmin(0), torch.arange(5)])


def test_union_leaves_what_any_member_contains(rng: torch.Generator) -> None:
    x = torch.rand((50, 4), generator=rng, dtype=torch.float64)
    threat = Union(Linf(0.1), L1(0.3))
    for member in threat.members:
        z = member.sample(x, rng)
        torch.testing.assert_close(threat.project(z, x), z, rtol=0, atol=1e-12)


@given(SEEDS)
def test_union_climbs_the_member_in_which_a_linear_gain_can_rise_most(seed: int) -> None:
    """Across its radius a member lets <g, .> rise by eps times the dual norm of g; a step of self.eps must do that."""
    rng = torch.Generator().manual_seed(seed)
    gradient = torch.randn((6, 5), generator=rng, dtype=torch.float64) ** 3
    threat = Union(Linf(0.1), L2(0.2), L1(0.35, sparsity=1.0))
    step = threat.steepest(gradient, torch.full_like(gradient, 0.5)) * threat.eps
    reach = torch.stack([0.1 * norm(gradient, 1), 0.2 * norm(gradient, 2), 0.35 * norm(gradient, INF)])
    torch.testing.assert_close((step * gradient).sum(1), reach.amax(0))


def test_union_samples_every_member(rng: torch.Generator) -> None:
    x = torch.full((400, 4), 0.5, dtype=torch.float64)
    z = Union(Linf(0.01), L2(0.4)).sample(x, rng)
    small = Linf(0.01).contains(z, x).double().mean()
    assert 0.4 < small < 0.6  # half of the draws, and a vanishing share of the other half


@pytest.mark.parametrize("kind", [Intersection, Union])
def test_composition_of_nothing_is_refused_and_parts_are_handed_through(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} needs at least one member"):
        kind()
    mask = torch.tensor([[1, 0], [0, 1]])
    threat = kind(Linf(0.2), Masked(L2(0.4), mask))
    assert threat.eps == 0.2
    assert [m.eps for m in threat.scaled(0.5).members] == [0.1, 0.2]
    assert torch.equal(threat.take(torch.tensor([1])).members[1].mask, mask[1:])
    assert [m["norm"] for m in threat.describe()["members"]] == ["linf", "masked"]


def test_intersection_keeps_its_rounds() -> None:
    threat = Intersection(Linf(0.1), L2(0.2), rounds=7)
    assert threat.scaled(2.0).rounds == threat.take(torch.tensor([0])).rounds == 7
