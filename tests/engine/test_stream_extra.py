"""Extra examples beside the original ones, and labels that a batch shares: counts, order, closed forms, refusals."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparring.commands.train import Where, _augment, _blend, _extra, flags_of
from sparring.core.payoff import cross_entropy
from sparring.core.seeds import derive
from sparring.domains.image.data import load
from sparring.domains.image.extra import load_extra
from sparring.domains.image.source import DataError
from sparring.engine.labels import in_turn, smoothing, soft
from sparring.engine.stream import Extra, Stream
from sparring.engine.training import Training
from sparring.systems import find


class Numbers:
    """A source whose examples are their own index, after an offset."""

    def __init__(self, count: int, offset: int = 0, classes: int = 3) -> None:
        self.y, self.offset = torch.arange(count) % classes, offset

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Tensor, /) -> tuple[Tensor, Tensor]:
        return rows.double()[:, None] + self.offset, self.y[rows]


def stream(count: int = 50, size: int = 8, seed: int = 0, extra: int = 37, share: float = 0.5, **more: Any) -> Stream:
    beside = Extra(Numbers(extra, 1000), share) if extra else None
    return Stream(Numbers(count), torch.arange(count), size, seed, torch.Generator(), extra=beside, **more)


def dealt(batches: Any) -> list[tuple[list[int], list[int]]]:
    """Of each batch the original and the extra examples, as indices."""
    lists = [[int(v) for v in x.flatten()] for x, _ in batches]
    return [([v for v in line if v < 1000], [v - 1000 for v in line if v >= 1000]) for line in lists]


@given(st.integers(2, 60), st.integers(2, 20), st.floats(0, 0.99), st.integers(1, 40))
def test_the_share_is_exact_in_every_batch_and_an_epoch_is_one_pass(
    count: int, size: int, share: float, extra: int
) -> None:
    beside, own = round(share * size), size - round(share * size)
    if own < 1:
        with pytest.raises(ValueError, match=f"leave one original example in a batch of {size} at least. Got {share}"):
            stream(count, size, extra=extra, share=share)
        return
    s = stream(count, size, extra=extra, share=share)
    batches = dealt(s.epoch(0))
    assert len(batches) == s.steps
    for original, more in batches[:-1]:
        assert (len(original), len(more)) == (own, beside)
    original, more = batches[-1]
    assert abs(len(more) - len(original) * beside / own) <= 0.5
    everything = [v for line, _ in batches for v in line]
    lone = count % own
    left_out = lone if lone and count > own and lone + round(lone * beside / own) == 1 else 0
    assert len(set(everything)) == len(everything) == count - left_out


@given(st.integers(1, 25), st.integers(5, 40), st.integers(4, 12), st.floats(0.2, 0.7))
def test_every_extra_example_has_been_dealt_as_often_as_any_other_at_any_time(
    extra: int, count: int, size: int, share: float
) -> None:
    s = stream(count, size, extra=extra, share=share)
    seen = Counter(dict.fromkeys(range(extra), 0))
    for epoch in range(4):
        for _, more in dealt(s.epoch(epoch)):
            seen.update(more)
            assert max(seen.values()) - min(seen.values()) <= 1


def test_extra_examples_are_seeded_permutations_one_after_the_other() -> None:
    """Turn t is randperm of the derived seed, and the turns follow each other across batches and epochs."""
    line = [v for epoch in range(5) for _, more in dealt(stream(extra=17).epoch(epoch)) for v in more]
    turns = [
        torch.randperm(17, generator=torch.Generator().manual_seed(derive(0, "extra", turn)))
        for turn in range(len(line) // 17 + 1)
    ]
    assert line == torch.cat(turns).tolist()[: len(line)]
    assert line != [v for epoch in range(5) for _, more in dealt(stream(extra=17, seed=1).epoch(epoch)) for v in more]


def test_a_batch_is_a_function_of_seed_and_position_alone() -> None:
    whole = [batch for epoch in range(3) for batch in stream().epoch(epoch)]
    steps = stream().steps
    for position in (0, 1, steps - 1, steps, 2 * steps + 3):
        alone = stream().batch(*divmod(position, steps))
        resumed = next(stream().epoch(position // steps, start=position % steps))
        for other in (alone, resumed):
            assert all(torch.equal(a, b) for a, b in zip(whole[position], other, strict=True))


def test_the_original_order_is_the_one_without_extra_and_share_0_is_no_extra() -> None:
    plain, mixed = stream(extra=0, size=8), stream(size=16, share=0.5)
    assert [o for o, _ in dealt(plain.epoch(1))] == [o for o, _ in dealt(mixed.epoch(1))]
    off = stream(size=8, share=0.0)
    for a, b in zip(plain.epoch(2), off.epoch(2), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_labels_travel_with_their_examples() -> None:
    for x, y in stream().epoch(0):
        number = x[:, 0].long()
        assert torch.equal(y, (number % 1000) % 3)


def test_augment_sees_every_example_and_blend_comes_after_it() -> None:
    def augment(x: Tensor, rng: torch.Generator) -> Tensor:
        return x + 0.5

    def blend(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        assert ((x % 1) == 0.5).all()
        return -x, soft(y, 3)

    x, y = stream(augment=augment, blend=blend).batch(0, 0)
    assert (x < 0).all()
    assert y.shape == (8, 3)


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"'share' parameter must be .* \[0, 1\)\. Got {share!r} instead"):
        Extra(Numbers(3), share)
    with pytest.raises(ValueError, match=rf"'extra_share' parameter must be .* Got {share!r} instead"):
        Where(extra_share=share)


# Labels


@given(st.integers(2, 9), st.floats(0, 0.99))
def test_smoothing_is_its_formula_on_classes_and_on_soft_labels(classes: int, share: float) -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randint(classes, (20,), generator=rng)
    x = torch.rand(20, 2)
    same, smooth = smoothing(classes, share)(x, y, rng)
    assert same is x
    expected = torch.full((20, classes), share / classes, dtype=torch.float64)
    expected[torch.arange(20), y] += 1 - share
    assert (smooth - expected).abs().max() < 1e-6
    p = torch.rand(20, classes, generator=rng, dtype=torch.float64).softmax(1)
    again = smoothing(classes, share)(x, p, rng)[1]
    assert (again - ((1 - share) * p + share / classes)).abs().max() < 1e-12
    assert (again.mean(0) - ((1 - share) * p.mean(0) + share / classes)).abs().max() < 1e-12
    assert torch.equal(again.argmax(1), p.argmax(1))


def test_smoothed_cross_entropy_is_torchs_own() -> None:
    logits, y = torch.randn(30, 5, dtype=torch.float64), torch.randint(5, (30,))
    ours = cross_entropy(logits, smoothing(5, 0.3)(logits, y, torch.Generator())[1].double())
    theirs = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.3, reduction="none")
    assert (ours - theirs).abs().max() < 1e-6


def test_soft_labels_of_other_classes_are_refused_and_blends_go_in_turn() -> None:
    with pytest.raises(ValueError, match=r"shape \[B, 3\]. Got \[2, 4\]"):
        soft(torch.rand(2, 4), 3)
    with pytest.raises(ValueError, match=r"'share' parameter must be .* \[0, 1\). Got 1"):
        smoothing(3, 1)
    double = in_turn([lambda x, y, _: (2 * x, y), lambda x, y, _: (x + 1, -y)])
    x, y = double(torch.ones(1), torch.ones(1), torch.Generator())
    assert (x.item(), y.item()) == (3.0, -1.0)


# From the command line


def test_flags_become_augmentation_and_labels() -> None:
    data, rng = load("digits"), torch.Generator().manual_seed(0)
    x, y = data.train.take(torch.arange(64))
    assert _augment("none", data) is None
    for name in ("cutout", "idbh-weak", "idbh-strong"):
        augment = _augment(name, data)
        assert augment is not None
        z = augment(x, rng)
        assert z.shape == x.shape
        assert not torch.equal(z, x)
    assert _blend(Training(), 10) is None
    blend = _blend(Training(cutmix=1.0, label_smoothing=0.1), 10)
    assert blend is not None
    mixed, labels = blend(x, y, rng)
    assert mixed.shape == x.shape
    assert (labels.sum(1) - 1).abs().max() < 1e-6
    assert (labels.min() - 0.01).abs() < 1e-6
    plain = _blend(Training(label_smoothing=0.1), 10)
    assert plain is not None
    assert plain(x, y, rng)[0] is x


def test_digits_are_never_flipped_and_other_images_are() -> None:
    """An arrow that points right, through augmentations that only move it: cutout with its hole painted over."""
    digits = load("digits")
    rng = torch.Generator().manual_seed(0)
    x = torch.zeros(400, 1, 8, 8)
    x[:, :, :, :4] = 1  # bright on the left
    for data, mirrored in ((digits, False), (replace(digits, name="own"), True)):
        for name in ("cutout", "idbh-weak"):
            augment = _augment(name, data)
            assert augment is not None
            z = augment(x, rng)
            right = (z[..., 4:].sum((1, 2, 3)) > 1.5 * z[..., :4].sum((1, 2, 3)) + 4).double().mean()
            assert (right > 0.15) == mirrored, (name, right)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cutmix": 1.5}, r"'cutmix' parameter must be a number in the range \[0, 1\]. Got 1.5"),
        ({"label_smoothing": 1.0}, r"'label_smoothing' parameter must be a number in the range \[0, 1\). Got 1.0"),
        ({"swa": -0.1}, r"'swa' parameter must be a number in the range \[0, 1\). Got -0.1"),
        ({"swa": 0.5, "ema": 0.9}, r"'swa' parameter must be 0 where 'ema' is on: one average is kept. Got 0.5"),
        ({"ema_warmup": True}, r"'ema_warmup' parameter must be False where 'ema' is 0. Got True"),
    ],
)
def test_training_refuses_what_does_not_go(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Training(**changes)


def test_every_flag_is_on_the_command_line() -> None:
    line = "--extra-data more.npz --extra-share 0.7 --augment idbh-strong --cutmix 0.5 --label-smoothing 0.1 --swa 0.5"
    chosen = flags_of(find("pgd-at"), line.split())
    assert (chosen.where.extra_data, chosen.where.extra_share) == ("more.npz", 0.7)
    training = chosen.training
    assert (training.augment, training.cutmix, training.label_smoothing, training.swa) == ("idbh-strong", 0.5, 0.1, 0.5)
    assert flags_of(find("pgd-at"), ["--ema", "0.9", "--ema-warmup"]).training.ema_warmup


def npz(path: Path, shape: tuple[int, ...] = (60, 8, 8), classes: int = 10, keys: str = "image label") -> str:
    rng = np.random.default_rng(0)
    x, y = keys.split()
    np.savez(path, **{x: rng.integers(0, 256, shape, dtype=np.uint8), y: np.arange(shape[0]) % classes})
    return str(path)


@pytest.mark.parametrize("keys", ["image label", "x y"])
def test_an_archive_of_one_set_is_taken_whole_and_named_in_the_record(tmp_path: Path, keys: str) -> None:
    name, data = npz(tmp_path / "more.npz", keys=keys), load("digits")
    extra, told = _extra(Where(extra_data=name, extra_share=0.25), data)
    assert extra is not None
    assert (len(extra.source), extra.share) == (60, 0.25)
    assert told["extra"] == {**told["extra"], "name": name, "share": 0.25, "train": 60}
    assert len(told["extra"]["fingerprint"]) == 64
    assert json.loads(json.dumps(told)) == told
    assert _extra(Where(), data) == (None, {})
    other = npz(tmp_path / "other.npz", (61, 8, 8), keys=keys)
    assert _extra(Where(extra_data=other), data)[1]["extra"]["fingerprint"] != told["extra"]["fingerprint"]


def test_extra_data_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    data = load("digits")
    with pytest.raises(DataError, match=r"wide.npz \(extra data\): images must have the shape of digits, \(1, 8, 8\)"):
        load_extra(npz(tmp_path / "wide.npz", (20, 9, 9)), data)
    with pytest.raises(DataError, match=r"many.npz \(extra data\): labels must be in the range \[0, 10\). Got 10"):
        load_extra(npz(tmp_path / "many.npz", classes=11), data)
    with pytest.raises(DataError, match=r"digits \(extra data\) must be another data set"):
        load_extra("digits", data)
    with pytest.raises(DataError, match=r"Got 'nowhere\.npz'"):
        load_extra("nowhere.npz", data)
    named = replace(data, name="pets", classes=("cat", "dog"), fingerprint="")
    with pytest.raises(DataError, match="labels must be in the range"):
        load_extra("digits", named)
    (tmp_path / "short.npz").write_bytes(Path(npz(tmp_path / "whole.npz")).read_bytes()[:200])
    with pytest.raises(DataError, match=r"short\.npz"):
        load_extra(str(tmp_path / "short.npz"), data)
