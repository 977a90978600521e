"""Rotations, flows, colours and patches: what they do to a picture, exactly, and what they allow."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparring.core.compose import Masked
from sparring.core.parametric import Parametric
from sparring.core.threat import Threat
from sparring.domains.image.patch import Patch, frame
from sparring.domains.image.threats import Colour, Flow, RotationTranslation
from sparring.domains.image.warp import bilinear, stretch

SEEDS = st.integers(0, 10_000)
SHAPES = [(3, 1, 5, 5), (2, 3, 6, 6), (2, 3, 4, 7), (1, 2, 1, 1)]
PARAMETRIC: list[Any] = [
    RotationTranslation(), RotationTranslation(90, 0.3, fill=None), RotationTranslation(5, 0.0, fill=0.5),
    Flow(), Flow(2.5, 1.0, fill=0.0), Flow(1.0, 99.0), Colour(), Colour(0.5, 0.3, (0.4,)), Colour(0.0, 0.1, (0.0,)),
]  # fmt: skip


def pictures(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Pictures with many pixels at the ends of the box."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    return torch.where(torch.rand(shape, generator=rng) < 0.3, x.round(), x).to(dtype)


def at(*values: float, batch: int = 1) -> Tensor:
    return torch.tensor([values] * batch, dtype=torch.float64)


# What every parametric threat keeps


@pytest.mark.parametrize("threat", PARAMETRIC)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_origin_gives_back_x_bit_for_bit_and_all_else_stays_in_the_box(threat: Any, dtype: torch.dtype) -> None:
    assert isinstance(threat, Parametric)
    for shape in SHAPES:
        if isinstance(threat, Colour) and len(threat.gain) not in (1, shape[1]):
            continue
        x = pictures(shape, dtype=dtype)
        origin = threat.origin(x)
        assert origin.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(threat.render(origin, x), x)
        for seed in range(3):
            theta = threat.scaled(3.0).space.sample(origin, torch.Generator().manual_seed(seed))
            z = threat.render(theta, x)
            assert (z.shape, z.dtype) == (x.shape, x.dtype)
            assert ((z >= 0) & (z <= 1)).all()
            one = threat.render(theta[-1:], x[-1:])
            assert torch.equal(one, z[-1:])  # examples do not touch each other
        assert threat.render(theta[:0], x[:0]).shape == (0, *shape[1:])


@pytest.mark.parametrize("threat", PARAMETRIC)
def test_the_gradient_of_render_is_that_of_finite_differences(threat: Any) -> None:
    x = 0.2 + 0.6 * pictures((2, 3, 6, 5), seed=4)
    theta = threat.space.sample(threat.origin(x), torch.Generator().manual_seed(7)).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda theta: threat.render(theta, x), (theta,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("threat", PARAMETRIC)
def test_records_scales_and_rows(threat: Any) -> None:
    assert json.loads(json.dumps(threat.describe())) == threat.describe()
    assert threat.scaled(0.5).space.eps == threat.scaled(0.5).eps == 0.5
    assert torch.equal(threat.scaled(0.5).space.width, threat.space.width)
    assert threat.take(torch.tensor([1])) == threat


# Rotation and translation


@pytest.mark.parametrize("side", [5, 6])
@pytest.mark.parametrize("turns", [1, -1, 2])
@pytest.mark.parametrize("fill", [0.0, None, 0.7])
def test_a_quarter_turn_is_rot90(side: int, turns: int, fill: float | None) -> None:
    x = pictures((2, 3, side, side))
    z = RotationTranslation(180, fill=fill).render(at(90.0 * turns, 0, 0, batch=2), x)
    torch.testing.assert_close(z, torch.rot90(x, turns, (2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, -3), (-1, 2), (7, 0)])
def test_a_shift_by_whole_pixels_is_a_roll_whose_wrap_is_filled(down: int, right: int) -> None:
    x = pictures((2, 3, 6, 8))
    theta = at(0, down / 6, right / 8, batch=2)
    rows = torch.arange(6)[:, None] - down
    columns = torch.arange(8)[None, :] - right
    inside = (rows >= 0) & (rows < 6) & (columns >= 0) & (columns < 8)
    rolled = x.roll((down, right), (2, 3))
    for fill in (0.0, 0.25):
        z = RotationTranslation(shift=2, fill=fill).render(theta, x)
        torch.testing.assert_close(z, torch.where(inside, rolled, fill), rtol=0, atol=1e-12)
    edge = x[:, :, rows.clamp(0, 5).expand(6, 8), columns.clamp(0, 7).expand(6, 8)]
    torch.testing.assert_close(RotationTranslation(shift=2, fill=None).render(theta, x), edge, rtol=0, atol=1e-12)


@given(SEEDS, st.sampled_from([0.0, None]))
def test_rotation_and_shift_agree_with_grid_sample(seed: int, fill: float | None) -> None:
    """On the affine map written out in normalised coordinates, by torch's own sampler."""
    x, h, w = pictures((2, 3, 5, 7), seed), 5, 7
    threat = RotationTranslation(60, 0.4, fill=fill)
    theta = threat.space.sample(threat.origin(x), torch.Generator().manual_seed(seed))
    grids = []
    for angle, down, right in theta.tolist():
        a = math.radians(angle)
        p = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).double()
        offset = p - torch.tensor([(h - 1) / 2 + down * h, (w - 1) / 2 + right * w], dtype=p.dtype)
        turn = torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=torch.float64)
        row, column = (offset @ turn.T).unbind(-1)
        grids.append(torch.stack([2 * column / (w - 1), 2 * row / (h - 1)], -1))
    padding = "zeros" if fill is not None else "border"
    expected = F.grid_sample(x, torch.stack(grids), mode="bilinear", padding_mode=padding, align_corners=True)
    torch.testing.assert_close(threat.render(theta, x), expected, rtol=0, atol=1e-9)


