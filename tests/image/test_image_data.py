"""Data sets by name: the bundled one, the published ones on files written here and on the real ones, and the errors."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from published import pixels, write_cifar10, write_images, write_mnist_like, write_parquet

from sparring.domains.image import NAMES, DataError, load

DATA = os.environ.get("SPARRING_DATA", "")


@pytest.fixture
def no_root(monkeypatch):
    monkeypatch.delenv("SPARRING_DATA", raising=False)


def test_digits_are_the_bundled_ones_split_once_and_for_all():
    from sklearn.datasets import load_digits

    data, bunch = load("digits"), load_digits()
    assert data.shape == (1, 8, 8)
    assert (len(data.train), len(data.test)) == (1347, 450)
    assert dict(data.customary) == {"linf": 0.15, "l2": 0.5, "l1": 2.0}
    x, y = (
        torch.cat(pair) for pair in zip(*(s.take(torch.arange(len(s))) for s in (data.train, data.test)), strict=True)
    )
    assert (x.min(), x.max()) == (0, 1)
    key = np.lexsort(bunch.images.reshape(-1, 64).T)
    ours = np.lexsort(x.reshape(-1, 64).numpy().T)
    assert np.array_equal(x.reshape(-1, 64).numpy()[ours] * 16, bunch.images.reshape(-1, 64)[key])
    assert np.array_equal(y.numpy()[ours], bunch.target[key])
    assert torch.bincount(data.test.y).tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
    assert data.fingerprint == load("digits").fingerprint


@pytest.mark.parametrize("folder", ["mnist", "MNIST", "mnist/raw", "MNIST/raw"])
def test_mnist_is_found_below_the_root(tmp_path, no_root, folder):
    x, *_ = write_mnist_like(tmp_path / folder, gz=True)
    data = load("mnist", tmp_path)
    assert np.array_equal(data.train.x[:, 0].numpy(), x)
    assert data.customary["linf"] == 0.3
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("folder", ["fashion-mnist", "fashion_mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_found_through_the_environment(tmp_path, monkeypatch, folder):
    write_mnist_like(tmp_path / folder)
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path))
    data = load("fashion-mnist")
    assert data.classes[9] == "Ankle boot"
    assert data.customary["linf"] == 0.1
    with pytest.raises(DataError, match="mnist was not found"):
        load("mnist")


@pytest.mark.parametrize("folder", ["cifar10", "cifar-10-batches-py", "cifar10/cifar-10-batches-py"])
def test_cifar10_is_found_below_the_root(tmp_path, no_root, folder):
    (x, _), _ = write_cifar10(tmp_path / folder)
    data = load("cifar10", tmp_path)
    assert np.array_equal(data.train.x.flatten(1).numpy(), x)
    assert dict(data.customary) == {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
    assert data.classes[3] == "class3"


def test_a_root_that_bears_the_name_of_the_set_and_one_that_does_not(tmp_path, no_root):
    write_mnist_like(tmp_path / "mnist")
    assert load("mnist", tmp_path / "mnist").shape == (1, 28, 28)
    write_mnist_like(tmp_path / "some")
    with pytest.raises(DataError, match="fashion-mnist was not found"):
        load("fashion-mnist", tmp_path / "some")


def test_parquet_takes_the_published_names_and_another_content_is_refused(tmp_path, no_root):
    write_parquet(tmp_path / "cifar10" / "train.parquet", pixels(20, 32, 32, 3), np.arange(20) % 10)
    write_parquet(tmp_path / "cifar10" / "test.parquet", pixels(10, 32, 32, 3), np.arange(10))
    data = load("cifar10", tmp_path)
    assert data.classes[0] == "airplane"
    assert load("cifar10", tmp_path, size=16).shape == (3, 16, 16)
    write_parquet(tmp_path / "mnist" / "train.parquet", pixels(20, 32, 32, 3), np.arange(20) % 10)
    with pytest.raises(DataError, match=r"mnist must have 10 classes and images of shape \(1, 28, 28\). Got 10"):
        load("mnist", tmp_path)


def test_what_is_absent_is_explained(tmp_path, monkeypatch):
    with pytest.raises(DataError) as caught:
        load("cifar100", tmp_path)
    message = str(caught.value)
    for part in (
        str(tmp_path / "cifar100" / "cifar-100-python"),
        "cifar-100-python.tar.gz",
        "--data-root",
        "SPARRING_DATA",
    ):
        assert part in message
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    with pytest.raises(DataError, match="Looked in\n  nowhere: no root was given and SPARRING_DATA is not set"):
        load("mnist")


@pytest.mark.parametrize(("name", "near"), [("minst", "mnist"), ("digit", "digits"), ("cifar-10", "cifar10")])
def test_an_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(DataError, match=rf"Got '{name}'. Did you mean '{near}'?"):
        load(name)


def test_an_unknown_name_with_nothing_near():
    with pytest.raises(DataError, match=r"one of digits, mnist, .* Got 'qqqq'.$"):
        load("qqqq")


def test_a_path_is_read_as_what_it_holds(tmp_path):
    write_mnist_like(tmp_path / "idx")
    write_cifar10(tmp_path / "cifar")
    write_images(tmp_path / "folder", 5)
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "any.npz", x=pixels(10, 6, 6), y=np.arange(10) % 2)
    shapes = {"idx": (1, 28, 28), "cifar": (3, 32, 32), "folder": (3, 8, 6), "npz": (1, 6, 6), "npz/any.npz": (1, 6, 6)}
    for name, shape in shapes.items():
        data = load(str(tmp_path / name))
        assert data.shape == shape
        assert dict(data.customary) == {}


def test_a_path_that_holds_nothing_is_named_with_what_was_looked_for(tmp_path):
    with pytest.raises(DataError) as caught:
        load(str(tmp_path))
    for part in (str(tmp_path), "idx", "train-*.parquet", ".npz", "train/<class>/", "an empty folder"):
        assert part in str(caught.value)
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"Found readme.txt"):
        load(str(tmp_path))
    with pytest.raises(DataError, match=r"readme.txt must be a folder or an .npz file"):
        load(str(tmp_path / "readme.txt"))


def test_the_size_of_arrays_is_theirs(tmp_path):
    assert load("digits", size=8).shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"digits holds arrays of 8x8 pixels. Got 16 instead"):
        load("digits", size=16)
    with pytest.raises(DataError, match=r"'size' parameter must be None or an int in the range \[1, inf\). Got 0"):
        load("digits", size=0)


def test_a_seed_that_numpy_reads_elsewhere_does_not_move_the_split():
    np.random.seed(1)
    first = load("digits").fingerprint
    np.random.seed(2)
    assert load("digits").fingerprint == first


def test_importing_the_package_is_light():
    heavy = ("sklearn", "PIL", "pyarrow", "datasets", "rich", "matplotlib", "lightning_fabric")
    code = f"import sys, sparring.domains.image; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_names_exist():
    import sparring.domains.image as image

    assert all(hasattr(image, name) for name in image.__all__)
    assert sorted(image.__all__, key=str.lower) == sorted(set(image.__all__), key=str.lower)
    tinted = tuple(f"cifar10-tinted-{k}" for k in range(4))
    published = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")
    assert (*published, "digits-on-textures", "mnist-on-textures", *tinted) == NAMES


@pytest.mark.skipif(not Path(DATA, "mnist").is_dir() or not DATA, reason="SPARRING_DATA has no mnist")
def test_the_real_mnist():
    data = load("mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.train.y[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert data.test.y[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert data.mean == pytest.approx((0.1307,), abs=2e-3)  # the published mean and std of all 60,000
    assert data.std == pytest.approx((0.3081,), abs=2e-3)


@pytest.mark.skipif(not Path(DATA, "cifar10").is_dir() or not DATA, reason="SPARRING_DATA has no cifar10")
@pytest.mark.slow
def test_the_real_cifar10():
    data = load("cifar10")
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert torch.bincount(data.train.y).tolist() == [5000] * 10
    assert data.test.y[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
    assert data.classes[6] == "frog"
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-3)
    assert data.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-3)
