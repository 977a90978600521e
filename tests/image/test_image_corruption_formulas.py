"""Of each corruption, what its definition says exactly."""

import colorsys
import math
from io import BytesIO

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sparring.domains.image.corruptions_blur import motion_blur, shuffled, zoom_blur
from sparring.domains.image.corruptions_digital import contrast, elastic_transform, jpeg, pixelate
from sparring.domains.image.corruptions_noise import gaussian_noise, impulse_noise, shot_noise
from sparring.domains.image.corruptions_setting import setting
from sparring.domains.image.corruptions_weather import brightness, fog, frost, ice, plasma, snow

SEVERITIES = (1, 2, 3, 4, 5)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, dtype=torch.float32):
    return torch.rand(*shape, generator=rng(), dtype=dtype)


def landscapes(n, channels, side):
    """Images with structure at every scale."""
    return torch.cat([plasma(torch.zeros(n, 1, side, side), 1.6, rng(c)) for c in range(channels)], 1)


@pytest.mark.parametrize(
    ("side", "published"), [(32, (0.04, 0.06, 0.08, 0.09, 0.10)), (224, (0.08, 0.12, 0.18, 0.26, 0.38))]
)
def test_gaussian_noise_has_the_published_deviation(side, published):
    x = torch.full((2 if side == 224 else 60, 3, side, side), 0.5, dtype=torch.float64)
    for severity, sigma in zip(SEVERITIES, published, strict=True):
        drawn = (gaussian_noise(x, severity, rng()) - x).flatten()
        n = len(drawn)
        assert abs(drawn.mean()) < 4 * sigma / math.sqrt(n)
        # clamping at 0 and 1 cuts what is beyond 0.5 off: the exact second moment of a clamped normal
        normal, a = torch.distributions.Normal(0.0, 1.0), torch.tensor(0.5 / sigma, dtype=torch.float64)
        density = torch.exp(-(a**2) / 2) / math.sqrt(2 * math.pi)
        inner = 2 * normal.cdf(a) - 1 - 2 * a * density
        variance = sigma**2 * (inner + 2 * a**2 * (1 - normal.cdf(a)))
        assert (drawn**2).mean().item() == pytest.approx(variance.item(), rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("value", [0.1, 0.4])
def test_shot_noise_is_a_scaled_poisson_count(value):
    x = torch.full((60, 3, 32, 32), value, dtype=torch.float64)
    for severity, photons in zip(SEVERITIES, (500, 250, 100, 75, 50), strict=True):
        z = shot_noise(x, severity, rng())
        assert torch.allclose(z * photons, (z * photons).round())
        assert z.mean().item() == pytest.approx(value, abs=4 * math.sqrt(value / photons / x.numel()))
        assert z.var().item() == pytest.approx(value / photons, rel=0.02)


def test_impulse_noise_replaces_the_published_share_by_black_and_white_alike():
    x = torch.full((60, 3, 32, 32), 0.4)
    for severity, share in zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True):
        z = impulse_noise(x, severity, rng())
        spread = 4 * math.sqrt(share / x.numel())
        assert (z == 1).double().mean().item() == pytest.approx(share / 2, abs=spread)
        assert (z == 0).double().mean().item() == pytest.approx(share / 2, abs=spread)
        assert ((z == 0) | (z == 1) | (z == x)).all()


def test_glass_only_moves_pixels():
    x = noise(5, 1, 12, 15)
    order = shuffled(x, 2, 2, rng())
    assert torch.equal(order.sort(1).values, torch.arange(180).expand(5, 180))
    assert len({tuple(row.tolist()) for row in order}) == 5
    assert (order != torch.arange(180)).double().mean() > 0.6
    assert torch.equal(shuffled(noise(1, 1, 2, 7), 2, 1, rng()), torch.arange(14)[None])  # too low for such a swap