def test_turning_back_and_forth_returns_a_smooth_picture() -> None:
    row, column = torch.meshgrid(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 41), indexing="ij")
    x = (0.5 + 0.4 * torch.exp(-8 * ((row - 0.1) ** 2 + column**2)) - 0.4)[None, None].double()
    threat = RotationTranslation(45)
    there = threat.render(at(30, 0, 0), x)
    assert (there - x).abs().amax() > 0.05
    torch.testing.assert_close(
        threat.render(at(-30, 0, 0), there)[..., 8:-8, 8:-8], x[..., 8:-8, 8:-8], rtol=0, atol=0.01
    )


# Flow


@pytest.mark.parametrize("smoothness", [1.0, 3.0, 99.0])
@pytest.mark.parametrize("fill", [0.0, None])
def test_a_constant_flow_is_a_translation(smoothness: float, fill: float | None) -> None:
    x = pictures((2, 3, 6, 8))
    flow = Flow(3.0, smoothness, fill=fill)
    theta = flow.origin(x) + torch.tensor([1.3, -0.6])[:, None, None]
    moved = RotationTranslation(shift=1, fill=fill).render(at(0, -1.3 / 6, 0.6 / 8, batch=2), x)
    torch.testing.assert_close(flow.render(theta, x), moved, rtol=0, atol=1e-6)


def test_every_pixel_is_read_where_its_flow_points() -> None:
    x = torch.arange(30, dtype=torch.float64).reshape(1, 1, 5, 6) / 30
    flow = Flow(2.0, 1.0)
    theta = flow.origin(x)
    assert theta.shape == (1, 2, 5, 6)
    theta[0, :, 1, 1] = torch.tensor([2.0, -1.0])
    theta[0, :, 4, 5] = torch.tensor([0.0, 1.5])
    theta[0, :, 3, 3] = torch.tensor([-0.5, 0.25])
    z = x.clone()
    z[0, 0, 1, 1] = x[0, 0, 3, 0]
    z[0, 0, 4, 5] = x[0, 0, 4, 5]  # outside, the nearest pixel
    z[0, 0, 3, 3] = (2.5 * 6 + 3.25) / 30  # the picture is linear in row and column
    torch.testing.assert_close(flow.render(theta, x), z)


