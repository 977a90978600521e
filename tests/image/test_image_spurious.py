"""Data sets with a trap: what their colours predict, where their masks are, and what differs in their shifted split."""

import colorsys
import math
import re

import numpy as np
import pytest
import torch
from published import write_idx, write_mnist_like
from torch.nn import functional

from sparring.domains.image import NAMES, DataError, load
from sparring.domains.image.data import customary
from sparring.domains.image.spurious import (
    FAMILIAR,
    SIDE,
    UNSEEN,
    blobs,
    checker,
    colours,
    hues,
    painted,
    place,
    shaded,
    stripes,
    texture,
)

WHEEL = torch.tensor([colorsys.hsv_to_rgb(k / 10, 1, 1) for k in range(10)], dtype=torch.float32)


@pytest.fixture(scope="module")
def data():
    return load("digits-on-textures")


def splits(data):
    return data.train, data.test, data.shifted["colour-swapped"]


def hue_seen(x):
    """The hue behind a digit, from its pixels alone. Fully saturated colours lack a channel; ink lacks none."""
    ground = (x.amin(1, keepdim=True) == 0).float()
    mean = (x * ground).sum((2, 3)) / ground.sum((2, 3))
    return torch.cdist(mean / mean.amax(1, keepdim=True), WHEEL).argmin(1)


def within(count, n, p, sigmas=4.5):
    """Whether a count is one that a binomial distribution gives; the bound is crossed once in 150,000."""
    return abs(count - n * p) <= sigmas * math.sqrt(n * p * (1 - p))


# what colours predict


def test_the_colour_is_the_class_own_nine_times_of_ten_and_once_in_ten_where_it_is_swapped(data):
    for source, own in zip(splits(data), (0.9, 0.9, 0.1), strict=True):
        assert within(int((hue_seen(source.x / 255) == source.y).sum()), len(source), own)


@pytest.mark.parametrize("own", [0.0, 0.1, 0.9, 1.0])
def test_a_colour_that_is_not_the_class_own_is_any_of_the_other_nine(rng, own):
    y = torch.arange(90_000) % 10
    away = (colours(y, own, rng) - y) % 10
    others = torch.bincount(away, minlength=10)[1:].tolist()
    assert sum(others) == 90_000 - int((away == 0).sum())
    assert within(sum(others), 90_000, 1 - own)
    assert all(within(count, 90_000, (1 - own) / 9) for count in others)


def test_a_swapped_colour_tells_nothing_of_the_class(rng):
    """Chi-square of the table of classes by colours: 81 degrees of freedom; mean 81, std 12.7 when independent."""
    y = torch.randint(0, 10, (50_000,), generator=rng)
    chance, own = (_chi_square(y, colours(y, p, rng)) for p in (0.1, 0.12))
    assert 81 - 50 < chance < 81 + 50
    assert own > 81 + 50


def _chi_square(y, hue):
    table = torch.bincount(10 * y + hue, minlength=100).view(10, 10).double()
    expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    return float(((table - expected).square() / expected).sum())


def test_a_linear_classifier_of_the_mean_colour_falls_into_the_trap(data):
    from sklearn.linear_model import LogisticRegression

    train, test, swapped = ((s.x.double().mean((2, 3)).numpy() / 25, s.y.numpy()) for s in splits(data))
    model = LogisticRegression(C=100, max_iter=2000).fit(*train)
    assert within(round(450 * model.score(*test)), 450, 0.9)
    assert within(round(450 * model.score(*swapped)), 450, 0.1)


def test_the_hues_are_those_of_the_wheel_and_an_attack_at_the_customary_radius_does_not_confuse_them():
    torch.testing.assert_close(hues(10), WHEEL, rtol=0, atol=1e-6)
    apart = torch.cdist(hues(10), hues(10), p=math.inf) + torch.eye(10)
    assert apart.min() > 0.4 - 1e-6
    mean_shade = shaded(torch.ones(1, 3), torch.full((1, 1, 1), 0.5)).mean()
    assert apart.min() * mean_shade > 2 * customary("digits-on-textures")["linf"]


def test_ink_is_near_white_whatever_the_class(tmp_path):
    """Of digits that are a full square each. The light is drawn from [0.9, 1] per channel: 0.95 on average."""
    x, y = np.zeros((2000, 28, 28), np.uint8), np.arange(2000, dtype=np.uint8) % 10
    x[:, 9:19, 9:19] = 255
    write_idx(tmp_path / "mnist", (x, y, x[:20], y[:20]))
    source = load("mnist-on-textures", tmp_path).train
    light = source.x.float().movedim(1, -1)[source.masks].view(2000, 100, 3) / 255
    assert torch.equal(light.amin(1), light.amax(1))
    assert abs(float(light.min()) - 0.9) <= 1 / 255
    assert light.max() == 1
    by_class = torch.stack([light[source.y == k].mean((0, 1)) for k in range(10)])
    assert ((by_class - 0.95).abs() < 4.5 * 0.1 / 12**0.5 / 200**0.5).all()