def test_a_glass_swap_is_uniform_over_its_window():
    """In an image of 2 far squared there is one pixel to swap, with any of the four."""
    order = shuffled(torch.zeros(8000, 1, 2, 2), 1, 1, rng())
    counts = torch.bincount((order != torch.arange(4)).int().argmax(1) * (order != torch.arange(4)).any(1), minlength=3)
    stays = (order == torch.arange(4)).all(1).sum()
    assert stays.item() == pytest.approx(2000, abs=200)
    assert ((counts - torch.tensor([2000 + stays, 2000, 2000])).abs() < 200).all()
    assert (order[:, 3] != 3).sum() + stays == 8000


def test_motion_blur_is_a_line_within_45_degrees_with_half_a_normal_density():
    x = torch.zeros(200, 1, 33, 33, dtype=torch.float64)
    x[:, :, 16, 16] = 1
    z = motion_blur(x, 5, rng())[:, 0]
    weights = torch.exp(-((torch.arange(14, dtype=torch.float64) / (2.5 * 33 / 32)) ** 2) / 2)
    assert torch.allclose(z.sum((1, 2)), torch.ones(200, dtype=torch.float64))
    assert torch.allclose(z[:, 16, 16], weights[0] / weights.sum())
    for image in z:
        rows, columns = (image > 0).nonzero().T
        assert ((rows - 16).abs() <= (columns - 16).abs()).all()
        assert ((columns - 16) <= 0).all()  # to one side
    slopes = {tuple((image > 0).nonzero()[:, 0].tolist()) for image in z}
    assert len(slopes) > 20


def test_zoom_blur_shrinks_the_slope_of_a_ramp_about_its_middle():
    ramp = torch.linspace(-0.5, 0.5, 32, dtype=torch.float64)
    x = (0.5 + 0.6 * ramp[:, None] + 0.3 * ramp).expand(1, 1, 32, 32)
    for severity, factors in zip(
        SEVERITIES,
        (np.arange(1, 1.06, 0.01), np.arange(1, 1.11, 0.01), np.arange(1, 1.16, 0.01), np.arange(1, 1.21, 0.01),
         np.arange(1, 1.26, 0.01)),
        strict=True,
    ):  # fmt: skip
        slope = (1 + (1 / factors).sum()) / (len(factors) + 1)
        assert torch.allclose(zoom_blur(x, severity, rng()), 0.5 + slope * (x - 0.5))


def test_snow_falls_alike_on_an_image_turned_upside_down():
    x = torch.full((4, 3, 32, 32), 0.2, dtype=torch.float64)
    for severity, kept in zip(SEVERITIES, (0.95, 0.9, 0.9, 0.85, 0.8), strict=True):
        z = snow(x, severity, rng())
        assert torch.allclose(z, z.flip(2, 3))
        whitened = kept * 0.2 + (1 - kept) * (1.5 * 0.2 + 0.5)
        assert z.min().item() >= whitened - 1e-12
        assert (z > whitened + 0.05).any()
    one, two = snow(noise(1, 3, 32, 32), 1, rng()), snow(noise(1, 3, 32, 32).mean(1, keepdim=True), 1, rng())
    assert one.shape[1] == 3
    assert two.shape[1] == 1


def test_frost_adds_weighted_ice():
    x = 0.3 * noise(3, 3, 32, 32)
    for severity, (kept, added) in zip(
        SEVERITIES, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)), strict=True
    ):
        assert torch.allclose(frost(x, severity, rng()), (kept * x + added * ice(x, rng())).clamp(0, 1))


@pytest.mark.parametrize("side", [28, 32, 224])
def test_ice_is_a_texture_of_middling_brightness(side):
    texture = ice(torch.zeros(8, 3, side, side), rng())
    assert ((texture >= 0) & (texture <= 1)).all()
    assert 0.4 < texture.mean() < 0.5
    assert texture.std((2, 3)).min() > 0.05
    assert texture[:, 2].mean() > texture[:, 0].mean()  # blue more than red


