"""Encoded images: folders of files, parquet shards, and the Hugging Face hub's own loader."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from published import encoded, pixels, write_images, write_parquet

from sparring.domains.image import DataError, ImageFolder, load
from sparring.domains.image.folder import read_folder
from sparring.domains.image.online import read_hub
from sparring.domains.image.parquet import read_parquet

NAMES = ("plane", "car", "bird")


def test_parquet_round_trip_over_shards_in_order(tmp_path):
    x, y = pixels(30, 8, 8, 3), np.arange(30) % 3
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", x[17:], y[17:], NAMES, kind="WEBP")
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", x[:17], y[:17], NAMES)
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", x[:5], y[:5], NAMES)
    splits = read_parquet(tmp_path)
    assert np.array_equal(splits.train.x.permute(0, 2, 3, 1).numpy(), x)
    assert np.array_equal(splits.test.x.permute(0, 2, 3, 1).numpy(), x[:5])
    assert splits.train.y.tolist() == y.tolist()
    assert splits.train.x.dtype == torch.uint8
    assert splits.classes == NAMES


@pytest.mark.parametrize(("image", "label"), [("image", "labels"), ("img", "fine_label"), ("image", "label")])
def test_parquet_grey_images_other_columns_no_names_and_no_test_shards(tmp_path, image, label):
    x, y = pixels(20, 7, 7), np.arange(20) % 2
    write_parquet(tmp_path / "train.parquet", x, y, image=image, label=label)
    data = load(str(tmp_path))
    assert data.shape == (1, 7, 7)
    assert data.classes == ("0", "1")
    assert (len(data.train), len(data.test)) == (16, 4)


def test_parquet_images_of_other_sizes_and_colours_follow_the_first_train_image_or_the_size(tmp_path):
    x = [pixels(1, 8, 8, 3)[0], pixels(1, 20, 10, 3)[0], pixels(1, 6, 6)[0]]
    write_parquet(tmp_path / "train.parquet", x, [0, 1, 0])
    write_parquet(tmp_path / "validation.parquet", [pixels(1, 9, 9)[0]], [1])
    assert load(str(tmp_path)).shape == (3, 8, 8)
    data = load(str(tmp_path), size=5)
    assert data.shape == (3, 5, 5)
    assert data.test.x.shape == (1, 3, 5, 5)


def test_bad_parquet_is_named(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "train.parquet"
    x, y = pixels(20, 6, 6), np.arange(20) % 2

    def refused(message):
        with pytest.raises(DataError, match=message):
            read_parquet(tmp_path)

    write_parquet(file, x, y, image="picture")
    refused("train.parquet must have a column named img or image. Got picture, label")
    write_parquet(file, x, y, label="class")
    refused("train.parquet must have a column named label or fine_label or labels")
    write_parquet(file, x, y)
    data = file.read_bytes()
    for cut in (0, 3, len(data) // 2, len(data) - 4):
        file.write_bytes(data[:cut])
        refused("train.parquet is not a readable parquet file")
    middle = len(data) // 4
    file.write_bytes(data[:middle] + bytes(600) + data[middle + 600 :])
    refused("train")  # damaged pages are found by pyarrow, damaged images by Pillow
    pq.write_table(pa.table({"img": [encoded(x[0]), b"no image"], "label": [0, 1]}), file)
    refused("train row 1 is not a readable image")
    pq.write_table(pa.table({"img": pa.array([encoded(x[0]), None], pa.binary()), "label": [0, 1]}), file)
    refused("train.parquet: an image cell must hold the encoded bytes. Got NoneType")
    here = pa.array([{"bytes": None, "path": str(tmp_path / "secret.png")}] * 2)
    (tmp_path / "secret.png").write_bytes(encoded(x[0]))
    pq.write_table(pa.table({"img": here, "label": [0, 1]}), file)
    refused("an image cell must hold the encoded bytes. Got dict without them")
    pq.write_table(pa.table({"img": [encoded(x[0])] * 2, "label": [0, None]}), file)
    refused("every row must have a label. Row 1 has none")
    pq.write_table(pa.table({"img": [encoded(x[0])], "label": ["cat"]}), file)
    refused("the column 'label' must hold integers. Got string")
    write_parquet(file, x[:0], y[:0])
    write_parquet(tmp_path / "test.parquet", x, y)
    with pytest.raises(DataError, match="train: there must be at least one image"):
        load(str(tmp_path))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    write_parquet(tmp_path / "train.parquet", pixels(2, 6, 6), [0, 1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'sparring\[parquet\]'"):
        read_parquet(tmp_path)


@pytest.mark.parametrize("test_name", ["test", "val", "valid", "validation"])
def test_folder_round_trip(tmp_path, test_name):
    written = write_images(tmp_path / "train", 5)
    write_images(tmp_path / test_name, 2, seed=9)
    data = load(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 8, 6)
    assert (len(data.train), len(data.test)) == (10, 4)
    x, y = data.train.take(torch.tensor([1, 9]))
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1]
    for taken, original in zip(x, (written["cat"][1], written["dog"][4]), strict=True):
        assert np.array_equal((taken * 255).round().byte().permute(1, 2, 0).numpy(), original)
    part = data.train.subset(torch.tensor([9, 1]))
    assert torch.equal(part.take(torch.tensor([1, 0]))[0], x)


def test_folder_without_splits_is_cut_the_same_way_every_time(tmp_path):
    write_images(tmp_path, 10)
    first, second = load(str(tmp_path)), load(str(tmp_path))
    assert (len(first.train), len(first.test)) == (16, 4)
    assert first.test.paths == second.test.paths
    assert not set(first.train.paths) & set(first.test.paths)
    assert torch.bincount(first.test.y).tolist() == [2, 2]
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_folder_formats_upper_case_and_hidden_files(tmp_path, kind):
    write_images(tmp_path, 4, kind=kind, size=(8, 8))
    (tmp_path / "cat" / f"000.{kind.lower()}").rename(tmp_path / "cat" / f"000.{kind}")
    (tmp_path / "cat" / "._000.png").write_bytes(b"a Macintosh was here")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    data = load(str(tmp_path))
    assert len(data.train) + len(data.test) == 8
    assert data.shape == (3, 8, 8)


def test_folder_images_cover_the_size_and_are_cropped_around_the_centre(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200  # the middle third
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        for split in ("train", "test"):
            (tmp_path / split / name / "0.png").write_bytes(encoded(wide))
    x, _ = load(str(tmp_path), size=8).train.take(torch.tensor([0]))
    assert torch.equal(x, torch.full((1, 3, 8, 8), 200 / 255))
    x, _ = load(str(tmp_path), size=4).train.take(torch.tensor([0]))
    assert x.shape == (1, 3, 4, 4)
    assert (x[..., 1:3] > 0.7).all()


def test_sixteen_bits_keep_their_upper_eight_and_transparency_is_dropped(tmp_path):
    deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(deep).save(tmp_path / name / f"{i}.png")
    data = load(str(tmp_path))
    assert data.shape == (1, 8, 8)
    assert np.array_equal((data.train.take(torch.tensor([0]))[0][0, 0] * 255).round().numpy(), deep >> 8)
    Image.fromarray(pixels(1, 8, 8, 4)[0]).save(tmp_path / "a" / "0.png")
    assert load(str(tmp_path)).shape == (3, 8, 8)


def test_a_truncated_image_is_named_when_it_is_taken(tmp_path):
    write_images(tmp_path / "train", 3, size=(32, 32))
    write_images(tmp_path / "test", 3, size=(32, 32))
    data = load(str(tmp_path))
    file = tmp_path / "train" / "dog" / "001.png"
    whole = file.read_bytes()
    for cut in (0, 10, 60, len(whole) // 2):
        file.write_bytes(whole[:cut])
        assert data.train.take(torch.tensor([0, 5]))[1].tolist() == [0, 1]
        with pytest.raises(DataError, match=r"dog/001.png is not a readable image"):
            data.train.take(torch.tensor([0, 4]))
    file.unlink()
    with pytest.raises(DataError, match=r"dog/001.png is not a readable image"):
        data.train.take(torch.tensor([4]))


def test_bad_folders_are_named(tmp_path):
    write_images(tmp_path / "train", 2)
    write_images(tmp_path / "test", 2, classes=("cat", "emu"))
    with pytest.raises(DataError, match=r"test: every class must also be among the train images. Got 'emu'"):
        read_folder(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(DataError, match=r"Every class folder must hold images .* Got none in 'emu'"):
        read_folder(tmp_path)
    write_images(tmp_path / "alone", 3, classes=("cat",))
    with pytest.raises(DataError, match=r"at least two classes to tell apart. Got only 'cat'"):
        read_folder(tmp_path / "alone")


def test_the_fingerprint_of_a_folder_follows_names_sizes_and_labels(tmp_path):
    write_images(tmp_path, 5)

    def mark(**options):
        return load(str(tmp_path), **options).fingerprint

    known = [mark()]
    (tmp_path / "cat" / "000.png").rename(tmp_path / "cat" / "009.png")
    known.append(mark())
    (tmp_path / "cat" / "009.png").write_bytes(encoded(np.zeros((8, 6, 3), np.uint8)))
    known.append(mark())
    (tmp_path / "dog" / "004.png").rename(tmp_path / "cat" / "004b.png")
    known.append(mark())
    known.append(mark(size=5))
    assert len(set(known)) == 5
    assert mark(size=5) == known[-1]


def test_an_image_folder_takes_no_image_it_is_not_asked_for(tmp_path):
    written = write_images(tmp_path, 2)
    paths = (tmp_path / "cat" / "000.png", tmp_path / "nowhere.png")
    source = ImageFolder(paths, torch.tensor([0, 1]), (3, 8, 6))
    x, _ = source.take(torch.tensor([0, 0]))
    assert np.array_equal((x[1] * 255).round().byte().permute(1, 2, 0).numpy(), written["cat"][0])


def test_the_hub_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"hf:someone/something needs the datasets package. pip install 'sparring\[online\]'"
    ):
        load("hf:someone/something")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The real `datasets` package, offline, with its cache in the test's folder."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the extra 'online' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return tmp_path / "set"


@pytest.mark.filterwarnings("default")  # the package's own warnings are not ours to fix
def test_the_hub_reads_what_the_parquet_reader_reads(hub):
    x, y = pixels(30, 8, 8, 3), np.arange(30) % 3
    write_parquet(hub / "train-00000-of-00001.parquet", x, y, NAMES)
    write_parquet(hub / "test-00000-of-00001.parquet", x[:6], y[:6], NAMES)
    ours, theirs = read_parquet(hub), load(f"hf:{hub}")
    assert torch.equal(theirs.train.x, ours.train.x)
    assert torch.equal(theirs.test.x, ours.test.x)
    assert torch.equal(theirs.train.y, ours.train.y)
    assert theirs.classes == NAMES
    assert read_hub(str(hub), size=4).test.x.shape == (6, 3, 4, 4)


@pytest.mark.filterwarnings("default")
def test_the_hub_reads_folders_of_files_and_names_what_it_cannot_use(hub):
    write_images(hub, 5)
    data = load(f"hf:{hub}")
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (8, 2)
    with pytest.raises(DataError, match=r"hf:.*nothing-here cannot be loaded"):
        load(f"hf:{hub}/nothing-here")
    table = hub.parent / "table"
    table.mkdir()
    (table / "train.csv").write_text("a,label\n1,2\n")
    with pytest.raises(DataError, match=r"must have an Image column and a label column. Got a "):
        load(f"hf:{table}")


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_progress_shows_on_a_terminal_after_patience_and_never_elsewhere(monkeypatch, capsys):
    import io

    from sparring.domains.image.progress import progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, patience, shown in ((Terminal(), 0.0, True), (Terminal(), 1e6, False), (io.StringIO(), 0.0, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress("decoding", 3, patience) as advance:
            for _ in range(3):
                advance(1)
        assert ("decoding" in stream.getvalue()) is shown