# where the digit is


def test_masks_are_where_the_ink_is_and_nowhere_else(data):
    """The channel that the texture's colour lacks shows the ink alone: between 0.9 and 1 times as much as there is."""
    for source in splits(data):
        ink = source.x.amin(1).float() / 255
        assert source.masks.dtype == torch.bool
        assert source.masks.shape == (len(source), SIDE, SIDE)
        assert float(ink[source.masks].min()) >= 0.45 - 1 / 255
        assert float(ink[~source.masks].max()) <= 0.5 + 1 / 255
        assert 0.05 < float(source.masks.float().mean((1, 2)).min()) < float(source.masks.float().mean()) < 0.25


def test_the_mask_is_the_digit_itself_at_one_place(data):
    """Against torch's own interpolation of the plain digits."""
    rows = torch.arange(40)
    plain, y = load("digits").test.take(rows)
    large = functional.interpolate(plain, (20, 20), mode="bilinear", align_corners=True)[:, 0]
    places = set()
    for digit, label, mask, shown in zip(large, y, data.test.masks_of(rows), data.test.y, strict=False):
        assert label == shown
        fits = [
            (i, j)
            for i in range(13)
            for j in range(13)
            if bool((mask[i : i + 20, j : j + 20] | (digit < 0.5 + 1e-4)).all())
            and bool((~mask[i : i + 20, j : j + 20] | (digit > 0.5 - 1e-4)).all())
            and int(mask.sum()) == int(mask[i : i + 20, j : j + 20].sum())
        ]
        assert len(fits) == 1
        places.add(fits[0])
    assert len(places) > 30


def test_a_place_loses_no_ink_and_every_place_is_as_likely(rng):
    ink = torch.rand(5000, 29, 30, generator=rng) + 0.1
    placed = place(ink, rng)
    assert placed.shape == (5000, SIDE, SIDE)
    torch.testing.assert_close(placed.sum((1, 2)), ink.sum((1, 2)))
    corner = (placed > 0).flatten(1).int().argmax(1)
    assert torch.equal(placed.flatten(1).gather(1, corner[:, None])[:, 0], ink[:, 0, 0])
    rows, columns = corner // SIDE, corner % SIDE
    assert all(within(int((rows == k).sum()), 5000, 1 / 4) for k in range(4))
    assert all(within(int((columns == k).sum()), 5000, 1 / 3) for k in range(3))


def test_paint_leaves_the_ground_where_there_is_no_ink_and_covers_it_where_there_is_all(rng):
    ground = torch.rand(3, 3, SIDE, SIDE, generator=rng)
    light = torch.tensor([[0.9, 0.95, 1.0]]).expand(3, 3)
    ink = torch.rand(3, SIDE, SIDE, generator=rng)
    ink[:, :10], ink[:, 20:] = 0, 1
    image = painted(ground, ink, light)
    assert torch.equal(image[:, :, :10], ground[:, :, :10])
    torch.testing.assert_close(image[:, :, 20:], light[:, :, None, None].expand(3, 3, 12, SIDE))
    between = (1 - ink[:, None]) * ground + ink[:, None] * light[:, :, None, None]
    torch.testing.assert_close(image, between)


# what is behind it


@pytest.mark.parametrize("family", [blobs, stripes, checker])
def test_a_texture_has_all_its_shades_and_is_one_half_on_average(rng, family):
    t = family(400, rng)
    assert t.shape == (400, SIDE, SIDE)
    assert 0 <= t.min() < 0.05
    assert 0.95 < t.max() <= 1
    assert abs(float(t.mean()) - 0.5) < 0.02
    assert float(t.std((1, 2)).min()) > 0.05
    assert not torch.equal(t[0], t[1])


def test_families_tell_apart_and_training_never_shows_the_unseen(data, rng):
    """Blobs have many shades in small steps; stripes and checks have two."""
    train, test, swapped = (hue_shades(source) for source in splits(data))
    assert min(train.min(), test.min()) > 20
    assert swapped.max() <= 3  # a trace of ink, too little to see, may change one by a level
    assert set(FAMILIAR).isdisjoint(UNSEEN)
    mixed = texture((blobs, stripes), 2000, rng)
    assert within(sum(len(t.unique()) == 2 for t in mixed), 2000, 0.5)