def test_fog_keeps_the_brightest_value_and_blackness():
    x = 0.8 * noise(4, 3, 32, 32, dtype=torch.float64)
    for severity, (weight, calming) in zip(
        SEVERITIES, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), strict=True
    ):
        top = x.amax((1, 2, 3), keepdim=True)
        assert torch.allclose(fog(x, severity, rng()), (x + weight * plasma(x, calming, rng())) * top / (top + weight))
    assert torch.equal(fog(torch.zeros(1, 3, 32, 32), 5, rng()), torch.zeros(1, 3, 32, 32))


def test_a_landscape_spans_zero_to_one_meets_itself_at_the_border_and_calms_down():
    like = torch.zeros(50, 3, 32, 32, dtype=torch.float64)
    rough = []
    for calming in (1.2, 1.75, 3.0):
        land = plasma(like, calming, rng())
        assert torch.equal(land.amin((1, 2, 3)), torch.zeros(50, dtype=torch.float64))
        assert torch.equal(land.amax((1, 2, 3)), torch.ones(50, dtype=torch.float64))
        inside, around = land.diff(dim=2).abs().mean(), (land[:, :, 0] - land[:, :, -1]).abs().mean()
        assert around < 1.5 * inside
        rough.append(inside)
    assert rough[0] > rough[1] > rough[2]


def test_a_calm_landscape_is_the_mean_of_its_corners():
    """Without displacement below the first level, every new point is the mean of four others."""
    land = plasma(torch.zeros(6, 1, 8, 8, dtype=torch.float64), 1e6, rng())[:, 0]
    corner, centre, top, left = land[:, 0, 0], land[:, 4, 4], land[:, 0, 4], land[:, 4, 0]
    assert torch.allclose(land[:, 2, 2], (corner + centre + top + left) / 4, atol=1e-9)
    assert torch.allclose(land[:, 0, 2], (corner + top + land[:, 2, 2] + land[:, 6, 2]) / 4, atol=1e-9)
    assert torch.allclose(land[:, 2, 0], (corner + left + land[:, 2, 2] + land[:, 2, 6]) / 4, atol=1e-9)


def test_brightness_adds_to_the_value_of_hue_saturation_and_value():
    x = noise(1, 3, 8, 8, dtype=torch.float64)
    x[:, :, 0, 0] = 0
    for severity, added in zip(SEVERITIES, (0.05, 0.1, 0.15, 0.2, 0.3), strict=True):
        z = brightness(x, severity, rng())
        for i in range(64):
            h, s, v = colorsys.rgb_to_hsv(*x.flatten(2)[0, :, i].tolist())
            assert z.flatten(2)[0, :, i].tolist() == pytest.approx(colorsys.hsv_to_rgb(h, s, min(1.0, v + added)))
        grey = x[:, :1]
        assert torch.allclose(brightness(grey, severity, rng()), (grey + added).clamp(max=1))


@pytest.mark.parametrize(("side", "published"), [(84, (0.75, 0.5, 0.4, 0.3, 0.15)), (85, (0.4, 0.3, 0.2, 0.1, 0.05))])
def test_contrast_is_exact_and_the_constants_change_at_85_pixels(side, published):
    x = noise(2, 3, side, 100, dtype=torch.float64)
    mean = x.mean((2, 3), keepdim=True)
    for severity, share in zip(SEVERITIES, published, strict=True):
        assert torch.allclose(contrast(x, severity, rng()), mean + share * (x - mean))


@pytest.mark.parametrize(
    ("side", "scale"), [(8, 1), (28, 1), (32, 1), (48, 1.5), (64, 2), (112, 0.5), (224, 1), (448, 2)]
)
def test_lengths_grow_with_the_shorter_side(side, scale):
    constant, found, _ = setting(torch.zeros(1, 1, side, side + 5), 2, "abcde", "ABCDE")
    assert constant == ("b" if side < 85 else "B")
    assert found == scale


def ramps(side):
    """An image whose first channel tells the row, the second the column: `[1, 3, side, side]`, in pixels."""
    line = torch.arange(side, dtype=torch.float64)
    return torch.stack([line[:, None].expand(side, side), line.expand(side, side), torch.zeros(side, side)])[None]


