"""Boxes and IDBH: areas, exactness against Pillow and closed forms, distribution, determinism."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from sparring.domains.image import augment_idbh as idbh
from sparring.domains.image.augment_boxes import cutmix, cutout, random_erasing


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ones(B: int = 400, C: int = 1, H: int = 12, W: int = 10) -> Tensor:
    return torch.ones(B, C, H, W)


def bounds(mask: Tensor) -> tuple[int, int, int, int]:
    """The box (top, bottom, left, right) that a mask [H, W] is; it must be one."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    assert mask[top:bottom, left:right].all()
    assert mask.sum() == (bottom - top) * (right - left)
    return top, bottom, left, right


# Cutout


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_paints_a_square_around_every_pixel_alike_cut_off_at_the_border(size: int) -> None:
    x = ones(3000)
    holes = cutout(x, rng(), size=size)[:, 0] == 0
    # Closed form: the centre is uniform, so a pixel is painted with probability (centres that reach it) / (H W).
    H, W = 12, 10
    reach = [
        torch.tensor([sum(c - size // 2 <= i < c - size // 2 + size for c in range(side)) / side for i in range(side)])
        for side in (H, W)
    ]
    expected = reach[0][:, None] * reach[1]
    assert (holes.double().mean(0) - expected).abs().max() < 4.5 * 0.5 / math.sqrt(3000)
    for hole in holes[:200]:
        top, bottom, left, right = bounds(hole)
        assert bottom - top == size or top == 0 or bottom == H
        assert right - left == size or left == 0 or right == W


def test_cutout_paints_each_channel_in_its_colour_and_nothing_at_size_0() -> None:
    x = torch.rand(20, 3, 8, 8)
    z = cutout(x, rng(), size=3, fill=(0.1, 0.2, 0.3))
    changed = (z != x).all(1)
    assert (changed == (z != x).any(1)).all()
    for channel, colour in enumerate((0.1, 0.2, 0.3)):
        assert torch.equal(z[:, channel][changed], torch.full((int(changed.sum()),), colour))
    assert torch.equal(cutout(x, rng(), size=0), x)


# Random erasing


def test_erased_boxes_lie_inside_and_have_the_drawn_area_and_ratio() -> None:
    B, H, W = 4000, 64, 64
    z = random_erasing(ones(B, H=H, W=W), rng(), probability=1.0)
    areas, ratios = [], []
    for hole in z[:, 0] == 0:
        top, bottom, left, right = bounds(hole)
        assert bottom - top < H
        assert right - left < W
        areas.append((bottom - top) * (right - left) / (H * W))
        ratios.append(math.log((bottom - top) / (right - left)))
    area, ratio = torch.tensor(areas), torch.tensor(ratios)
    # At this size rounding moves a side by at most 0.5 of 5 pixels; means of the uniforms are (0.02 + 0.33) / 2 and 0.
    assert 0.015 < area.min() < 0.03
    assert 0.32 < area.max() < 0.34
    assert abs(area.mean() - 0.175) < 4 * (0.31 / math.sqrt(12 * B))
    assert abs(ratio.mean() - (math.log(0.3) + math.log(3.3)) / 2) < 4 * (2.4 / math.sqrt(12 * B)) + 0.005


def test_a_share_of_images_is_erased() -> None:
    x = ones(2000)
    for probability in (0.0, 0.5, 1.0):
        erased = (random_erasing(x, rng(1), probability=probability) == 0).flatten(1).any(1).double().mean()
        assert abs(erased - probability) < 0.05


# CutMix


def numbered(B: int = 6, H: int = 12, W: int = 10) -> tuple[Tensor, Tensor]:
    """Images of one value each, their number, so that a pixel tells where it comes from; labels likewise."""
    return torch.arange(B).float().view(B, 1, 1, 1).expand(B, 1, H, W).contiguous(), torch.eye(B, dtype=torch.float64)


def test_the_labels_are_the_areas_exactly_and_the_box_is_one_for_the_batch() -> None:
    x, y = numbered()
    mixed = 0
    for seed in range(200):
        z, soft = cutmix(x, y, rng(seed))
        areas = torch.stack([(z[:, 0] == k).flatten(1).double().mean(1) for k in range(len(x))], 1)
        assert (soft - areas).abs().max() < 1e-15
        foreign = (z != x)[:, 0]
        hit = foreign.flatten(1).any(1)
        if hit.any():
            mixed += 1
            first = foreign[hit][0]
            bounds(first)
            assert (foreign[hit] == first).all()
        assert (soft[~hit] == y[~hit]).all()
    assert mixed > 150


def test_the_mean_area_is_the_closed_form() -> None:
    """With u uniform and h = floor(H sqrt(u)) // 2, the height is min(c + h, H) - max(c - h, 0), c uniform; likewise
    the width. The mean over a fine grid of u and all centres is what many draws have to come to."""
    x, y = numbered(2)
    n = 4000
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    draws = []
    for seed in range(n):
        soft = cutmix(x, y, rng(seed))[1]
        draws.append(float((soft * swapped).sum() / 2))
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    mean = torch.ones_like(u)
    for side in (12, 10):
        half = (side * u.sqrt()).long()[:, None] // 2
        centre = torch.arange(side)
        mean *= ((centre + half).clamp(max=side) - (centre - half).clamp(min=0)).double().mean(1) / side
    expected = mean.mean() / 2  # of two, half the permutations swap
    assert abs(torch.tensor(draws).mean() - expected) < 4 * torch.tensor(draws).std() / math.sqrt(n)


def test_a_batch_is_mixed_with_the_probability_given() -> None:
    x, y = numbered(16)
    assert all(torch.equal(cutmix(x, y, rng(s), probability=0.0)[0], x) for s in range(20))
    assert all(torch.equal(cutmix(x, y, rng(s), probability=0.0)[1], y) for s in range(20))
    # At probability 1 a box is empty where floor(12 sqrt(u)) // 2 or floor(10 sqrt(u)) // 2 is 0: u < 1/25.
    share = sum(not torch.equal(cutmix(x, y, rng(s), probability=0.5)[0], x) for s in range(1000)) / 1000
    assert abs(share - 0.5 * 24 / 25) < 0.06


def test_soft_labels_mix_and_still_sum_to_one() -> None:
    x, _ = numbered()
    y = torch.rand(6, 4).softmax(1)
    soft = cutmix(x, y, rng(3))[1]
    assert soft.dtype == torch.float32
    assert (soft.sum(1) - 1).abs().max() < 1e-6
    assert (soft.sum(0) - y.sum(0)).abs().max() < 1e-6  # a permutation moves nothing between the batch's totals


# CropShift


def test_a_crop_goes_back_anywhere_on_black_and_what_is_lost_is_what_was_drawn() -> None:
    B, H, W, most = 3000, 9, 8, 3
    x = torch.arange(1, H * W + 1).float().view(1, 1, H, W).expand(B, 1, H, W)
    z = idbh.crop_shift(x, rng(), most=most)[:, 0]
    lost = torch.zeros(most + 1, most + 1)
    for image in z:
        top, bottom, left, right = bounds(image != 0)
        crop = image[top:bottom, left:right]
        row, column = divmod(int(crop[0, 0]) - 1, W)
        assert torch.equal(crop, x[0, 0, row : row + bottom - top, column : column + right - left])
        lost[H - (bottom - top), W - (right - left)] += 1
    # P(s, w) = 1 / (most + 1) / (s + 1), s = rows and columns lost together
    expected = torch.tensor([[B / 4 / (r + c + 1) if r + c <= most else 0.0 for c in range(4)] for r in range(4)])
    assert (lost[expected == 0] == 0).all()
    chi2 = ((lost - expected) ** 2 / expected)[expected > 0].sum()
    assert chi2 < 27.9  # 99.9 % point with 9 degrees of freedom


def test_without_reach_crop_shift_is_the_identity() -> None:
    x = torch.rand(5, 3, 6, 6)
    assert torch.equal(idbh.crop_shift(x, rng(), most=0), x)


# ColorShape


def photographs(B: int = 6, side: int = 33) -> Tensor:
    """Smooth colour images on 256 levels, brighter on one side."""
    coarse = torch.rand(B, 3, 5, 5, generator=rng(7))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    return (smooth * 200 + 20).round() / 255


def pillow(x: Tensor) -> list[Image.Image]:
    return [Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()) for image in x]


def tensor(images: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])


@pytest.mark.parametrize(
    ("op", "enhance"),
    [
        (idbh.COLOUR, ImageEnhance.Color),
        (idbh.BRIGHTNESS, ImageEnhance.Brightness),
        (idbh.CONTRAST, ImageEnhance.Contrast),
        (idbh.SHARPNESS, ImageEnhance.Sharpness),
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.9])
def test_factors_do_what_pillow_does(op: int, enhance: type, factor: float) -> None:
    x = torch.cat([photographs(3), torch.randint(256, (3, 3, 33, 33), generator=rng()) / 255])
    z = idbh.blended(x, torch.full((6,), op), torch.full((6,), factor))
    theirs = tensor([enhance(image).enhance(factor) for image in pillow(x)])
    assert (z - theirs).abs().max() < 2.5 / 255  # Pillow rounds the grey image and the result, the first times 1 - f
    if factor == 1:
        assert torch.equal(z, x)


def test_equalize_is_pillows_and_autocontrast_up_to_its_rounding() -> None:
    x = torch.cat([photographs(), photographs(1)[:, :, :1, :1].expand(1, 3, 33, 33)])  # the last one constant
    assert (idbh.equalize(x) - tensor([ImageOps.equalize(image) for image in pillow(x)])).abs().max() < 1e-6
    theirs = tensor([ImageOps.autocontrast(image) for image in pillow(x)])
    assert (idbh.autocontrast(x) - theirs).abs().max() < 1.01 / 255
    small = torch.rand(3, 1, 8, 8)
    assert torch.equal(idbh.equalize(small), small)  # 64 pixels do not fill 255 levels


def test_a_quarter_turn_and_a_unit_shear_move_whole_pixels() -> None:
    x, zero, one = torch.rand(4, 3, 7, 7), torch.zeros(4), torch.ones(4)
    assert torch.equal(idbh.tilted(x, zero, zero, zero), x)
    assert torch.equal(idbh.tilted(x, one * math.pi / 2, zero, zero), x.rot90(-1, (2, 3)))
    sheared = idbh.tilted(x, zero, zero, one)
    for row in range(7):
        shift = row - 3
        expected = torch.zeros(4, 3, 7)
        for column in range(7):
            if 0 <= column + shift < 7:
                expected[:, :, column] = x[:, :, row, column + shift]
        assert torch.equal(sheared[:, :, row], expected)
    assert torch.equal(idbh.tilted(x.mT, zero, one, zero), sheared.mT)


def test_a_small_rotation_is_pillows() -> None:
    x = photographs(side=33)
    for degrees in (-10, 1, 7):
        z = idbh.tilted(x, torch.full((6,), math.radians(degrees)), torch.zeros(6), torch.zeros(6))
        theirs = tensor([image.rotate(-degrees, resample=Image.Resampling.NEAREST) for image in pillow(x)])
        ours = tensor([image.rotate(degrees, resample=Image.Resampling.NEAREST) for image in pillow(x)])
        agree = max(float((z - other).abs().lt(1e-6).double().mean()) for other in (theirs, ours))
        assert agree > 0.995  # but for ties between two pixels


def test_each_of_the_eight_operations_is_as_likely() -> None:
    """Of an image whose pixels are all 0.4, only brightness, shears and rotations change anything: shears and rotations
    bring in black (64 pixels are enough for one degree to), brightness changes every pixel."""
    B = 1500
    z = idbh.color_shape(torch.full((B, 1, 64, 64), 0.4), rng())
    black = (z == 0).flatten(1).any(1)
    brighter = ((z - 0.4).abs() > 1e-6).flatten(1).all(1)
    band = 4 * math.sqrt(0.25 * 0.75 / B)
    assert abs(brighter.double().mean() - 1 / 8) < band
    assert abs(black.double().mean() - 2 / 8) < band
    factor = z[brighter].flatten(1)[:, 0] / 0.4
    assert 0.4999 < factor.min() < 0.54
    assert 1.86 < factor.max() <= 1.9001


# The whole


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 32])
def test_idbh_gives_images_and_draws_from_its_generator_alone(channels: int, side: int) -> None:
    x = torch.rand(64, channels, side, side)
    before, copy = torch.random.get_rng_state(), x.clone()
    z = idbh.idbh(x, rng(2), erasing=idbh.STRONG)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(x, copy)
    assert z.shape == x.shape
    assert z.dtype == x.dtype
    assert 0 <= z.min() <= z.max() <= 1
    assert torch.equal(z, idbh.idbh(x, rng(2), erasing=idbh.STRONG))
    assert not torch.equal(z, idbh.idbh(x, rng(3), erasing=idbh.STRONG))


