"""Crops and flips: limits, exactness, distribution, determinism."""

import pytest
import torch
import torch.nn.functional as F

from sparring.domains.image import pad_crop_flip


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(B=400, C=2, H=6, W=7):
    """Images without two equal pixels and without zeros, so a crop tells where it was taken."""
    return torch.arange(1, 1 + C * H * W).float().view(1, C, H, W) + 1000 * torch.arange(B).float().view(B, 1, 1, 1)


def places(x, z, pad, padded):
    """For each image, the (dy, dx, mirrored) whose crop it is; exactly one must match."""
    H, W = x.shape[2:]
    found = []
    for i in range(len(x)):
        matches = []
        for dy in range(2 * pad + 1):
            for dx in range(2 * pad + 1):
                crop = padded[i, :, dy : dy + H, dx : dx + W]
                matches += [(dy, dx, m) for m in (0, 1) if torch.equal(z[i], crop.flip(2) if m else crop)]
        found.append(matches)
    return found


@pytest.mark.parametrize("border", ["zero", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
def test_every_result_is_one_crop_of_the_padded_image_and_every_crop_is_as_likely(border, flip):
    x, pad = numbered(), 2
    z = pad_crop_flip(x, rng(), pad=pad, flip=flip, border=border)
    padded = F.pad(x, (pad,) * 4, mode="constant" if border == "zero" else "reflect")
    found = places(x, z, pad, padded)
    assert all(len(matches) == 1 for matches in found)
    counts = torch.zeros(5, 5, 2)
    for ((dy, dx, mirrored),) in found:
        counts[dy, dx, mirrored] += 1
    if flip:
        assert abs(counts[..., 1].sum() / 400 - 0.5) < 0.1
    else:
        assert counts[..., 1].sum() == 0
    expected = 400 / 25
    chi2 = ((counts.sum(2) - expected) ** 2 / expected).sum()
    assert chi2 < 52  # 99.9 % point of chi-squared with 24 degrees of freedom is 51.2


def test_without_padding_and_flip_it_is_the_identity():
    x = numbered(B=7)
    assert torch.equal(pad_crop_flip(x, rng(), pad=0, flip=False), x)


def test_without_padding_it_is_the_image_or_its_mirror():
    x = numbered(B=64)
    z = pad_crop_flip(x, rng(), pad=0)
    same, mirrored = (z == x).flatten(1).all(1), (z == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 0 < mirrored.sum() < 64


def test_the_same_state_gives_the_same_result_and_the_next_another():
    x, state = numbered(), rng(3)
    first, second = pad_crop_flip(x, state), pad_crop_flip(x, state)
    assert torch.equal(first, pad_crop_flip(x, rng(3)))
    assert not torch.equal(first, second)
    before = torch.random.get_rng_state()
    pad_crop_flip(x, rng())
    assert torch.equal(before, torch.random.get_rng_state())


def test_moves_may_exceed_the_image_and_dtype_and_input_are_kept():
    x = numbered(B=50).to(torch.uint8)
    copy = x.clone()
    z = pad_crop_flip(x, rng(), pad=9)
    assert z.dtype == torch.uint8
    assert z.shape == x.shape
    assert torch.equal(x, copy)
    assert (z.flatten(1) == 0).all(1).any()


def test_gradients_reach_the_pixels():
    x = numbered(B=3).requires_grad_()
    pad_crop_flip(x, rng(), pad=1).sum().backward()
    assert set(x.grad.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad": -1}, r"'pad' parameter must be an int in the range \[0, inf\]. Got -1"),
        ({"pad": 1.5}, "Got 1.5"),
        ({"pad": True}, "Got True"),
        ({"pad": 6, "border": "reflect"}, r"\[0, 5\]. Got 6"),
        ({"border": "wrap"}, "'border' parameter must be 'zero' or 'reflect'. Got 'wrap'"),
    ],
)
def test_bad_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        pad_crop_flip(numbered(B=2), rng(), **options)
    with pytest.raises(ValueError, match=r"shape \[B, C, H, W\]. Got \[2, 6, 7\]"):
        pad_crop_flip(numbered(B=2)[:, 0], rng())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nothing_waits_for_the_device():
    x, state = numbered().cuda(), torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        z = pad_crop_flip(x, state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert z.is_cuda
