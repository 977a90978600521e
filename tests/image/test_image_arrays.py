"""idx and npz: round trips and every way to be damaged."""

import gzip

import numpy as np
import pytest
import torch
from published import IDX_STEMS, idx_bytes, pixels, write_idx, write_mnist_like

from sparring.domains.image import DataError, load
from sparring.domains.image.formats import read_idx, read_npz


@pytest.mark.parametrize("gz", [False, True])
def test_idx_round_trip(tmp_path, gz):
    x, y, x_test, y_test = write_mnist_like(tmp_path, gz=gz)
    splits = read_idx(tmp_path)
    assert np.array_equal(splits.train.x[:, 0].numpy(), x)
    assert np.array_equal(splits.test.x[:, 0].numpy(), x_test)
    assert splits.train.y.tolist() == y.tolist()
    assert splits.test.y.tolist() == y_test.tolist()


def test_idx_with_a_dot_in_the_name_and_no_idx_at_all(tmp_path):
    assert read_idx(tmp_path) is None
    arrays = write_mnist_like(tmp_path)
    for stem in IDX_STEMS:
        (tmp_path / stem).rename(tmp_path / stem.replace("-idx", ".idx"))
    assert np.array_equal(read_idx(tmp_path).train.x[:, 0].numpy(), arrays[0])


def test_a_truncated_idx_file_is_named_with_expected_and_actual_bytes(tmp_path):
    write_mnist_like(tmp_path, n=4)
    file = tmp_path / IDX_STEMS[0]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{IDX_STEMS[0]} must hold {16 + 4 * 784} bytes .* Got {16 + 4 * 784 - 100}"):
        read_idx(tmp_path)


def test_a_truncated_gzip_file_is_named_with_expected_and_actual_bytes(tmp_path):
    write_mnist_like(tmp_path, n=40, gz=True)
    file = tmp_path / f"{IDX_STEMS[0]}.gz"
    file.write_bytes(file.read_bytes()[: 20 * 784])
    with pytest.raises(DataError, match=rf"{IDX_STEMS[0]}.gz must hold {16 + 40 * 784} bytes .* Got \d+"):
        read_idx(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "idx magic 00000803 and 3 dimensions. Got nothing in 0 bytes"),
        (b"PK\x03\x04 a zip file, this is", "Got 504b0304"),
        (idx_bytes(np.zeros((2, 3), np.uint8)), "Got 00000802"),
        (b"\x00\x00\x0d\x03" + bytes(12), "Got 00000d03"),  # float32
        (idx_bytes(np.zeros((1, 2, 2), np.uint8)) + b"more", "must hold 20 bytes .* Got 24"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "must hold 79228162458924105385300197391 bytes"),
        (b"\x1f\x8b\x08 not really gzip", "damaged gzip"),
        (gzip.compress(idx_bytes(np.zeros((40, 9, 9), np.uint8)), mtime=0)[:-9] + b"corrupted", "damaged gzip"),
    ],
)
def test_what_is_not_idx_is_refused(tmp_path, data, message):
    write_mnist_like(tmp_path)
    (tmp_path / IDX_STEMS[0]).write_bytes(data)
    with pytest.raises(DataError, match=rf"{IDX_STEMS[0]} .*{message}"):
        read_idx(tmp_path)


def test_a_missing_idx_file_and_unequal_lengths_are_named(tmp_path):
    arrays = write_mnist_like(tmp_path)
    (tmp_path / IDX_STEMS[3]).unlink()
    with pytest.raises(DataError, match=rf"{IDX_STEMS[3]} \(or {IDX_STEMS[3]}.gz\) is missing"):
        read_idx(tmp_path)
    write_idx(tmp_path, (arrays[0], arrays[1][:-1], *arrays[2:]))
    with pytest.raises(DataError, match=r"train: there must be one label per image. Got 40 images and 39 labels"):
        load(str(tmp_path))


X, Y = pixels(10, 3, 6, 6), np.arange(10) % 2


