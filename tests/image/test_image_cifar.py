"""CIFAR batches, and the pickles that are not."""

import os
import pickle

import numpy as np
import pytest
from published import pixels, python2_pickle, python3_pickle, write_cifar10, write_cifar100

from sparring.domains.image import DataError, load
from sparring.domains.image.cifar import read_cifar_binary, read_cifar_python, unpickled


@pytest.mark.parametrize("dump", [python2_pickle, python3_pickle])
def test_cifar10_round_trip(tmp_path, dump):
    (x, y), (x_test, y_test) = write_cifar10(tmp_path, dump=dump)
    splits = read_cifar_python(tmp_path)
    assert np.array_equal(splits.train.x.flatten(1).numpy(), x)
    assert np.array_equal(splits.test.x.flatten(1).numpy(), x_test)
    assert splits.train.x.shape[1:] == (3, 32, 32)
    assert splits.train.y.tolist() == y
    assert splits.test.y.tolist() == y_test
    assert splits.classes == tuple(f"class{k}" for k in range(10))


def test_cifar100_has_fine_labels(tmp_path):
    x = write_cifar100(tmp_path / "cifar100" / "cifar-100-python")
    data = load("cifar100", tmp_path)
    assert np.array_equal(data.train.x.flatten(1).numpy(), x)
    assert data.train.y.tolist() == list(range(100))
    assert data.classes[:2] == ("f0", "f1")


@pytest.mark.parametrize("labels", [1, 2])
def test_cifar_binary_round_trip(tmp_path, labels):
    x, y = pixels(4, 3072), np.array([[9], [3], [0], [1]], np.uint8)
    coarse = np.full((4, labels - 1), 7, np.uint8)
    rows = np.concatenate([coarse, y, x], axis=1)
    train = [f"data_batch_{i}.bin" for i in range(1, 6)] if labels == 1 else ["train.bin"]
    for name in [*train, "test_batch.bin" if labels == 1 else "test.bin"]:
        (tmp_path / name).write_bytes(rows.tobytes())
    meta = "batches.meta.txt" if labels == 1 else "fine_label_names.txt"
    (tmp_path / meta).write_text("\n".join("abcdefghij") + "\n\n")
    splits = read_cifar_binary(tmp_path)
    assert np.array_equal(splits.test.x.flatten(1).numpy(), x)
    assert splits.train.y.tolist() == [9, 3, 0, 1] * len(train)
    assert splits.classes == tuple("abcdefghij")
    (tmp_path / train[-1]).write_bytes(rows.tobytes()[:-1])
    expected = rf"{train[-1]} must hold a whole number of rows of {3072 + labels} bytes. Got {4 * (3072 + labels) - 1}"
    with pytest.raises(DataError, match=expected):
        read_cifar_binary(tmp_path)


def test_neither_version(tmp_path):
    assert read_cifar_python(tmp_path) is None
    assert read_cifar_binary(tmp_path) is None


class Command:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused_and_does_not_run(tmp_path, protocol):
    write_cifar10(tmp_path)
    marker = tmp_path / "ran"
    batch = {b"data": Command(f"touch {marker}"), b"labels": []}
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(
        DataError, match=r"data_batch_3 must hold numpy arrays only. It names the global (posix|nt).system"
    ):
        read_cifar_python(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "named",
    [
        "builtins\neval",
        "builtins\ngetattr",
        "numpy\nload",
        "numpy\nndarray.tofile",
        "numpy.core.multiarray\nfromfile",
        "numpy._core.multiarray\nscalar",
        "codecs\nencode",
        "_codecs\ndecode",
        "torch\nload",
        "this_module_does_not_exist\nanything",
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, named):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02c" + named.encode() + b"\n.")
    with pytest.raises(
        DataError, match=rf"batch must .* names the global {named.replace(chr(10), '.')}, which was not"
    ):
        unpickled(path)


def test_bytes_are_encoded_as_latin1_only(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc3\xa9X\x06\x00\x00\x00latin1\x86R.")
    assert unpickled(path) == b"\xe9"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    with pytest.raises(DataError, match="latin1"):
        unpickled(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_batch_is_named(tmp_path, share):
    write_cifar10(tmp_path)
    file = tmp_path / "data_batch_2"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match="data_batch_2 is not a readable CIFAR batch"):
        read_cifar_python(tmp_path)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "must be a dict with the keys b'data' and b'labels'. Got list"),
        ({b"labels": [1]}, "Got .*labels"),
        ({b"data": pixels(2, 3071), b"labels": [1, 2]}, r"uint8 of shape \[N, 3072\]. Got \(2, 3071\)"),
        ({b"data": [1], b"labels": [1]}, "uint8 of shape"),
        ({b"data": pixels(2, 3072), b"labels": [1]}, "must be 2 integers"),
        ({b"data": pixels(2, 3072), b"labels": [1, [2]]}, "list of integers"),
        ({b"data": pixels(2, 3072), b"labels": [b"a", b"b"]}, "must be 2 integers"),
    ],
)
def test_a_batch_of_another_content_is_refused(tmp_path, batch, message):
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(python2_pickle(batch))
    with pytest.raises(DataError, match=rf"data_batch_1.*{message}"):
        read_cifar_python(tmp_path)


def test_a_missing_batch_bad_names_and_bad_labels(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4 is missing"):
        load("cifar10", tmp_path)
    write_cifar10(tmp_path / "cifar-10-batches-py")
    bad = {b"data": pixels(2, 3072), b"labels": [3, 10]}
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(python2_pickle(bad))
    with pytest.raises(DataError, match=r"cifar10 test: labels must be in the range \[0, 10\). Got 10 in row 1"):
        load("cifar10", tmp_path)
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(python2_pickle({b"label_names": [1]}))
    with pytest.raises(DataError, match="lists the class names"):
        load("cifar10", tmp_path)