def test_without_flip_no_image_is_mirrored() -> None:
    """A ramp that grows to the right still does, but where contrast has lifted the black beside a crop."""
    x = torch.linspace(0.3, 0.7, 32).expand(500, 1, 32, 32)

    def grows(flip: bool) -> Tensor:
        z = idbh.idbh(x, rng(), flip=flip, erasing=0.0)[:, 0, 16, :]
        left, right = (torch.where(z > 0, z, math.nan)[:, part].nanmean(1) for part in (slice(0, 16), slice(16, 32)))
        return (right > left)[(right - left).abs() > 1e-3]

    assert grows(False).double().mean() > 0.98
    assert 0.4 < grows(True).double().mean() < 0.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: cutout(x, rng(), size=-1), r"'size' parameter must be an int in the range \[0, inf\). Got -1"),
        (lambda x: cutout(x, rng(), size=2, fill=(0, 0)), r"'fill' parameter must be a number, or 3 of them"),
        (lambda x: cutout(x[0], rng(), size=2), r"shape \[B, C, H, W\]. Got \[3, 8, 8\]"),
        (lambda x: random_erasing(x, rng(), probability=1.5), r"'probability' parameter .* \[0, 1\]. Got 1.5"),
        (lambda x: cutmix(x, torch.zeros(2).long(), rng()), r"y must be float of shape \[2, K\]. Got torch.int64"),
        (lambda x: cutmix(x, torch.eye(2), rng(), probability=-1), "Got -1 instead"),
        (lambda x: idbh.crop_shift(x, rng(), most=8), r"'most' parameter must be an int in the range \[0, 8\). Got 8"),
        (lambda x: idbh.idbh(x[:, :2], rng()), r"C 1 \(grey\) or 3 \(RGB\). Got \[2, 2, 8, 8\]"),
    ],
)
def test_bad_parameters_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.rand(2, 3, 8, 8))  # type: ignore[operator]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device() -> None:
    x, y, state = torch.rand(16, 3, 32, 32).cuda(), torch.eye(16).cuda(), torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        cutmix(cutout(idbh.idbh(x, state), state, size=8, fill=(0.5, 0.5, 0.5)), y, state, probability=0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
