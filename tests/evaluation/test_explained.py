"""Grad-CAM among the explanations, structural similarity, which examples are shown, figures of single examples."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.commands.beyond import Inputs, explained
from sparring.core import cam
from sparring.evaluation.explained_values import explanation_values
from sparring.evaluation.explanations import explanations
from sparring.evaluation.faithfulness import METRICS, channel_mean, ranks
from sparring.evaluation.saliency import ExplanationError, cosine, grad_cam, gradient, integrated_gradients, saliency
from sparring.evaluation.ssim import ssim


def images(count: int = 12, channels: int = 3, side: int = 6, seed: int = 0) -> Tensor:
    return torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolutional(channels: int = 3) -> nn.Sequential:
    """A classifier with one feature map, of half the height and width, behind BatchNorm."""
    torch.manual_seed(2)
    return nn.Sequential(
        *(nn.Conv2d(channels, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(4 * 16, 5), nn.Tanh(), nn.Linear(5, 3)),
    ).double()


def linear(n: int, classes: int = 2) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(n, classes).double())
    rng = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
    return model


# Grad-CAM as a map of the input


def test_the_map_is_that_of_the_core_between_the_cells_of_its_layer() -> None:
    x, model, target = images(side=8), convolutional(), torch.arange(12) % 3
    maps = saliency(model.train(), x, target, grad_cam, batch_size=5)
    assert maps.shape == (12, 8, 8)
    _, coarse = cam.grad_cam(model.eval(), x, target, model[2])  # in eval mode, whatever mode the model is in
    assert coarse.shape == (12, 4, 4)
    assert 0 < (coarse > 0).double().mean() < 1
    expected = F.interpolate(coarse[:, None], size=(8, 8), mode="bilinear", align_corners=False).squeeze(1)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-12)
    # bilinear by hand: a pixel halfway between the centres of four cells
    by_hand = (9 * coarse[:, 0, 0] + 3 * coarse[:, 0, 1] + 3 * coarse[:, 1, 0] + coarse[:, 1, 1]) / 16
    torch.testing.assert_close(maps[:, 1, 1], by_hand, rtol=0, atol=1e-12)


def test_a_method_that_cannot_explain_a_model_is_left_out_with_its_reason() -> None:
    x = images(side=4)
    flat = linear(48)
    for inputs, why in ((x.flatten(1), r"needs images .* \['B', 48\]"), (x, "needs a feature map")):
        with pytest.raises(ExplanationError, match=why):
            saliency(flat, inputs, torch.zeros(12).long(), grad_cam)
        found = explanations(flat, inputs, 1 - inputs, torch.zeros(12).long(), seed=0)
        assert set(found.methods) == {"gradient", "integrated-gradients"}
        assert set(found.left_out) == {"grad-cam"}
        assert not any(name.startswith("grad-cam") for name in found.maps)
        assert json.loads(json.dumps(found.as_dict()))["left_out"]["grad-cam"].startswith("Grad-CAM needs")
    whole = explanations(convolutional(), images(side=8), 1 - images(side=8), torch.zeros(12).long(), seed=0)
    assert set(whole.methods) == {"gradient", "integrated-gradients", "grad-cam"}
    assert whole.left_out == {}
    assert whole.maps["grad-cam/attacked"].shape == (8, 8, 8)


def test_another_error_of_a_method_is_not_swallowed() -> None:
    def broken(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        raise ValueError("mine")

    x = images(side=4)
    with pytest.raises(ValueError, match="mine"):
        explanations(linear(48), x, 1 - x, torch.zeros(12).long(), seed=0, methods=(("broken", broken),))


# Structural similarity


def scaled(a: Tensor) -> Tensor:
    return (a - a.min()) / (a.max() - a.min())


@pytest.mark.parametrize(("height", "width"), [(14, 12), (8, 11), (5, 4), (2, 3), (1, 1)])
def test_ssim_is_the_mean_of_its_formula_over_all_windows(height: int, width: int, rng: torch.Generator) -> None:
    first = torch.randn((2, height, width), generator=rng, dtype=torch.float64)
    second = first + torch.randn((2, height, width), generator=rng, dtype=torch.float64)
    tall, wide = (min(11, side if side % 2 else side - 1) for side in (height, width))
    weight = torch.tensor(
        [[math.exp(-((i - tall // 2) ** 2 + (j - wide // 2) ** 2) / (2 * 1.5**2)) for j in range(wide)]
         for i in range(tall)], dtype=torch.float64,
    )  # fmt: skip
    weight /= weight.sum()
    for b in range(2):
        if height == 1:
            a = c = torch.zeros(1, 1, dtype=torch.float64)
        else:
            a, c = scaled(first[b]), scaled(second[b])
        found = []
        for i in range(height - tall + 1):
            for j in range(width - wide + 1):
                p, q = a[i : i + tall, j : j + wide], c[i : i + tall, j : j + wide]
                m, n = (weight * p).sum(), (weight * q).sum()
                s, t = (weight * (p - m) ** 2).sum(), (weight * (q - n) ** 2).sum()
                both = (weight * (p - m) * (q - n)).sum()
                level, spread = (2 * m * n + 1e-4) / (m**2 + n**2 + 1e-4), (2 * both + 9e-4) / (s + t + 9e-4)
                found.append((level * spread).item())
        assert ssim(first, second)[b].item() == pytest.approx(sum(found) / len(found), abs=1e-12)


@given(st.integers(0, 1000), st.sampled_from([(7, 9), (13, 13), (20,)]))
def test_ssim_is_1_for_the_same_map_and_knows_no_order_and_no_scale(seed: int, space: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.rand((3, *space), generator=rng, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(ssim(a, a), torch.ones(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(ssim(a, 3e-12 * a - 4e-12), torch.ones(3).double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(ssim(a, b), ssim(b, a), rtol=0, atol=1e-12)
    torch.testing.assert_close(ssim(4 * a + 1, 0.5 * b - 7), ssim(a, b), rtol=0, atol=1e-9)
    assert (ssim(a, b) < 0.9).all()
    assert (ssim(a, b) >= -1).all()
    assert (ssim(a, -a) < 0).all()


def test_constant_maps_are_alike_and_unlike_one_that_says_something() -> None:
    flat, varied = torch.full((2, 9, 9), 0.4), images(2, 1, 9).squeeze(1)
    assert ssim(flat, 3 * flat + 1).tolist() == pytest.approx([1, 1])
    assert (ssim(flat, varied) < 0.1).all()
    assert ssim(varied[:0], varied[:0]).shape == (0,)
    assert ssim(flat, flat).dtype == torch.float64


# Which examples are shown


def test_the_same_seed_shows_the_same_examples_whatever_else_was_attacked() -> None:
    """Two attacks that left different examples alone agree on the order of all others."""
    x, y, model = images(40, side=4), torch.zeros(40).long(), linear(48, classes=6)
    alone = torch.arange(40) % 4 == 0
    methods = (("gradient", gradient),)
    every = explanations(model, x, 1 - x, y, seed=3, shown=40, methods=methods).maps["rows"]
    some = explanations(
        model, x, torch.where(alone[:, None, None, None], x, 1 - x), y, seed=3, shown=40, methods=methods
    )
    assert every.dtype == torch.int64
    assert sorted(every.tolist()) == list(range(40)) != every.tolist()
    assert some.maps["rows"].tolist() == [row for row in every.tolist() if row % 4]
    assert torch.equal(some.maps["x"], x[some.maps["rows"]])
    other = explanations(model, x, 1 - x, y, seed=4, shown=40, methods=methods).maps["rows"]
    assert not torch.equal(every, other)
    with torch.no_grad():
        for state, kept in (("clean", "x"), ("attacked", "z")):
            assert torch.equal(some.maps[f"prediction/{state}"], model(some.maps[kept]).argmax(1))
    assert some.maps["prediction/clean"].ne(some.maps["prediction/attacked"]).any()


# Figures of single examples


def constant(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return torch.full_like(x, 0.7)


def test_values_of_a_linear_model_are_those_of_its_known_maps(rng: torch.Generator) -> None:
    x, model, y = torch.rand((9, 40), generator=rng, dtype=torch.float64), linear(40), torch.arange(9) % 2
    z = (x + 0.2 * torch.randn(x.shape, generator=rng, dtype=x.dtype)).clamp(0, 1)
    z[4] = x[4]
    method = partial(integrated_gradients, baseline=channel_mean)
    masks = torch.rand((9, 40), generator=rng) < 0.4
    masks[2] = False
    found = explanation_values(model, x, z, y, masks, method, seed=0, batch_size=4)
    assert {name: value.shape for name, value in found.items()} == dict.fromkeys(found, (9,))
    assert {value.dtype for value in found.values()} == {torch.float64}
    w = model[1].weight.detach()[y]
    clean, attacked = (w * (inputs - channel_mean(inputs)) for inputs in (x, z))
    torch.testing.assert_close(found["stability"], cosine(clean, attacked), rtol=0, atol=1e-6)
    torch.testing.assert_close(found["stability ssim"], ssim(clean, attacked), rtol=0, atol=1e-5)
    assert found["stability"][4].item() == pytest.approx(1)
    assert found["stability ssim"][4].item() == pytest.approx(1)
    inside = (clean.clamp(min=0) * masks).sum(1) / clean.clamp(min=0).sum(1)
    assert found["energy in mask"][2].isnan()
    known = torch.arange(9) != 2
    torch.testing.assert_close(found["energy in mask"][known], inside[known], rtol=0, atol=1e-6)
    rank = ranks(clean, torch.zeros(9, 40))
    for name, metric, _ in METRICS:
        torch.testing.assert_close(found[name], metric(model, x, y, rank), rtol=0, atol=1e-9)
    assert set(found) == {name for name, _, _ in METRICS} | {
        "stability",
        "stability ssim",
        "blank maps",
        "energy in mask",
    }
    assert not found["blank maps"].any()


def test_values_of_one_pixel_have_their_closed_form() -> None:
    """p depends on one pixel: its map finds it, so one share of 1 % of 100 pixels is enough, or too much to lose."""

    class OnePixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([6 * x[:, 0, 3, 5], torch.zeros_like(x[:, 0, 0, 0])], 1)

    x, y = images(4, 1, 10), torch.zeros(4).long()
    x[:, 0, 3, 5] = 1.0
    found = explanation_values(OnePixel(), x, 1 - x, y, None, gradient, seed=0)
    drop = 1 / (1 + math.exp(-6)) - torch.sigmoid(6 * x.mean((1, 2, 3)))
    torch.testing.assert_close(found["comprehensiveness"], drop, rtol=0, atol=1e-9)
    torch.testing.assert_close(found["sufficiency"], torch.zeros(4).double(), rtol=0, atol=1e-9)
    assert (found["stability"] == 1).all()  # the gradient of this model is the same everywhere
    assert "energy in mask" not in found


def test_a_constant_map_is_stable_and_its_faithfulness_is_that_of_the_random_order() -> None:
    x, model, y = images(side=4), linear(48), torch.zeros(12).long()
    found = explanation_values(model, x, 1 - x, y, None, constant, seed=7)
    assert found["stability"].tolist() == pytest.approx([1] * 12)
    assert found["stability ssim"].tolist() == pytest.approx([1] * 12)
    assert found["blank maps"].tolist() == [1] * 12
    again = explanation_values(model, x, 1 - x, y, None, constant, seed=7, batch_size=5)
    other = explanation_values(model, x, 1 - x, y, None, constant, seed=8)
    for name, _, _ in METRICS:
        torch.testing.assert_close(again[name], found[name], rtol=0, atol=1e-12)
        assert not torch.equal(other[name], found[name])


def test_grad_cam_is_the_method_unless_another_is_named() -> None:
    x, model, y = images(side=8), convolutional(), torch.arange(12) % 3
    found = explanation_values(model, x, 1 - x, y, seed=0)
    maps = [saliency(model, inputs, y, grad_cam) for inputs in (x, 1 - x)]
    torch.testing.assert_close(found["stability"], cosine(*maps), rtol=0, atol=1e-12)


# What the command passes on


class Source:
    """A test set of which every image has its left half as foreground."""

    def __init__(self, *, known: bool) -> None:
        self.known, self.asked = known, []

    def masks_of(self, rows: Tensor) -> Tensor | None:
        self.asked.append(rows)
        masks = torch.zeros(len(rows), 8, 8, dtype=torch.bool)
        masks[rows % 2 == 0, :, :4] = True  # every second row has a foreground
        return masks if self.known else None


def inputs(test: Any, rows: Tensor | None) -> Inputs:
    x = images(side=8)
    target: Any = SimpleNamespace(model=convolutional(), data=SimpleNamespace(test=test), folder=Path())
    return Inputs(target, x, torch.zeros(12).long(), 1 - x, 0, 256, lambda *_: None, None, rows)


def test_masks_are_asked_for_by_row_of_the_test_set_and_the_rows_are_stored() -> None:
    source, rows = Source(known=True), 3 * torch.arange(12) + 100
    found = explained(inputs(source, rows))
    assert [asked.tolist() for asked in source.asked] == [rows.tolist()]
    energy = found.methods["grad-cam"]["concentration"]["clean"]["energy"]
    assert energy["n"] == 6
    assert energy["control"]["mean"] == pytest.approx(1 / 2)
    plain = explained(inputs(object(), None))
    assert torch.equal(found.maps["rows"], rows[plain.maps["rows"]])
    assert plain.methods["grad-cam"]["concentration"] is None


@pytest.mark.parametrize(("test", "rows"), [
    (object(), torch.arange(12)), (Source(known=False), torch.arange(12)), (Source(known=True), None),
])  # fmt: skip
def test_without_masks_or_without_rows_there_is_no_concentration(test: Any, rows: Tensor | None) -> None:
    found = explained(inputs(test, rows))
    assert {method["concentration"] for method in found.methods.values()} == {None}


def test_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    given = inputs(object(), None)
    given.target.model = linear(192)
    found = explained(given)
    assert set(found.left_out) == {"grad-cam"}
    assert "no grad-cam: Grad-CAM needs a feature map" in capsys.readouterr().err