@given(SEEDS, st.sampled_from([1.0, 1.7, 2.0, 3.5, 20.0]), st.sampled_from([(5, 5), (4, 9), (1, 6)]))
def test_a_flow_has_its_size_and_its_slope(seed: int, smoothness: float, size: tuple[int, int]) -> None:
    flow = Flow(2.0, smoothness)
    x = torch.zeros((1, 1, *size), dtype=torch.float64)
    theta = (
        flow.origin(x) + 2.0 * torch.randn(flow.origin(x).shape, generator=torch.Generator().manual_seed(seed)).sign()
    )
    assert flow.space.contains(theta, flow.origin(x)).all()
    field = stretch(theta, *size)
    assert (field.abs() <= 2.0 + 1e-12).all()
    for dim in (2, 3):
        assert (field.diff(dim=dim).abs() <= 2 * 2.0 / smoothness + 1e-12).all()


def test_stretching_agrees_with_interpolate() -> None:
    field = torch.randn((2, 2, 3, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in ((3, 5), (7, 9), (10, 6), (4, 31)):
        expected = F.interpolate(field, size, mode="bilinear", align_corners=True)
        torch.testing.assert_close(stretch(field, *size), expected)
    assert torch.equal(stretch(field[:, :, :1, :1], 3, 4), field[:, :, :1, :1].expand(2, 2, 3, 4))


def test_positions_that_are_not_numbers_or_far_away_do_no_harm() -> None:
    x = pictures((1, 1, 3, 3))
    row = torch.tensor([[[math.nan, 1e30, -1e30, math.inf]]], dtype=torch.float64)
    z = bilinear(x, row, torch.zeros_like(row), 0.5)
    assert z[0, 0, 0, 0].isnan()
    assert z[0, 0, 0, 1:3].tolist() == [0.5, 0.5]


# Colour


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_is_its_formula(channels: int) -> None:
    x = pictures((2, channels, 4, 4))
    threat = Colour(0.5, 0.2, (0.3,) * channels)
    theta = threat.space.sample(threat.origin(x), torch.Generator().manual_seed(1))
    z = threat.render(theta, x)
    for i, (c, b, *g) in enumerate(theta.tolist()):
        for k in range(channels):
            pixels = ((x[i, k] - 0.5) * math.exp(c) + 0.5 + b) * math.exp(g[k])
            torch.testing.assert_close(z[i, k], pixels.clamp(0, 1))
    shared = Colour(0.5, 0.2, (0.3,)).render(theta[:, :3], x)
    for i, (c, b, g0) in enumerate(theta[:, :3].tolist()):
        torch.testing.assert_close(shared[i], (((x[i] - 0.5) * math.exp(c) + 0.5 + b) * math.exp(g0)).clamp(0, 1))


def test_colour_by_hand() -> None:
    x = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    double = math.log(2)
    assert Colour().render(at(double, 0, 0, 0, 0), x).flatten().tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert Colour().render(at(0, -0.25, 0, 0, 0), x).flatten().tolist() == pytest.approx([0.0, 0.25, 0.75])
    assert Colour().render(at(0, 0, double, -double, 0), x).flatten().tolist() == pytest.approx([0.5, 0.25, 1.0])


# Arguments


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RotationTranslation(-1), r"'degrees' parameter of RotationTranslation must be in .*Got -1"),
        (lambda: RotationTranslation(0, 0), "RotationTranslation must have one of degrees, shift above 0"),
        (lambda: RotationTranslation(fill=2.0), r"'fill' parameter of RotationTranslation .*Got 2.0"),
        (lambda: Flow(0), r"'max_pixels' parameter must be a number in the range \(0, inf\). Got 0 "),
        (lambda: Flow(1, 0.5), r"'smoothness' parameter of Flow must be in the range \[1, inf\). Got 0.5"),
        (lambda: Colour(math.nan), "'contrast' parameter of Colour"),
        (lambda: Colour(gain=(0.1, -0.1)), r"'gain\[1\]' parameter of Colour"),
        (lambda: Colour(eps=0), "'eps' parameter"),
        (lambda: Colour().origin(torch.rand(1, 1, 2, 2)), r"'gain' parameter .*length 1 or that of the channels, 1"),
        (lambda: Flow().origin(torch.rand(3, 4)), r"x must be images \[B, C, H, W\]. Got shape \(3, 4\)"),
        (lambda: Patch(0), r"'side' parameter must be an int in the range \[1, inf\). Got 0 instead"),
        (lambda: Patch(2, 1.0, 0.0), r"bounds of Patch must be finite with low < high. Got low=1.0, high=0.0"),
        (lambda: Patch(2).sample(torch.rand(3, 4)), r"x must be images \[B, C, H, W\]"),
        (lambda: frame((3, 4, 4), 0), "'width' parameter must be an int"),
        (lambda: frame((3, 4, 4), 1, high=math.inf), "bounds of frame"),
    ],
)
def test_arguments_out_of_range_are_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# Patches


