"""Sources, checks, statistics, the fingerprint and the split."""

import pickle

import numpy as np
import pytest
import torch
from published import pixels

from sparring.domains.image.source import (
    STD_FLOOR,
    DataError,
    Images,
    Splits,
    assemble,
    channel_statistics,
    check,
    fingerprint,
)
from sparring.domains.image.split import divided, stratified


def images(n=12, classes=3, seed=0):
    return Images(torch.from_numpy(pixels(n, 3, 5, 4, seed=seed)), torch.arange(n) % classes)


def test_bytes_become_pixels_in_the_unit_interval_and_stay_bytes_in_memory():
    source = images()
    rows = torch.tensor([7, 2, 2])
    x, y = source.take(rows)
    assert x.dtype == torch.float32
    assert torch.equal(x, source.x[rows].float() / 255)
    assert torch.equal(y, torch.tensor([1, 2, 2]))
    assert source.x.dtype == source.subset(rows).x.dtype == source.to("cpu").x.dtype == torch.uint8
    whole = Images(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
    assert whole.take(torch.arange(2))[0].flatten().tolist() == [0.0, 1.0]


def test_float_pixels_pass_unchanged_and_a_subset_takes_its_own_rows():
    x = torch.rand(6, 1, 3, 3)
    source = Images(x, torch.arange(6)).subset(torch.tensor([5, 1]))
    assert len(source) == 2
    taken, y = source.take(torch.tensor([1, 0]))
    assert torch.equal(taken, x[[1, 5]])
    assert y.tolist() == [1, 5]


def _floats(value, row):
    x = torch.full((4, 1, 2, 2), 0.5)
    x[row, 0, 1, 0] = value
    return Images(x, torch.zeros(4, dtype=torch.int64))


U8 = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Images(U8, torch.tensor([0, 5, 1])), r"here: labels must be in the range \[0, 3\). Got 5 in row 1"),
        (Images(U8, torch.tensor([0, 1, 3])), r"\[0, 3\). Got 3 in row 2"),
        (Images(U8, torch.tensor([-1, 0, 1])), r"\[0, 3\). Got -1 in row 0"),
        (Images(U8, torch.tensor([0, 1])), "one label per image. Got 3 images and 2 labels"),
        (Images(U8[:0], torch.zeros(0, dtype=torch.int64)), "at least one image"),
        (Images(U8[:, 0], torch.zeros(3, dtype=torch.int64)), r"\[N, C, H, W\]. Got \[3, 2, 2\]"),
        (Images(U8, torch.zeros(3, 1, dtype=torch.int64)), r"shape \[N\]. Got torch.int64 of shape \[3, 1\]"),
        (Images(U8, torch.zeros(3)), "labels must be int64"),
        (Images(U8.double(), torch.zeros(3, dtype=torch.int64)), "Got torch.float64"),
        (_floats(1.25, 2), r"range \[0, 1\]. Row 2 has min 0.5 and max 1.25.$"),
        (_floats(-0.1, 1), "Row 1 has min -0.1 and max 0.5"),
        (_floats(200.0, 3), "Row 3 has min 0.5 and max 200. Were they meant as 0..255"),
        (_floats(float("nan"), 1), "NaN or infinity in row 1"),
        (_floats(float("inf"), 3), "NaN or infinity in row 3"),
    ],
)
def test_a_broken_promise_is_named(source, message):
    with pytest.raises(DataError, match=message):
        check(source, 3, "here")


def test_what_keeps_its_promises_passes_and_the_bounds_are_included():
    check(images(), 3, "here")
    check(_floats(0.0, 0), 1, "here")
    check(_floats(1.0, 3), 1, "here")


def test_bad_pixels_are_found_beyond_the_first_part():
    x = torch.zeros(2500, 1, 1, 1)
    x[2049] = 2.0
    with pytest.raises(DataError, match="Row 2049"):
        check(Images(x, torch.zeros(2500, dtype=torch.int64)), 1, "here")