def hue_shades(source):
    """How many shades each image's texture has."""
    ground, brightest = source.x.amin(1) == 0, source.x.amax(1)
    return torch.tensor([len(b[g].unique()) for b, g in zip(brightest, ground, strict=True)])


def test_stripes_are_constant_along_one_direction_and_checks_are_stripes_times_stripes(rng):
    vertical = [t for t in stripes(200, rng) if bool((t == t[:1]).all())]
    assert within(len(vertical), 200, 1 / 8)
    for t in vertical:
        runs = torch.unique_consecutive(t[0], return_counts=True)[1][1:-1]
        assert runs.unique().numel() == 1
        assert 2 <= int(runs[0]) <= 5
    for t in checker(50, rng):
        sign = 2 * t - 1
        assert torch.linalg.matrix_rank(sign) == 1


# the splits together


def test_what_differs_in_the_shifted_split_is_behind_the_digit(data):
    test, swapped = data.test, data.shifted["colour-swapped"]
    assert torch.equal(test.y, load("digits").test.y)
    assert torch.equal(test.y, swapped.y)
    assert torch.equal(test.masks, swapped.masks)
    full = (test.x.amin(1) >= 0.95 * 255) & (swapped.x.amin(1) >= 0.95 * 255)  # hardly any ground shines through
    a, b = (s.x.movedim(1, -1)[full].int() for s in (test, swapped))
    assert len(a) > 100
    assert (a - b).abs().max() <= 0.05 * 0.8 * 255 + 1
    assert not torch.equal(test.x, swapped.x)


def test_two_loads_give_the_same_bits_and_the_seed_of_torch_has_no_part_in_it(data):
    torch.manual_seed(5)
    again = load("digits-on-textures")
    for one, other in zip(splits(data), splits(again), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.masks, other.masks)
    assert data.fingerprint == again.fingerprint
    assert data.fingerprint != load("digits").fingerprint


def test_every_image_is_in_the_unit_interval_and_takes_a_byte_per_value(data):
    assert data.shape == (3, SIDE, SIDE)
    assert [len(s) for s in splits(data)] == [1347, 450, 450]
    for source in splits(data):
        x, y = source.take(torch.arange(len(source)))
        assert source.x.dtype == torch.uint8
        assert (x.min(), y.dtype) == (0, torch.int64)
        assert 0.99 < x.max() <= 1


def test_mnist_on_textures_is_made_of_the_idx_files(tmp_path, monkeypatch):
    x, y, x_test, y_test = write_mnist_like(tmp_path / "mnist", n=1200, test=30)
    x[:], x_test[:] = 0, 0
    x[:, 9:19, 12:16], x_test[:, 9:19, 12:16] = 255, 255
    write_idx(tmp_path / "mnist", (x, y, x_test, y_test))
    made = load("mnist-on-textures", tmp_path)
    assert (made.name, made.shape, made.classes) == ("mnist-on-textures", (3, 32, 32), tuple("0123456789"))
    assert [len(s) for s in splits(made)] == [1200, 30, 30]  # more than one part of a thousand
    assert torch.equal(made.train.y, torch.from_numpy(y.astype(np.int64)))
    assert made.train.masks.sum((1, 2)).tolist() == [40] * 1200
    top = made.train.masks.any(2).int().argmax(1)
    assert set(top.tolist()) == set(range(9, 14))
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    with pytest.raises(DataError, match="mnist was not found"):
        load("mnist-on-textures")


# names


def test_names_are_listed_hinted_at_and_have_their_radii(tmp_path):
    made = ("digits-on-textures", "mnist-on-textures", *(f"cifar10-tinted-{k}" for k in range(4)))
    assert set(made) < set(NAMES)
    with pytest.raises(DataError, match=re.escape(", ".join(made))):
        load("nothing-like-it")
    for wrong, right in (("digits-on-texture", made[0]), ("minst-on-textures", made[1]), ("cifar10-tinted4", made[2])):
        with pytest.raises(DataError, match=rf"Did you mean '{right[:-2]}"):
            load(wrong)
    assert [dict(customary(name)) for name in made] == [{"linf": 0.1}] * 2 + [{"linf": 8 / 255}] * 4
    assert dict(load("digits-on-textures").customary) == {"linf": 0.1}
    with pytest.raises(DataError, match=r"digits-on-textures holds arrays of 32x32 pixels. Got 16"):
        load("digits-on-textures", size=16)
