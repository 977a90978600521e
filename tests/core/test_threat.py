"""Threat models: projections against convex programs, and the theorems that every one of them obeys."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.core.threat import L1, L2, NORMS, Linf, Threat, ball, norm

P = {Linf: math.inf, L2: 2.0, L1: 1.0}
DUAL = {Linf: 1.0, L2: 2.0, L1: math.inf}
INF = math.inf
KINDS = st.sampled_from([Linf, L2, L1])
SHAPES = st.sampled_from([(1,), (4,), (2, 1), (3, 3), (2, 7), (1, 1, 4, 4), (2, 2, 3)])
BOXES = st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.3, 0.7), (-2.5, 3.5), (-INF, INF), (0.0, INF), (-INF, 0.5)])
EPS = st.sampled_from([1e-3, 8 / 255, 0.1, 0.5, 1.0, 3.0])
FAR = st.sampled_from([0.0, 0.01, 0.3, 2.0, 100.0])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
SEEDS = st.integers(0, 10_000)

quiet = pytest.mark.filterwarnings("ignore:The 'eps' parameter of Linf")  # wide balls are tested on purpose


def rand(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=rng, dtype=torch.float64)


def points(seed: int, shape: tuple[int, ...], box: tuple[float, float], far: float) -> tuple[Tensor, Tensor]:
    """x in the box, often at its corners; z up to `far` outside it, with exact ties and coordinates left at x."""
    rng = torch.Generator().manual_seed(seed)
    low, high = max(box[0], -2.0), min(box[1], 2.0)
    x = low + (high - low) * rand(rng, *shape)
    x[rand(rng, *shape) < 0.2] = low
    x[rand(rng, *shape) < 0.2] = high
    move = far * (2 * rand(rng, *shape) - 1)
    if seed % 3 == 0:
        move = move.sign() * far * 0.5  # all moves tie
    if seed % 3 == 1:
        x = (4 * x).round() / 4
        x, move = x.clamp(low, high), (move * 4).round() / 4
    move[rand(rng, *shape) < 0.15] = 0.0
    return x, x + move


def boundary(threat: Linf | L2 | L1, x: Tensor, z: Tensor) -> Tensor:
    """z moved along the ray from x to length eps exactly (up to rounding)."""
    d = z - x
    length = norm(d, P[type(threat)]).reshape(-1, *[1] * (x.dim() - 1))
    return torch.where(length > 0, x + d * (threat.eps / length.clamp(min=1e-12)), x).to(x.dtype)


@quiet
@settings(max_examples=200)
@given(KINDS, SHAPES, BOXES, EPS, FAR, SEEDS)
def test_projection_is_the_solution_of_its_quadratic_program(
    nearest: Callable[..., Tensor],
    kind: Any,
    shape: tuple[int, ...],
    box: tuple[float, float],
    eps: float,
    far: float,
    seed: int,
) -> None:
    threat = kind(eps, *box)
    x, z = points(seed, shape, box, far)
    expected = nearest(z, x, [(P[kind], eps)], *box)
    torch.testing.assert_close(threat.project(z, x), expected, rtol=0, atol=2e-5 * max(1, far))


def by_bisection(kind: Any, z: Tensor, x: Tensor, eps: float, low: float, high: float) -> Tensor:
    """The projection from its KKT conditions, the multiplier found by bisection, for one example in float64."""
    d = z - x
    size, room = d.abs(), torch.where(d >= 0, high - x, x - low)

    def point(multiplier: float) -> Tensor:
        if kind is Linf:
            return size.minimum(room).clamp(max=eps)
        free = size / (1 + multiplier) if kind is L2 else (size - multiplier).clamp(min=0)
        return free.minimum(room)

    below, above = 0.0, 1e9
    if norm(point(0.0)[None], P[kind]) > eps:
        for _ in range(200):
            middle = (below + above) / 2
            below, above = (middle, above) if norm(point(middle)[None], P[kind]) > eps else (below, middle)
        return x + d.sign() * point(above)
    return x + d.sign() * point(0.0)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize("far", [0.05, 1.0, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_projection_in_many_dimensions_meets_its_kkt_conditions(
    kind: Any, far: float, dtype: torch.dtype, tolerance: float
) -> None:
    eps = {Linf: 0.1, L2: 4.0, L1: 50.0}[kind]
    x, z = points(2, (2, 3072), (0.0, 1.0), far)
    x, z = x.to(dtype), z.to(dtype)
    expected = torch.stack(
        [by_bisection(kind, b, a, eps, 0.0, 1.0) for b, a in zip(z.double(), x.double(), strict=True)]
    )
    got = kind(eps).project(z, x)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance * max(1, far))
    assert kind(eps).contains(got, x).all()


def test_projection_onto_ball_and_box_is_not_one_after_the_other() -> None:
    """By hand, in the plane: x at 0.9 and 0.5, z = x + (1, 1). The box leaves 0.1 for the first coordinate."""
    x = torch.tensor([[0.9, 0.5]], dtype=torch.float64)
    z = x + 1
    torch.testing.assert_close(L2(0.3).project(z, x), x + torch.tensor([[0.1, math.sqrt(0.08)]]).double())
    torch.testing.assert_close(L1(0.3).project(z, x), x + torch.tensor([[0.1, 0.2]]).double())
    torch.testing.assert_close(Linf(0.3).project(z, x), x + torch.tensor([[0.1, 0.3]]).double())


@pytest.mark.parametrize("kind", [L2, L1])
def test_projection_of_far_points_stays_exact_in_float32(kind: Any) -> None:
    """One coordinate far away and stopped by the box must not drown the others: 1e4 squared is 1e8, whose unit in the
    last place is 8."""
    x = torch.full((1, 9), 0.5)
    z = x + torch.tensor([[1e4, 0.3, 0.2, 0.1, 0.05, 0.4, 0.3, 0.2, 0.1]])
    expected = by_bisection(kind, z[0].double(), x[0].double(), 0.7, 0.0, 1.0)
    if kind is L2:
        torch.testing.assert_close(kind(0.7).project(z, x)[0].double(), expected, rtol=0, atol=1e-5)
    assert kind(0.7).contains(kind(0.7).project(z, x), x).all()


@quiet
@settings(max_examples=300)
@given(KINDS, SHAPES, BOXES, EPS, st.sampled_from([0.01, 0.3, 2.0, 100.0, 1e4]), SEEDS, DTYPES)
def test_projection_is_a_member_and_a_fixed_point_in_every_dtype(
    kind: Any, shape: tuple[int, ...], box: tuple[float, float], eps: float, far: float, seed: int, dtype: torch.dtype
) -> None:
    threat = kind(eps, *box)
    x, z = (t.to(dtype) for t in points(seed, shape, box, far))
    x = x.clamp(*box)
    for target in (z, x, boundary(threat, x, z)):
        once = threat.project(target, x)
        assert once.dtype == dtype
        assert once.shape == x.shape
        assert threat.contains(once, x).all()
        twice = threat.project(once, x)
        unit = torch.finfo(dtype).eps * max(1.0, once.abs().max().item())
        torch.testing.assert_close(twice, once, rtol=0, atol=2 * unit)
        assert threat.contains(twice, x).all()
    assert torch.equal(threat.project(x, x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_projection_is_a_member_in_many_dimensions(kind: Any, dtype: torch.dtype) -> None:
    for seed, far in enumerate((0.01, 0.3, 100.0, 1e4)):
        x, z = (t.to(dtype) for t in points(seed, (4, 3072), (0.0, 1.0), far))
        for eps in (8 / 255, 0.5, 12.0) if kind is not Linf else (1 / 255, 8 / 255, 0.5):
            assert kind(eps).contains(kind(eps).project(z, x), x).all()


@quiet
@given(KINDS, SHAPES, BOXES, EPS, FAR, SEEDS)
def test_projection_never_expands_and_beats_every_other_member(
    kind: Any, shape: tuple[int, ...], box: tuple[float, float], eps: float, far: float, seed: int
) -> None:
    """Onto a convex set: ||P(a) - P(b)|| <= ||a - b||, and <a - P(a), q - P(a)> <= 0 for every member q."""
    threat = kind(eps, *box)
    x, a = points(seed, shape, box, far)
    rng = torch.Generator().manual_seed(seed)
    b = a + far * (rand(rng, *shape) - 0.5)
    at, bt = threat.project(a, x), threat.project(b, x)
    assert (norm(at - bt, 2) <= norm(a - b, 2) + 1e-9).all()
    for q in (threat.sample(x, rng), bt, x):
        assert (((a - at) * (q - at)).reshape(len(x), -1).sum(1) <= 1e-9 * max(1, far)).all()


@quiet
@given(KINDS, SEEDS, FAR)
def test_projection_treats_examples_apart(kind: Any, seed: int, far: float) -> None:
    """The order and the size of the batch change nothing."""
    threat = kind(0.5)
    x, z = points(seed, (6, 5), (0.0, 1.0), far)
    whole = threat.project(z, x)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(threat.project(z[order], x[order]), whole[order], rtol=0, atol=1e-12)
    alone = torch.cat([threat.project(z[i : i + 1], x[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-12)
    flipped = [1, 4, 0, 2, 3]  # nor does the order of the coordinates
    torch.testing.assert_close(threat.project(z[:, flipped], x[:, flipped]), whole[:, flipped], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_an_empty_batch_passes_through(kind: Any) -> None:
    x, threat = torch.empty(0, 3, 2), kind(0.1)
    assert threat.project(x, x).shape == x.shape
    assert threat.sample(x).shape == x.shape
    assert threat.steepest(x, x).shape == x.shape
    assert threat.contains(x, x).shape == (0,)


@quiet
@given(KINDS, SHAPES, BOXES, EPS, SEEDS, DTYPES)
def test_samples_are_members_and_repeat_with_the_generator(
    kind: Any, shape: tuple[int, ...], box: tuple[float, float], eps: float, seed: int, dtype: torch.dtype
) -> None:
    threat = kind(eps, *box)
    x = points(seed, shape, box, 0.0)[0].to(dtype).clamp(*box)
    z = threat.sample(x, torch.Generator().manual_seed(seed))
    assert z.dtype == dtype
    assert threat.contains(z, x).all()
    before = torch.random.get_rng_state()
    assert torch.equal(z, threat.sample(x, torch.Generator().manual_seed(seed)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_samples_are_uniform_in_the_ball(kind: Any, rng: torch.Generator) -> None:
    """Away from the box the share of samples within r eps is r^n, in any norm. Kolmogorov-Smirnov at 1 %."""
    n, count, eps = 3, 4000, 0.2
    x = torch.full((count, n), 0.5, dtype=torch.float64)
    d = kind(eps).sample(x, rng) - x
    level = (norm(d, P[kind]) / eps).pow(n).sort().values  # uniform on [0, 1] if the claim is true
    assert level[-1] > 1 - 5 / count  # reaches the boundary
    assert (level - torch.arange(count) / count).abs().max() < 1.63 / math.sqrt(count)
    assert (d.mean(0).abs() < 4 * eps / math.sqrt(count)).all()
    share = (d > 0).double().mean(0)
    assert ((share - 0.5).abs() < 4 * 0.5 / math.sqrt(count)).all()
    assert (d.abs().mean(0) / d.abs().mean()).sub(1).abs().max() < 0.05  # no coordinate is favoured


def test_samples_of_a_cut_ball_reach_the_box(rng: torch.Generator) -> None:
    z = Linf(0.5).sample(torch.full((500, 2), 0.9), rng)
    assert (z == 1).any()
    assert z.min() < 0.45


@given(KINDS, SHAPES, SEEDS, st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 1e20]))
def test_steepest_has_length_one_and_attains_the_dual_norm(
    kind: Any, shape: tuple[int, ...], seed: int, scale: float
) -> None:
    """max over ||d|| = 1 of <g, d> is the dual norm of g: 1 for inf, 2 for 2, inf for 1 (Hoelder)."""
    threat = L1(0.1, sparsity=1.0) if kind is L1 else kind(0.1)
    gradient = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).float()
    z = torch.full(shape, 0.5)
    d = threat.steepest(gradient, z)
    torch.testing.assert_close(norm(d, P[kind]), torch.ones(shape[0]).double(), rtol=1e-6, atol=0)
    rise = (d.double() * gradient.double()).reshape(shape[0], -1).sum(1)
    torch.testing.assert_close(rise, norm(gradient, DUAL[kind]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_steepest_of_a_zero_gradient_is_zero(kind: Any) -> None:
    z = torch.full((2, 4), 0.5)
    assert torch.equal(kind(0.1).steepest(torch.zeros(2, 4), z), torch.zeros(2, 4))


@pytest.mark.parametrize(("sparsity", "moved"), [(1.0, 1), (0.99, 1), (0.9, 10), (0.5, 50), (0.0, 100)])
def test_steepest_of_l1_spreads_over_the_share_it_is_told(sparsity: float, moved: int, rng: torch.Generator) -> None:
    gradient = torch.randn((3, 100), generator=rng)
    d = L1(1.0, sparsity=sparsity).steepest(gradient, torch.full_like(gradient, 0.5))
    assert ((d != 0).sum(1) == moved).all()
    torch.testing.assert_close(norm(d, 1), torch.ones(3).double(), rtol=1e-6, atol=0)
    assert (d.sign() * gradient.sign() >= 0).all()
    smallest = gradient.abs().masked_fill(d == 0, INF).amin(1)
    assert (smallest >= gradient.abs().masked_fill(d != 0, 0.0).amax(1)).all()


def test_steepest_of_l1_passes_over_blocked_coordinates() -> None:
    threat = L1(1.0, sparsity=1.0)
    gradient = torch.tensor([[5.0, 4.0, -3.0, 1.0], [5.0, -9.0, 1.0, 0.5]])
    z = torch.tensor([[1.0, 1.0, 0.0, 0.5], [0.5, 0.0, 0.5, 0.5]])
    expected = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    assert torch.equal(threat.steepest(gradient, z), expected)
    inward = torch.tensor([[-5.0, 0.0, 0.0, 1.0], [0.0, 9.0, 0.0, 0.5]])  # away from the bound nothing blocks
    assert torch.equal(threat.steepest(inward, z), torch.tensor([[-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    stuck = torch.tensor([[1.0, 1.0, -1.0, 0.0]])
    assert torch.equal(threat.steepest(stuck, z[:1]), torch.zeros(1, 4))


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_contains_ends_where_the_threat_ends(kind: Any) -> None:
    x = torch.full((1, 4), 0.5)
    threat = kind(0.1)
    along = {Linf: torch.tensor([1.0, -1.0, 1.0, 0.0]), L2: torch.tensor([0.6, 0.0, -0.8, 0.0])}.get(
        kind, torch.tensor([0.5, 0.25, 0.0, -0.25])
    )
    assert threat.contains(x, x).all()
    assert threat.contains(x + 0.1 * along, x).all()
    assert not threat.contains(x + 0.1 * (1 + 2e-5) * along, x).any()
    for bad in (math.nan, INF, -INF):
        z = x.clone()
        z[0, 2] = bad
        assert not threat.contains(z, x).any()
        assert not kind(0.1, -INF, INF).contains(z, x).any()
    edge = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    over, under = edge.clone(), edge.clone()
    over[0, 0], under[0, 1] = math.nextafter(1.0, 2) + 1e-6, -1e-7
    assert threat.contains(edge, edge).all()
    assert not threat.contains(over, edge).any()  # the box holds exactly
    assert not threat.contains(under, edge).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_contains_forgives_the_rounding_of_a_dtype_and_no_more(kind: Any, dtype: torch.dtype) -> None:
    """A point of length eps, rounded to the dtype, is a member. One unit in the last place of eps further on in the
    wide dtypes, or an eighth of eps in the halves, it is not."""
    x = torch.zeros(1, 8, dtype=dtype)
    eps = 0.3
    for seed in range(20):
        along = torch.randn((1, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).abs()
        along = along / (norm(along, P[kind]))[:, None]
        assert kind(eps).contains((eps * along).to(dtype), x).all()
        further = 1.02 if dtype in (torch.bfloat16, torch.float16) else 1 + 1e-5
        assert not kind(eps).contains((eps * further * along).to(dtype), x).any()


def test_contains_forgives_only_the_coordinates_that_moved() -> None:
    """In bfloat16 an L1 ball over many large untouched coordinates must not become vacuous."""
    x = torch.full((1, 3072), 1.0, dtype=torch.bfloat16)
    z = x.clone()
    z[0, :2] = 0.0
    assert not L1(1.0).contains(z, x).any()
    assert L1(2.0).contains(z, x).all()


@pytest.mark.parametrize("kind", [Linf, L2, L1])
def test_scaled_take_and_describe(kind: Any) -> None:
    threat = kind(0.2, -1.0, 2.0)
    assert threat.scaled(0.5) == kind(0.1, -1.0, 2.0)
    assert threat.take(torch.tensor([1, 0])) == threat
    told = threat.describe()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["eps"], told["low"], told["high"]) == (0.2, -1.0, 2.0)
    assert told["norm"] == {Linf: "linf", L2: "l2", L1: "l1"}[kind]
    open_ended = kind(0.2, -INF, INF).describe()
    assert json.loads(json.dumps(open_ended, allow_nan=False))["low"] is None


def test_scaled_keeps_the_sparsity() -> None:
    assert L1(2.0, sparsity=0.5).scaled(0.5) == L1(1.0, sparsity=0.5)
    assert L1(2.0, sparsity=0.5).describe()["sparsity"] == 0.5


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize("eps", [0, 0.0, -0.1, math.nan, INF, -INF, True, "0.1", None])
def test_eps_out_of_range_is_refused_by_name(kind: Any, eps: Any) -> None:
    with pytest.raises(ValueError, match=rf"'eps' parameter of {kind.__name__} must be .*Got {eps!r} instead"):
        kind(eps)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.5, 0.5), (math.nan, 1.0), (0.0, math.nan)])
def test_bounds_out_of_order_are_refused(kind: Any, bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=rf"bounds of {kind.__name__} must have low < high"):
        kind(0.1, *bounds)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_sparsity_out_of_range_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match="'sparsity' parameter of L1"):
        L1(1.0, sparsity=sparsity)


def test_linf_warns_of_eps_in_the_units_of_a_byte() -> None:
    with pytest.warns(UserWarning, match=r"did you mean 8/255 = 0\.03137"):
        Linf(8)
    with pytest.warns(UserWarning, match="eps is in input units"):
        Linf(2.5, -1.0, 1.0)
    Linf(8.0, 0.0, 255.0)
    Linf(1.0)  # as wide as the box, which a silent warning filter would turn into an error here


def test_ball_knows_the_names_of_a_command_line() -> None:
    for name, kind in NORMS:
        threat: Threat = ball(name, 0.25, -1.0, 1.0)
        assert threat == kind(0.25, -1.0, 1.0)
        assert threat.describe()["norm"] == name
    with pytest.raises(ValueError, match=r"must be one of linf, l2, l1\. Got 'l3' instead"):
        ball("l3", 0.1)


@given(st.integers(1, 5), SEEDS)
@example(1, 0)
def test_norm_is_the_norm_of_each_example(n: int, seed: int) -> None:
    d = torch.randn((3, n, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    flat = d.reshape(3, -1)
    torch.testing.assert_close(norm(d, 1), flat.abs().sum(1))
    torch.testing.assert_close(norm(d, 2), flat.square().sum(1).sqrt())
    torch.testing.assert_close(norm(d, INF), flat.abs().amax(1))
