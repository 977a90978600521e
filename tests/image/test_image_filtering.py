"""Filters and resampling against scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from sparring.domains.image.filtering import (
    blurred,
    box_weights,
    convolved,
    disk,
    linear_weights,
    mirrored,
    sampled,
    smeared,
)


def noise(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_mirror_is_numpys_reflection(n):
    padded = np.pad(np.arange(n), 12, mode="reflect")
    assert mirrored(torch.arange(-12, n + 12), n).tolist() == padded.tolist()


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("truncate", [3.0, 4.0])
def test_a_gaussian_blur_is_scipys(sigma, truncate):
    x = noise(2, 3, 11, 14)
    expected = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=truncate)
    assert torch.allclose(blurred(x, sigma, truncate), torch.tensor(expected))


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 1), (25, 9)])
def test_a_convolution_is_scipys_also_with_a_kernel_wider_than_the_image(height, width):
    x, half = noise(2, 1, 10, 7), noise(height, width)
    kernel = half + half.flip(0, 1)
    expected = [[ndimage.convolve(plane.numpy(), kernel.numpy(), mode="mirror") for plane in image] for image in x]
    assert torch.allclose(convolved(x, kernel), torch.tensor(np.array(expected)))


def test_a_disk_is_round_and_weighs_one():
    plus = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.float64) / 5
    assert torch.allclose(disk(1.0, 0.0, 1)[1:-1, 1:-1], plus)
    for radius, soft, reach in ((0.3, 0.4, 1), (1.5, 0.1, 1), (10.0, 0.5, 2)):
        kernel = disk(radius, soft, reach)
        assert kernel.sum().item() == pytest.approx(1)
        assert torch.allclose(kernel, kernel.T)
        assert torch.allclose(kernel, kernel.flip(0))
    assert ((disk(10.0, 0.0, 1) > 0).sum() - math.pi * 100).abs() < 10


def test_reading_between_pixels_is_scipys():
    x = noise(2, 3, 9, 12)
    rows, columns = 30 * noise(2, 5, 4) - 10, 40 * noise(2, 5, 4) - 15
    found = sampled(x, rows, columns)
    for i in range(2):
        for c in range(3):
            places = np.stack([rows[i].numpy(), columns[i].numpy()])
            expected = ndimage.map_coordinates(x[i, c].numpy(), places, order=1, mode="mirror")
            assert torch.allclose(found[i, c], torch.tensor(expected))


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1)])
def test_a_line_of_pixels_can_be_read_too(shape):
    x = noise(1, 1, *shape)
    grid = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    assert torch.equal(sampled(x, *(part[None] for part in grid)), x)


def test_a_smear_shifts_a_ramp_by_the_mean_of_its_line():
    x = torch.arange(40.0, dtype=torch.float64).expand(1, 1, 40, 40)
    weights = torch.exp(-((torch.arange(13, dtype=torch.float64) / 3) ** 2) / 2)
    mean = (weights * torch.arange(13)).sum() / weights.sum()
    along = smeared(x, 6, 3.0, torch.zeros(1, dtype=torch.float64))
    assert torch.allclose(along[..., :20], x[..., :20] + mean)
    across = smeared(x, 6, 3.0, torch.full((1,), math.pi / 2, dtype=torch.float64))
    assert torch.allclose(across, x)


def test_linear_weights_read_a_line():
    line = noise(9)
    places = 8 * noise(20)
    expected = np.interp(places.numpy(), np.arange(9), line.numpy())
    assert torch.allclose(linear_weights(places, 9) @ line, torch.tensor(expected))


@pytest.mark.parametrize(("size", "n"), [(4, 8), (3, 9), (5, 32), (30, 32), (32, 30), (1, 7)])
def test_box_weights_are_means_of_pixels(size, n):
    weights = box_weights(size, n)
    assert torch.allclose(weights.sum(1), torch.ones(size, dtype=torch.float64))
    counts = (weights > 0).sum(1)
    assert counts.min() >= max(1, n // size)
    assert counts.max() <= max(1, math.ceil(n / size))
    if n % size == 0:
        assert torch.equal(weights, torch.eye(size, dtype=torch.float64).repeat_interleave(n // size, 1) * size / n)
