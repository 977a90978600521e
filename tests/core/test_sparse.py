"""The L0 threat model, against every support there is."""

import json
import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.pgd import fgsm, pgd
from sparring.core.sparse import L0, Grained
from sparring.core.threat import L2

INF = math.inf
PLAIN, PIXELS = (3, 5), (3, 2, 2, 2)  # inputs of five coordinates, and of two channels at four positions


def drawn(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """x in the unit box, at its edge in places, and z well outside of it."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    x = torch.where(torch.rand(shape, generator=rng) < 0.3, x.round(), x)
    return x, x + torch.randn(shape, generator=rng, dtype=torch.float64)


def supports(shape: tuple[int, ...], most: int) -> Iterator[Tensor]:
    """Every set of at most so many coordinates (of an example `[n]`) or pixels (of an example `[C, H, W]`)."""
    places = shape if len(shape) == 1 else shape[1:]
    for size in range(most + 1):
        for chosen in combinations(range(math.prod(places)), size):
            mask = torch.zeros(math.prod(places), dtype=torch.bool)
            mask[list(chosen)] = True
            yield mask.reshape(places).expand(shape)


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([PLAIN, PIXELS]))
def test_project_goes_to_a_nearest_allowed_point(seed: int, eps: int, shape: tuple[int, ...]) -> None:
    x, z = drawn(seed, shape)
    threat = L0(eps, per_pixel=shape == PIXELS)
    got = threat.project(z, x)
    assert threat.contains(got, x).all()
    for row in range(len(x)):
        distances = [(torch.where(s, z[row].clamp(0, 1), x[row]) - z[row]).norm() for s in supports(shape[1:], eps)]
        torch.testing.assert_close((got[row] - z[row]).norm(), min(distances), rtol=0, atol=1e-12)
    assert torch.equal(threat.project(got, x), got)
    assert torch.equal(threat.project(x, x), x)


def test_far_outside_the_box_the_largest_change_is_not_what_to_keep() -> None:
    """Keeping coordinate 0, which may only move by 0.2, leaves 2.8^2 + 0.5^2 to z; keeping coordinate 1 leaves 3^2."""
    x, z = torch.tensor([[0.8, 0.1]]), torch.tensor([[3.8, 0.6]])
    assert torch.equal(L0(1).project(z, x), torch.tensor([[1.0, 0.1]]))


def test_a_radius_for_each_example_is_each_examples_own_ball() -> None:
    x, z = drawn(3, (5, 6))
    radius = torch.tensor([0.0, 1.0, 2.9, 6.0, 100.0])
    together = L0(1).within(z, x, radius)
    for row, allowed in enumerate([0, 1, 2, 6, 6]):
        assert torch.equal(together[row : row + 1], L0(1).within(z[row : row + 1], x[row : row + 1], allowed))
    assert L0(1).distance(together, x).tolist() <= [0, 1, 2, 6, 6]
    assert torch.equal(L0(2).project(z, x), L0(1).within(z, x, 2))


@given(st.integers(0, 10_000), st.sampled_from([PLAIN, PIXELS]), st.floats(0.01, 0.99) | st.sampled_from([0.0, 1.2]))
def test_reach_uses_as_few_as_can_be(seed: int, shape: tuple[int, ...], share: float) -> None:
    x, normal = drawn(seed, shape)
    threat = L0(1, per_pixel=shape == PIXELS)
    room = torch.where(normal >= 0, 1 - x, x)
    worth = normal.abs() * room
    rise = share * worth.flatten(1).sum(1)
    d = threat.reach(normal, rise, x)
    count, bought = threat.distance(x + d, x), (normal * d).flatten(1).sum(1)
    assert ((x + d >= 0) & (x + d <= 1 + 1e-12)).all()
    if share > 1:
        torch.testing.assert_close(d, room * normal.sign())
        return
    torch.testing.assert_close(bought, rise)
    for row in range(len(x)):
        enough = (s for s in supports(shape[1:], 5))
        fewest = min(int(_count(s, shape)) for s in enough if (worth[row] * s).sum() >= rise[row] - 1e-12)
        assert count[row] == fewest


def _count(support: Tensor, shape: tuple[int, ...]) -> Tensor:
    return support.sum() if len(shape) == 2 else support[0].sum()


def test_reach_in_an_unbounded_box_needs_one_coordinate() -> None:
    normal = torch.tensor([[0.1, -2.0, 0.0]])
    threat = L0(1, low=-INF, high=INF)
    d = threat.reach(normal, torch.tensor([6.0]), torch.zeros(1, 3))
    assert threat.distance(d, torch.zeros(1, 3)).item() == 1
    torch.testing.assert_close((normal * d).sum(1), torch.tensor([6.0]))
    half = L0(1, low=0.0, high=INF).reach(normal, torch.tensor([6.0]), torch.ones(1, 3))
    assert torch.equal(half != 0, torch.tensor([[True, False, False]]))  # only upwards is there room enough
    torch.testing.assert_close((normal * half).sum(1), torch.tensor([6.0]))


def test_distance_counts_coordinates_or_pixels() -> None:
    x = torch.zeros(2, 3, 2, 2)
    z = x.clone()
    z[0, :, 0, 0] = 1e-30
    z[0, 1, 1, 1] = 0.5
    assert L0(1).distance(z, x).tolist() == [4, 0]
    assert L0(1, per_pixel=True).distance(z, x).tolist() == [2, 0]
    assert L0(2, per_pixel=True).contains(z, x).all()
    assert L0(3).contains(z, x).tolist() == [False, True]
    wide = torch.zeros(1, 3001, dtype=torch.bfloat16)  # a count beyond what half precision counts
    assert L0(1).distance(wide + 1, wide).item() == 3001
    for bad in (-0.001, 1.001, math.nan, INF):
        out = x.clone()
        out[1, 0, 0, 0] = bad
        assert L0(4).contains(out, x).tolist() == [True, False]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0), (-INF, INF), (0.0, INF)])
@pytest.mark.parametrize("per_pixel", [False, True])
def test_sample_draws_every_support_and_repeats_with_its_generator(
    bounds: tuple[float, float], per_pixel: bool, seeded: Callable[..., torch.Generator]
) -> None:
    threat = L0(2, *bounds, per_pixel=per_pixel)
    x = torch.full((400, 2, 2, 2), 0.5)
    z = threat.sample(x, seeded(1))
    assert threat.contains(z, x).all()
    assert (threat.distance(z, x) == 2).all()
    touched = (z != x).any(1).flatten(1) if per_pixel else (z != x).flatten(1)
    share = touched.double().mean(0)
    assert ((share - 2 / touched.shape[1]).abs() < 0.1).all()
    assert torch.equal(z, threat.sample(x, seeded(1)))
    assert not torch.equal(z, threat.sample(x, seeded(2)))


def test_fgsm_from_the_middle_of_the_box_is_the_exact_maximum(rng: torch.Generator) -> None:
    """max over eps coordinates of w^T z is w^T x + half the sum of the eps largest |w|."""
    model = nn.Linear(7, 2).double().requires_grad_(False)
    x, y = torch.full((4, 7), 0.5, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    gain = ClassifierGain(model, y, margin)
    w = model.weight[1 - y] - model.weight[y]
    for eps in (1, 3, 7):
        expected = gain(x) + 0.5 * w.abs().topk(eps, dim=1).values.sum(1)
        torch.testing.assert_close(gain(fgsm(gain, x, L0(eps))), expected)
        z = pgd(gain, x, L0(eps), steps=20, random_start=False)
        torch.testing.assert_close(gain(z), expected)


def test_steepest_passes_over_what_is_blocked_and_takes_whole_pixels() -> None:
    gradient = torch.tensor([[4.0, -3.0, 2.0, 0.0]])
    z = torch.tensor([[1.0, 0.5, 0.5, 0.5]])
    assert torch.equal(L0(2).steepest(gradient, z), torch.tensor([[0.0, -0.5, 0.5, 0.0]]))
    assert torch.equal(L0(4).steepest(gradient, z), torch.tensor([[0.0, -0.25, 0.25, 0.0]]))
    pixels = gradient.reshape(1, 2, 2)  # channels (4, -3) and (2, 0): the first pixel is worth 2, the second 3
    d = L0(1, per_pixel=True).steepest(pixels, z.reshape(1, 2, 2))
    assert torch.equal(d, torch.tensor([[[0.0, -1.0], [0.0, 0.0]]]))


def test_it_is_a_threat_like_the_others() -> None:
    threat = L0(4, -INF, 2.0, per_pixel=True)
    described = {"norm": "l0", "eps": 4, "low": None, "high": 2.0, "per_pixel": True}
    assert json.loads(json.dumps(threat.describe())) == described
    assert threat.scaled(0.5) == L0(2, -INF, 2.0, per_pixel=True)
    assert [L0(10).scaled(f).eps for f in (0.01, 0.1, 0.3, 0.39, 2.5)] == [1, 1, 3, 3, 25]
    assert threat.take(torch.tensor([0])) == threat
    assert isinstance(threat, Grained)
    assert not isinstance(L2(1.0), Grained)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = torch.rand(2, 3, 4).to(dtype)
        for z in (L0(2).sample(x), L0(2).project(x + 1, x), L0(2).steepest(x, x), L0(2).reach(x, x[:, 0, 0], x)):
            assert z.dtype == dtype
        assert L0(2).project(x[:0], x[:0]).shape == x[:0].shape
        assert L0(2).within(x[:0], x[:0], torch.zeros(0)).shape == x[:0].shape


@pytest.mark.parametrize("eps", [0, -1, 0.5, 1.5, INF, math.nan, True, "3"])
def test_eps_is_a_whole_number(eps: Any) -> None:
    with pytest.raises(ValueError, match=r"The 'eps' parameter of L0 must be a whole number in the range \[1, inf\)"):
        L0(eps)


def test_bounds_and_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="low < high"):
        L0(1, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"per_pixel=True needs inputs \[B, C, ...\]"):
        L0(1, per_pixel=True).project(torch.zeros(2, 3), torch.zeros(2, 3))