def test_elastic_at_severity_one_is_an_affine_map_of_three_points_moved_no_further_than_published():
    side, far = 32, 0.08 * 32
    x = (ramps(side) / (side - 1)).expand(200, -1, -1, -1)
    z = elastic_transform(x, 1, rng())[:, :2, 11:21, 11:21] * (side - 1)
    assert torch.allclose(z.diff(n=2, dim=2), torch.zeros(1, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(z.diff(n=2, dim=3), torch.zeros(1, dtype=torch.float64), atol=1e-9)
    linear = torch.stack([z[:, :, 1, 0] - z[:, :, 0, 0], z[:, :, 0, 1] - z[:, :, 0, 0]], 2)  # [B, place, along]
    moved = []
    for corner in ([26.0, 26.0], [26.0, 6.0], [6.0, 6.0]):
        target = torch.tensor(corner, dtype=torch.float64) - z[:, :, 0, 0]
        moved.append(11 + torch.linalg.solve(linear, target) - torch.tensor(corner, dtype=torch.float64))
    distance = torch.stack(moved).abs()
    assert distance.max() <= far + 1e-9
    assert distance.max() > 0.95 * far
    assert distance.mean().item() == pytest.approx(far / 2, rel=0.1)


def test_elastic_tears_more_the_higher_the_severity():
    """What an affine map leaves of a ramp is a ramp: bends are the noise's."""
    x = (ramps(32) / 31).expand(100, -1, -1, -1)
    bends = [
        elastic_transform(x, severity, rng())[:, :2, 11:21, 11:21].diff(n=2, dim=3).abs().mean().item()
        for severity in SEVERITIES
    ]
    assert bends == sorted(bends)
    assert bends[0] < 1e-9 < 1e-3 < bends[2] < 0.8 * bends[3]


def test_pixelate_gives_the_means_of_blocks():
    x = noise(2, 3, 88, 96, dtype=torch.float64)
    for severity, block in ((2, 2), (5, 4)):
        means = F.avg_pool2d(x, block).repeat_interleave(block, 2).repeat_interleave(block, 3)
        assert torch.allclose(pixelate(x, severity, rng()), means)


@pytest.mark.parametrize(("H", "W"), [(32, 32), (28, 37), (90, 110)])
def test_pixelate_is_pillows_box(H, W):
    pixels = (255 * noise(1, 3, H, W)).round().to(torch.uint8)
    ratios = (0.95, 0.9, 0.85, 0.75, 0.65) if H < 85 else (0.6, 0.5, 0.4, 0.3, 0.25)
    for severity, ratio in zip(SEVERITIES, ratios, strict=True):
        image = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
        image = image.resize((int(W * ratio), int(H * ratio)), Image.Resampling.BOX).resize(
            (W, H), Image.Resampling.BOX
        )
        expected = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
        found = pixelate(pixels.double() / 255, severity, rng())
        assert (found - expected).abs().max() <= 1.01 / 255  # Pillow rounds after each direction


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_at_the_published_quality(channels):
    x = landscapes(6, channels, 32)
    for severity, quality in zip(SEVERITIES, (80, 65, 58, 50, 40), strict=True):
        z = jpeg(x, severity, rng())
        for i in range(len(x)):
            pixels = (255 * x[i]).round().to(torch.uint8).permute(1, 2, 0).squeeze(2).numpy()
            buffer = BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
            again = torch.tensor(np.asarray(Image.open(buffer))).float().view(32, 32, channels) / 255
            assert torch.equal(z[i], again.permute(2, 0, 1))


def test_jpeg_loses_more_the_higher_the_severity():
    x = landscapes(8, 3, 96)
    psnr = [-10 * math.log10(((jpeg(x, s, rng()) - x) ** 2).mean().item()) for s in SEVERITIES]
    assert psnr == sorted(psnr, reverse=True)
    assert 20 < psnr[-1] < psnr[0] < 40