def test_a_dataset_checks_both_splits_and_that_they_agree():
    data = assemble("toy", Splits(images(), images(9)), {"linf": 0.1})
    assert data.classes == ("0", "1", "2")
    assert data.shape == (3, 5, 4)
    assert dict(data.customary) == {"linf": 0.1}
    assert pickle.loads(pickle.dumps(data)).fingerprint == data.fingerprint  # as a spawned process gets it
    with pytest.raises(DataError, match=r"toy test: labels must be in the range \[0, 3\). Got 3 in row 3"):
        assemble("toy", Splits(images(), images(9, classes=4)))
    with pytest.raises(DataError, match=r"train images' shape \(3, 5, 4\). Got \(1, 2, 2\)"):
        assemble("toy", Splits(images(), Images(U8, torch.arange(3))))
    with pytest.raises(DataError, match="toy train: there must be at least one image"):
        assemble("toy", Splits(Images(U8[:0], torch.zeros(0, dtype=torch.int64)), images()))


def test_mean_and_std_are_those_of_the_train_pixels_only():
    train, other = images(300, seed=0), Images(torch.full((9, 3, 5, 4), 255, dtype=torch.uint8), torch.arange(9) % 3)
    data = assemble("toy", Splits(train, other))
    expected = train.x.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(torch.tensor(data.mean).double(), expected.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor(data.std).double(), expected.std(1, correction=0), rtol=1e-6, atol=1e-6)


def test_a_constant_channel_has_the_least_std():
    x = torch.rand(20, 2, 3, 3)
    x[:, 1] = 0.75
    mean, std = channel_statistics(Images(x, torch.zeros(20, dtype=torch.int64)))
    assert mean[1] == 0.75
    assert std[1] == STD_FLOOR
    assert std[0] > STD_FLOOR


def test_statistics_of_many_images_do_not_fall_in_step_with_their_order():
    """MNIST alternates between two groups of writers: an even stride would see only one of them."""
    x = (torch.arange(40_000) % 2).float().view(-1, 1, 1, 1)
    mean, std = channel_statistics(Images(x, torch.zeros(40_000, dtype=torch.int64)))
    assert abs(mean[0] - 0.5) < 0.02
    assert abs(std[0] - 0.5) < 0.02


def test_the_fingerprint_changes_with_a_pixel_a_label_an_image_the_order_and_the_split():
    base, other = images(), images(6, seed=1)
    known = {fingerprint(base, other)}
    assert fingerprint(images(), images(6, seed=1)) in known

    def is_new(*sources):
        mark = fingerprint(*sources)
        fresh = mark not in known
        known.add(mark)
        return fresh

    pixel = base.x.clone()
    pixel[3, 1, 2, 2] ^= 1
    label = base.y.clone()
    label[3] = 2
    assert is_new(Images(pixel, base.y), other)
    assert is_new(Images(base.x, label), other)
    assert is_new(base.subset(torch.arange(11)), other)
    assert is_new(Images(base.x.flip(0), base.y), other)
    assert is_new(Images(base.x.transpose(2, 3), base.y), other)
    assert is_new(other, base)
    assert is_new(base, Images(other.x ^ 1, other.y))


def test_the_split_is_fixed_disjoint_complete_and_stratified():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    train, test = stratified(y, 20)
    again, _ = stratified(y, 20)
    assert torch.equal(train, again)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(100))
    assert np.bincount(y[test.numpy()]).tolist() == [10, 6, 4]
    # as published with the first release: who changes these changes everybody's results
    assert test.tolist() == [8, 10, 11, 18, 30, 32, 34, 39, 41, 44, 53, 57, 68, 71, 74, 75, 81, 87, 91, 96]


def test_the_split_meets_its_size_by_largest_remainder_and_leaves_every_class_to_train():
    y = np.repeat([0, 1, 2], [7, 7, 1])
    train, test = stratified(y, 5)
    assert len(test) == 5
    assert set(y[train.numpy()]) == {0, 1, 2}
    left, right = divided(images(10))
    assert (len(left), len(right)) == (8, 2)
    with pytest.raises(DataError, match="at least two images"):
        divided(images(1))