def squares(side: int, h: int, w: int) -> list[Tensor]:
    """Every square as a mask `[h, w]`, row by row, written down pixel by pixel."""
    tall, wide = min(side, h), min(side, w)
    masks = []
    for top in range(h - tall + 1):
        for left in range(w - wide + 1):
            mask = torch.zeros((h, w), dtype=torch.bool)
            for i in range(tall):
                for j in range(wide):
                    mask[top + i, left + j] = True
            masks.append(mask)
    return masks


def test_contains_is_brute_force_over_all_changes_of_a_tiny_picture() -> None:
    """All 4096 subsets of 3 x 4 pixels: allowed exactly when some square covers what changed."""
    changed = torch.arange(4096)[:, None].bitwise_right_shift(torch.arange(12)).bitwise_and(1).bool().reshape(-1, 3, 4)
    x = torch.full((4096, 2, 3, 4), 0.5)
    z = x.clone()
    z[:, 1] += 0.25 * changed
    for side in (1, 2, 3, 4, 9):
        covered = torch.stack([~(changed & ~mask).flatten(1).any(1) for mask in squares(side, 3, 4)]).any(0)
        assert torch.equal(Patch(side).contains(z, x), covered)
    z[:, 0, 0, 0] = torch.nan
    assert not Patch(9).contains(z, x).any()


def test_contains_is_exact_about_pixels_and_the_box() -> None:
    x = torch.full((1, 1, 4, 4), 0.5)
    for value, allowed in ((1.0, True), (1.0 + 1e-6, False), (-1e-6, False), (0.0, True), (math.inf, False)):
        z = x.clone()
        z[0, 0, 3, 3] = value
        assert Patch(1).contains(z, x).item() is allowed
    z = x.clone()
    z[0, 0, 0, 0], z[0, 0, 3, 3] = 0.1, 0.5 + 6e-8
    assert not Patch(3).contains(z, x).item()  # one bit of one pixel is a change
    assert Patch(4).contains(z, x).item()


@settings(max_examples=25)
@given(SEEDS, st.sampled_from([1, 2, 3, 5]), st.sampled_from([0.3, 2.0]))
def test_the_projection_is_the_nearest_of_all_squares(seed: int, side: int, far: float) -> None:
    x = pictures((3, 2, 4, 5), seed)
    z = x + far * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    got = Patch(side).project(z, x)
    options = torch.stack([torch.where(mask, z.clamp(0, 1), x) for mask in squares(side, 4, 5)])
    distance = (options - z).square().flatten(2).sum(2).amin(0)
    torch.testing.assert_close((got - z).square().flatten(1).sum(1), distance)
    assert Patch(side).contains(got, x).all()
    torch.testing.assert_close(Patch(side).project(got, x), got)