def archive(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("stored", "channels_first"),
    [
        (X, X),
        (X.transpose(0, 2, 3, 1), X),
        (X[:, 0], X[:, :1]),
        (X[:, :1], X[:, :1]),
        (X[:, :, :, :3], X[:, :, :, :3]),  # [10, 3, 6, 3]: neither way square, hence refused
        (X[:, :, :3, :3], X[:, :, :3, :3]),  # [10, 3, 3, 3]: square both ways, hence refused
        (X[:, :1, :1, :3], X[:, :1, :1, :3].transpose(0, 3, 1, 2)),  # [10, 1, 1, 3]: square if the last is channels
        (X[:, :3, :1, :1], X[:, :3, :1, :1]),
        (X[:, :2], None),  # two channels, or six
    ],
)
def test_npz_layouts(tmp_path, stored, channels_first):
    path = archive(tmp_path / "a.npz", x_train=stored, y_train=Y, x_test=stored, y_test=Y)
    if stored.shape in ((10, 3, 6, 3), (10, 3, 3, 3), (10, 2, 6, 6)):
        with pytest.raises(DataError, match=r"a.npz x_train: the axis of length 1 or 3 .* is not clear. Got \[10"):
            read_npz(path)
        return
    splits = read_npz(path)
    assert np.array_equal(splits.train.x.numpy(), channels_first)
    assert splits.train.x.is_contiguous()


def test_npz_values_keys_and_labels(tmp_path):
    floats = X / 255  # float64
    path = archive(tmp_path / "a.npz", train_images=floats, train_labels=Y[:, None], test_images=X, test_labels=Y)
    splits = read_npz(path)
    assert splits.train.x.dtype == torch.float32
    assert splits.test.x.dtype == torch.uint8
    assert splits.train.y.tolist() == Y.tolist()
    wide = archive(tmp_path / "b.npz", x_train=X.astype(np.int64), y_train=Y.astype(np.uint8), x_test=X, y_test=Y)
    assert np.array_equal(read_npz(wide).train.x.numpy(), X)


@pytest.mark.parametrize("keys", [("x", "y"), ("images", "labels")])
def test_an_npz_with_one_split_is_cut_the_same_way_every_time(tmp_path, keys):
    path = archive(tmp_path / "a.npz", **dict(zip(keys, (X, Y), strict=True)))
    first, second = load(str(path)), load(str(path))
    assert (len(first.train), len(first.test)) == (8, 2)
    assert torch.equal(first.test.x, second.test.x)
    assert sorted(first.test.y.tolist()) == [0, 1]
    both = np.concatenate([first.train.x.numpy(), first.test.x.numpy()])
    assert np.array_equal(np.sort(both, axis=0), np.sort(X, axis=0))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X.reshape(10, -1), "y": Y}, r"x: images must be \[N, H, W\].* Got \[10, 108\]"),
        ({"x": X.astype(np.int32) * 2, "y": Y}, "integer pixels must be in 0..255. Got min 0 and max 510"),
        ({"x": X.astype(bool), "y": Y}, "Got dtype bool"),
        ({"x": X, "y": Y.astype(float)}, "y: labels must be integers"),
        ({"x": X, "y": np.eye(2)[Y].astype(int)}, r"labels must be integers of shape .* \[10, 2\]"),
        ({"x": X, "y": Y[:-1]}, "one label per image. Got 10 images, 9 labels"),
        ({"x": X, "z": Y}, r"must have the keys \(x_train, y_train, x_test, y_test\) or .* Got x, z"),
        ({"x": X / 2.0, "y": Y}, "float pixels must be in the range"),
        ({"x": np.full((10, 4, 4), np.nan), "y": Y}, "NaN or infinity in row 0"),
        ({"x": X, "y": Y - 1}, r"range \[0, 1\). Got -1"),
        ({"x": X[:0], "y": Y[:0]}, "at least two images"),
        ({"x": X[:0], "y": Y[:0], "x_train": X[:0], "y_train": Y[:0], "x_test": X, "y_test": Y}, "at least one image"),
    ],
)
def test_what_an_npz_must_not_hold(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load(str(archive(tmp_path / "a.npz", **arrays)))


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_objects_in_an_npz_are_refused_and_do_not_run(tmp_path):
    bombs = np.empty(10, dtype=object)
    bombs[:] = [Bomb(tmp_path / "ran")] * 10
    path = archive(tmp_path / "a.npz", x=X, y=bombs)
    with pytest.raises(DataError, match=r"a.npz is not a readable .npz archive: Object arrays cannot be loaded"):
        read_npz(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_npz_is_named(tmp_path, share):
    path = archive(tmp_path / "a.npz", x=X, y=Y)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DataError, match=r"a.npz is not a readable .npz archive"):
        read_npz(path)


def test_a_damaged_npz_and_a_single_array_are_named(tmp_path):
    path = archive(tmp_path / "a.npz", x=X, y=Y)
    data = bytearray(path.read_bytes())
    data[400] ^= 255  # a pixel: the archive's checksum no longer holds
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a.npz is not a readable .npz archive: Bad CRC"):
        read_npz(path)
    with (tmp_path / "b.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match=r"b.npz is not a readable .npz archive: it is no zip file"):
        read_npz(tmp_path / "b.npz")
