"""CIFAR-10 under four tints: every image under one, and the one left out in the shifted split alone."""

import colorsys
import math

import numpy as np
import pytest
import torch
from published import write_cifar10

from sparring.domains.image import load
from sparring.domains.image.tinted import domains, tints


@pytest.fixture
def cifar(tmp_path):
    (x, _), (x_test, _) = write_cifar10(tmp_path / "cifar10", rows=40)
    return tmp_path, x, x_test


def test_every_image_has_one_tint_and_the_one_left_out_is_only_in_the_shifted_split(cifar):
    """Each image that is found is traced to its file and its tint, by the tints of the hues a quarter turn apart."""
    root, x, x_test = cifar
    colour = np.array([colorsys.hsv_to_rgb(k / 4, 1, 1) for k in range(4)])
    tint = torch.from_numpy(1 - 0.6 * (1 - colour))[:, None, :, None, None]
    lit = torch.from_numpy(np.concatenate([x, x_test])).view(-1, 3, 32, 32) * tint
    lit = lit[:, :, :, :2].flatten(2).flatten(0, 1)
    origin = [("train" if i < len(x) else "test", i, k) for k in range(4) for i in range(len(x) + len(x_test))]

    def traced(source):
        apart, which = torch.cdist(source.x[:, :, :2].flatten(1).double(), lit, p=math.inf).min(1)
        assert apart.max() <= 0.5 + 1e-3
        return [origin[i] for i in which.tolist()]

    seen = {}
    for out in range(4):
        data = load(f"cifar10-tinted-{out}", root)
        found = {
            name: traced(source) for name, source in (("train", data.train), ("test", data.test), *data.shifted.items())
        }
        assert list(found) == ["train", "test", f"tint-{out}"]
        assert {k for _, _, k in found["train"]} == {k for _, _, k in found["test"]} == set(range(4)) - {out}
        assert {k for _, _, k in found[f"tint-{out}"]} == {out}
        assert {part for part, _, _ in found["train"]} == {"train"}
        assert {part for part, _, _ in found["test"] + found[f"tint-{out}"]} == {"test"}
        assert [len(rows) for rows in found.values()] == [150, 30, 10]
        for rows in found.values():
            assert rows == sorted(rows, key=lambda row: row[1])
            for part, i, k in rows:
                assert seen.setdefault((part, i), k) == k  # in one domain, whichever is left out
        assert data.test.masks is None
        assert data.test.masks_of(torch.arange(3)) is None
        assert data.classes == tuple(f"class{k}" for k in range(10))
    assert len(seen) == 200 + 40


def test_domains_are_random_quarters_and_labels_stay_with_their_images(cifar):
    root, *_ = cifar
    domain = domains(1000, 0)
    assert torch.bincount(domain).tolist() == [250] * 4
    assert not torch.equal(domain, domains(1000, 1))
    by_parity = torch.bincount(domain[::2], minlength=4)
    assert all(abs(int(count) - 125) < 45 for count in by_parity)
    assert (tints().min(), tints().max()) == (pytest.approx(0.4), 1)
    data, plain = load("cifar10-tinted-2", root), load("cifar10", root)
    assert torch.equal(data.train.y, plain.train.y[domains(200, 0) != 2])
    assert torch.equal(data.shifted["tint-2"].y, plain.test.y[domains(40, 1) == 2])