@given(SEEDS, st.sampled_from([1, 2, 3, 5]))
def test_steepest_is_the_square_in_which_a_linear_gain_rises_most(seed: int, side: int) -> None:
    x = pictures((3, 2, 4, 5), seed)
    w = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    patch = Patch(side)
    z = patch.project(x + patch.eps * patch.steepest(w, x), x)
    best = torch.stack([torch.where(mask, (w > 0).double(), x) for mask in squares(side, 4, 5)])
    torch.testing.assert_close((w * z).flatten(1).sum(1), (w * best).flatten(2).sum(2).amax(0))


def test_samples_have_every_place_and_all_content(seeded: Callable[..., torch.Generator]) -> None:
    x = torch.full((4000, 1, 3, 4), 0.5)
    patch = Patch(2, low=-1.0, high=3.0)
    z = patch.sample(x, seeded(0))
    assert patch.contains(z, x).all()
    place = torch.stack([((z != x).squeeze(1) == mask).all((1, 2)) for mask in squares(2, 3, 4)])
    assert (place.sum(0) == 1).all()
    counts = place.sum(1).double()
    assert ((counts - 4000 / 6).abs() < 5 * math.sqrt(4000 * 5 / 36)).all()
    content = z[z != x]
    assert abs(content.mean() - 1.0) < 5 * 4 / math.sqrt(12 * len(content))
    assert content.amin() < -0.99
    assert content.amax() > 2.99
    assert torch.equal(z, patch.sample(x, seeded(0)))
    assert not torch.equal(z, patch.sample(x, seeded(1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_place_is_a_mask_and_half_precision_stays_itself(dtype: torch.dtype) -> None:
    x = pictures((6, 3, 3, 4), dtype=dtype)
    patch = Patch(2)
    assert patch.places(x) == 6
    local = patch.at(torch.arange(6), x)
    assert isinstance(local, Masked)
    assert torch.equal(local.mask[:, 0], torch.stack(squares(2, 3, 4)))
    amount = torch.rand(x.shape)
    expected = torch.stack([(amount * mask).flatten(1).sum(1) for mask in squares(2, 3, 4)], 1)
    torch.testing.assert_close(patch.mass(amount), expected)
    for z in (patch.project(x + 1, x), patch.sample(x), patch.steepest(torch.ones_like(x), x)):
        assert z.dtype == dtype
    empty: tuple[Tensor, ...] = (patch.project(x[:0], x[:0]), patch.sample(x[:0]), patch.contains(x[:0], x[:0]))
    assert [len(z) for z in empty] == [0, 0, 0]


def test_a_patch_scales_its_side() -> None:
    assert [Patch(5).scaled(f).side for f in (0.01, 0.5, 1.0, 4.0)] == [1, 2, 5, 20]
    assert Patch(5).eps == 1.0
    x = torch.rand(2, 3, 6, 4)
    assert Patch(5).places(x) == 2
    assert Patch(99).contains(1 - x, x).all()
    assert json.loads(json.dumps(Patch(5).describe())) == Patch(5).describe()
    assert Patch(5).take(torch.tensor([0])) == Patch(5)


def test_a_frame_is_everything_but_the_middle(rng: torch.Generator) -> None:
    x = torch.rand((2, 3, 5, 7), generator=rng)
    threat: Threat = frame((3, 5, 7), 2)
    z = threat.sample(x, rng)
    same = (z == x).all(1)
    assert same[:, 2, 2:5].all()
    assert int(same.sum()) == 2 * 3
    assert threat.contains(z, x).all()
    assert threat.contains(torch.where(z != x, 0.0, x), x).all()
    z[0, 0, 2, 3] += 0.1
    assert threat.contains(z, x).tolist() == [False, True]
    assert frame((5, 7), 3).contains(1 - x, x).all()  # it meets in the middle
