"""Explanations against closed forms on linear models, hand-written computations and maps that are right by design."""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor, nn

from sparring.evaluation.explanations import Explanations, explanations
from sparring.evaluation.faithfulness import (
    METRICS,
    black,
    blurred,
    channel_mean,
    comprehensiveness,
    deletion,
    insertion,
    ranks,
    sufficiency,
)
from sparring.evaluation.saliency import (
    cosine,
    energy_inside,
    grad_cam,
    gradient,
    integrated_gradients,
    pointing,
    saliency,
    spearman,
    top_intersection,
)
from sparring.evaluation.ssim import ssim

METHODS = (gradient, integrated_gradients, grad_cam)


def images(count: int = 6, channels: int = 3, side: int = 5, seed: int = 0) -> Tensor:
    return torch.rand((count, channels, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(n: int, classes: int = 3, seed: int = 1) -> nn.Module:
    """A linear classifier of anything with n numbers, in float64."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(n, classes).double())
    rng = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=rng))
    return model


def curved(channels: int = 3, side: int = 5) -> nn.Module:
    """A small smooth network with everything that training moves: BatchNorm and dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(6 * side**2, 4),
    ).double()  # fmt: skip
    model[1].running_mean.copy_(torch.linspace(-0.1, 0.1, 6))
    model[5].weight.data.mul_(4)
    return model


class OnePixel(nn.Module):
    """Two classes, decided by the pixel at one place of `[B, n]` alone."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([5 * x[:, self.place], torch.zeros_like(x[:, 0])], 1)


# Attributions


@pytest.mark.parametrize("shape", [(6, 7), (6, 1, 3, 4), (6, 3, 2, 5)])
def test_on_a_linear_model_saliency_is_the_weight_and_integrated_gradients_its_share_of_the_logit(
    shape: tuple[int, ...], rng: torch.Generator
) -> None:
    x = torch.rand(shape, generator=rng, dtype=torch.float64)
    model = linear(x[0].numel())
    target = torch.tensor([0, 1, 2, 2, 1, 0])
    w = model[1].weight.detach()[target].reshape(shape)

    def summed(attribution: Tensor) -> Tensor:
        return attribution.sum(1) if len(shape) > 2 else attribution

    torch.testing.assert_close(saliency(model, x, target, gradient), summed(w.abs()), rtol=1e-12, atol=0)
    for fill in (black, channel_mean, torch.ones_like):
        method = partial(integrated_gradients, baseline=fill)
        exact = w * (x - fill(x))
        torch.testing.assert_close(method(model, x, target), exact, rtol=1e-6, atol=1e-9)  # captum's nodes: float32
        torch.testing.assert_close(saliency(model, x, target, method), summed(exact), rtol=1e-6, atol=1e-7)


def test_integrated_gradients_sum_to_the_difference_of_the_logits() -> None:
    x, model = images(), curved().eval()
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    for fill in (black, channel_mean):
        maps = saliency(model, x, target, partial(integrated_gradients, baseline=fill))
        with torch.no_grad():
            rise = (model(x) - model(fill(x))).gather(1, target[:, None]).squeeze(1)
        torch.testing.assert_close(maps.sum((1, 2)), rise, rtol=1e-5, atol=1e-6)
        assert rise.abs().amax() > 0.2  # nothing here is zero anyway


def test_integrated_gradients_are_the_mean_gradient_along_the_path() -> None:
    x, model, target = images(3), curved().eval(), torch.tensor([0, 1, 2])
    total = torch.zeros_like(x)
    for step in range(1000):
        here = ((step + 0.5) / 1000 * x).requires_grad_(True)
        total += torch.autograd.grad(model(here).gather(1, target[:, None]).sum(), here)[0] / 1000
    torch.testing.assert_close(integrated_gradients(model, x, target), x * total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_does_not_depend_on_the_batch_it_is_made_in(method: Any) -> None:
    x, model, target = images(7), curved(), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    whole = saliency(model, x, target, method)
    torch.testing.assert_close(saliency(model, x, target, method, batch_size=3), whole, rtol=1e-9, atol=1e-12)
    alone = torch.cat([saliency(model, x[i : i + 1], target[i : i + 1], method) for i in range(7)])
    torch.testing.assert_close(alone, whole, rtol=1e-9, atol=1e-12)
    for batch_size in (7, 8, 50, 10_000):
        split = integrated_gradients(model.eval(), x, target, batch_size=batch_size)
        torch.testing.assert_close(split, integrated_gradients(model, x, target), rtol=1e-6, atol=1e-9)
    assert saliency(model, x[:0], target[:0], method).shape == (0, 5, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_maps_are_at_least_float32(method: Any, dtype: torch.dtype) -> None:
    x, model, target = images().to(dtype), curved().to(dtype), torch.zeros(6, dtype=torch.long)
    maps = saliency(model, x, target, method)
    assert maps.dtype == torch.float32
    expected = saliency(curved(), images(), target, method)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(maps.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_the_model_and_the_inputs_are_left_as_they_were() -> None:
    x, model, target = images(), curved().train(), torch.zeros(6, dtype=torch.long)
    model[1].eval()  # frozen by the user
    model[0].weight.requires_grad_(False)
    model[5].bias.grad = torch.ones(4, dtype=torch.float64)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before, chance = x.clone(), torch.random.get_rng_state()
    with torch.no_grad():
        for method in METHODS:
            saliency(model, x, target, method)
        explanations(model, x, 1 - x, target, seed=0)
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert [p.grad is None for p in model.parameters()] == [True, True, True, True, True, False]
    assert torch.equal(model[5].bias.grad, torch.ones(4, dtype=torch.float64))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert torch.equal(chance, torch.random.get_rng_state())
    needs = x.clone().requires_grad_(True)
    assert not saliency(model, needs, target).requires_grad
    assert needs.grad is None


@pytest.mark.parametrize("method", [gradient, integrated_gradients])
def test_without_captum_the_error_says_what_to_install(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"pip install 'sparring\[explain\]'"):
        saliency(linear(4), torch.rand(2, 4).double(), torch.tensor([0, 1]), method)


# Fills and orders


def test_fills_replace_by_what_they_say() -> None:
    x = images(4, 2, 8)
    assert torch.equal(black(x), torch.zeros_like(x))
    torch.testing.assert_close(channel_mean(x)[1, 1], x[1, 1].mean().expand(8, 8))
    vectors = x.flatten(1)
    torch.testing.assert_close(channel_mean(vectors)[2], vectors[2].mean().expand(128))
    assert torch.equal(blurred(vectors), channel_mean(vectors))
    flat = torch.full((1, 1, 6, 9), 0.3, dtype=torch.float64)
    torch.testing.assert_close(blurred(flat), flat)
    torch.testing.assert_close(blurred(x)[2:3], blurred(x[2:3]))
    assert (blurred(x).var((2, 3)) < 0.2 * x.var((2, 3))).all()


def test_blurring_is_the_gaussian_of_its_definition() -> None:
    x, width = images(1, 1, 6), 0.2
    expected = torch.zeros(6, 6, dtype=torch.float64)
    place = torch.arange(6.0, dtype=torch.float64)
    for i in range(6):
        for j in range(6):
            weight = torch.exp(-((place - i)[:, None] ** 2 + (place - j) ** 2) / (2 * (width * 6) ** 2))
            expected[i, j] = (weight * x[0, 0]).sum() / weight.sum()
    torch.testing.assert_close(blurred(x, width)[0, 0], expected)


@given(st.integers(0, 1000))
def test_ranks_follow_the_map_and_where_it_is_silent_the_draw(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randint(-2, 3, (3, 4, 5), generator=rng).double()
    draw = torch.rand((3, 20), generator=rng)
    place = ranks(maps, draw)
    assert torch.equal(place.sort(1).values, torch.arange(20).expand(3, 20))
    for row, values, chance in zip(place, maps.flatten(1), draw, strict=True):
        order = sorted(range(20), key=lambda i: (-values[i].item(), chance[i].item()))
        assert [row[i].item() for i in order] == list(range(20))
    assert torch.equal(ranks(torch.ones_like(maps), draw), ranks(torch.zeros_like(maps), draw))


def test_a_map_that_is_not_finite_is_refused() -> None:
    maps = torch.zeros(3, 2, 2)
    maps[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="The map of example 1 holds NaN or infinity"):
        ranks(maps, torch.rand(3, 4))


# Faithfulness


@pytest.mark.parametrize("place", [0, 3, 9])
def test_a_model_of_one_pixel_has_the_figures_of_that_pixels_rank(place: int) -> None:
    """p falls (or rises) in one step, when that pixel's turn comes: the trapezoids are known."""
    n, x = 10, torch.rand((1, 10), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x[0, 4] = 0.9
    model, target = OnePixel(4), torch.zeros(1, dtype=torch.long)
    rank = torch.arange(n)[None].roll(4 - 0, 1)  # pixel 4 comes first ...
    rank = (rank + place) % n  # ... or at this place
    assert rank[0, 4] == place
    high, low = (torch.sigmoid(5 * value) for value in (x[0, 4], x.mean()))
    falls = (place * high + 0.5 * (high + low) + (n - place - 1) * low) / n
    rises = (place * low + 0.5 * (high + low) + (n - place - 1) * high) / n
    for fractions in (n, 3 * n):  # there are no steps between pixels
        assert deletion(model, x, target, rank, fractions=fractions).item() == pytest.approx(falls.item())
        assert insertion(model, x, target, rank, fractions=fractions).item() == pytest.approx(rises.item())
    gone = sum(max(1, round(q * n)) > place for q in (0.01, 0.05, 0.1, 0.2, 0.5)) / 5
    drop = (high - low).item()
    assert comprehensiveness(model, x, target, rank).item() == pytest.approx(gone * drop)
    assert sufficiency(model, x, target, rank).item() == pytest.approx((1 - gone) * drop)


def test_the_metrics_are_their_formulas_written_as_loops(rng: torch.Generator) -> None:
    x, model = images(3), curved().eval()
    target = model(x).argmax(1)
    maps = torch.randn((3, 5, 5), generator=rng)
    rank = ranks(maps, torch.rand((3, 25), generator=rng))
    got = {name: metric(model, x, target, rank, batch_size=2) for name, metric, _ in METRICS}

    def p(image: Tensor, k: int) -> float:
        with torch.no_grad():
            return model(image[None]).softmax(1)[0, k].item()

    for b in range(3):
        k, order = int(target[b]), maps[b].flatten().argsort(descending=True).tolist()
        mean, soft = channel_mean(x)[b], blurred(x)[b]

        def mixed(base: Tensor, other: Tensor, count: int, order: list[int] = order) -> Tensor:
            out = base.clone()
            for pixel in order[:count]:
                out[:, pixel // 5, pixel % 5] = other[:, pixel // 5, pixel % 5]
            return out

        counts = [round(25 * step / 20) for step in range(21)]
        removed = [p(mixed(x[b], mean, count), k) for count in counts]
        returned = [p(mixed(soft, x[b], count), k) for count in counts]
        for name, curve in (("deletion", removed), ("insertion", returned)):
            area = sum((counts[i + 1] - counts[i]) / 25 * (curve[i] + curve[i + 1]) / 2 for i in range(20))
            assert got[name][b].item() == pytest.approx(area)
        few = [1, 1, 2, 5, 12]  # 1, 5, 10, 20, 50 % of 25 pixels, at least one
        without = sum(p(x[b], k) - p(mixed(x[b], mean, count), k) for count in few) / 5
        alone = sum(p(x[b], k) - p(mixed(mean, x[b], count), k) for count in few) / 5
        assert got["comprehensiveness"][b].item() == pytest.approx(without)
        assert got["sufficiency"][b].item() == pytest.approx(alone)


@given(st.integers(0, 1000))
def test_on_two_linear_classes_no_order_beats_integrated_gradients_from_the_fill(seed: int) -> None:
    """p rises with the sum of w (x - fill) over the pixels that are there, and that is the map."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand((4, 15), generator=rng, dtype=torch.float64)
    model, target = linear(15, classes=2, seed=seed), torch.tensor([0, 1, 0, 1])
    margin = model[1].weight.detach()[target] - model[1].weight.detach()[1 - target]
    best = ranks(margin * (x - channel_mean(x)), torch.rand((4, 15), generator=rng))
    other = ranks(torch.randn((4, 15), generator=rng), torch.rand((4, 15), generator=rng))
    for _, metric, sign in METRICS:
        ahead = sign * (metric(model, x, target, best) - metric(model, x, target, other))
        behind = sign * (metric(model, x, target, 14 - best) - metric(model, x, target, other))
        assert (ahead >= -1e-12).all()
        assert (behind <= 1e-12).all()


def test_bad_shares_and_fractions_are_refused() -> None:
    x, rank = torch.rand(2, 4), torch.arange(4).expand(2, 4)
    model, target = OnePixel(0), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"The 'shares' parameter must hold numbers in the range \(0, 1\]"):
        sufficiency(model, x, target, rank, shares=(0.1, 1.5))
    with pytest.raises(ValueError, match="The 'fractions' parameter must be an int"):
        deletion(model, x, target, rank, fractions=0)
    with pytest.raises(ValueError, match="The 'share' parameter must be a number"):
        top_intersection(x, x, 0)


# Likeness of maps, and where they lie


@given(st.integers(0, 1000), st.sampled_from([2, 5, 1000]))
def test_spearman_is_scipys_also_with_ties(seed: int, levels: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(0, levels, (3, 4, 6), generator=rng).float() for _ in range(2))
    expected = [spearmanr(p.flatten().numpy(), q.flatten().numpy()).statistic for p, q in zip(a, b, strict=True)]
    torch.testing.assert_close(spearman(a, b), torch.tensor(expected, dtype=torch.float64))


def test_likeness_by_hand() -> None:
    a = torch.tensor([[3.0, 0.0, 4.0, 1.0, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0]])
    b = torch.tensor([[4.0, 0.0, 3.0, 1.0, 0.5], [-1.0, -2.0, -3.0, -4.0, -5.0]])
    torch.testing.assert_close(cosine(a, b), torch.tensor([25.25 / 26.25, -1.0], dtype=torch.float64))
    torch.testing.assert_close(spearman(a, b), torch.tensor([0.9, -1.0], dtype=torch.float64))
    assert top_intersection(a, b, 0.2).tolist() == [0.0, 0.0]
    assert top_intersection(a, b, 0.4).tolist() == [1.0, 0.0]
    assert top_intersection(a, b, 0.6).tolist() == pytest.approx([1.0, 1 / 3])
    assert top_intersection(a, b, 1.0).tolist() == [1.0, 1.0]


def test_maps_that_say_nothing_are_alike_and_unlike_one_that_says_something() -> None:
    zero, flat, varied = torch.zeros(2, 3, 3), torch.full((2, 3, 3), 0.1), torch.arange(18.0).reshape(2, 3, 3)
    assert cosine(zero, zero).tolist() == [1, 1]
    assert cosine(zero, varied).tolist() == [0, 0]
    for alike in (cosine, spearman, top_intersection):
        assert alike(flat, 3 * flat).tolist() == pytest.approx([1, 1])
    assert spearman(flat, varied).tolist() == [0, 0]


def test_energy_and_pointing_by_hand() -> None:
    maps = torch.tensor([[[3.0, 1.0], [-5.0, 0.0]], [[2.0, 2.0], [1.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]]])
    maps = torch.cat([maps, -torch.ones(1, 2, 2)])
    mask = torch.tensor([[True, False], [True, False]]).expand(4, 2, 2)
    assert energy_inside(maps, mask).tolist() == pytest.approx([3 / 4, 3 / 5, 1 / 2, 1 / 2])
    assert pointing(maps, mask).tolist() == [1, 0.5, 0.5, 0.5]
    assert pointing(maps, ~mask).tolist() == [0, 0.5, 0.5, 0.5]


# The whole

LIKENESS = (("cosine", cosine), ("spearman", spearman), ("top-10%", top_intersection))


def constant(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return torch.full_like(x, 0.7)


def opposite(method: Any) -> Callable[..., Tensor]:
    return lambda model, x, target: -method(model, x, target)


def vectors(count: int = 60) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Two linear classes of 40 numbers, and an attack that moves every number."""
    model = linear(40, classes=2, seed=5)
    x = torch.rand((count, 40), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = model(x).argmax(1)
    w = model[1].weight.detach()
    return model, x, (x + 0.1 * (w[1 - y] - w[y]).sign()).clamp(0, 1), y


@pytest.fixture(scope="module")
def known() -> Explanations:
    """Maps whose worth is known: the best there is, its opposite, and one that says nothing."""
    model, x, z, y = vectors()
    perfect = partial(integrated_gradients, baseline=channel_mean)
    methods = (("perfect", perfect), ("inverted", opposite(perfect)), ("constant", constant))
    return explanations(model, x, z, y, seed=0, methods=methods)


def test_the_perfect_map_beats_random_order_and_its_opposite_loses(known: Explanations) -> None:
    for state in ("clean", "attacked"):
        assert known.methods["perfect"][state]["faithful"]
        assert not known.methods["inverted"][state]["faithful"]
        for name, _, sign in METRICS:
            best, worst = (known.methods[method][state][name] for method in ("perfect", "inverted"))
            assert best["beats_control"]
            assert worst["advantage"]["high"] < 0
            assert best["control"] == worst["control"]
            difference = best["mean"] - best["control"]["mean"]
            assert best["advantage"]["mean"] == pytest.approx(sign * difference)
            assert best["low"] < best["mean"] < best["high"]


def test_a_constant_map_is_perfectly_stable_and_worth_nothing(known: Explanations) -> None:
    report = known.methods["constant"]
    for state in ("clean", "attacked"):
        assert not report[state]["faithful"]
        for name, _, _ in METRICS:
            assert report[state][name]["advantage"] == {"mean": 0, "low": 0, "high": 0}
            assert not report[state][name]["beats_control"]
    assert not report["stability"]["faithful"]
    for kind in ("same_class", "as_shown"):
        for figure in report["stability"][kind].values():
            assert figure["mean"] == pytest.approx(1)
            assert figure["advantage"]["mean"] == 0  # another example's map is as alike


def test_stability_is_of_the_maps_that_it_names(known: Explanations) -> None:
    """Of one class, integrated gradients of a linear model move with x; of the other class they turn round."""
    model, x, z, _ = vectors()
    w = model[1].weight.detach()
    before, after = model(x).argmax(1), model(z).argmax(1)
    assert 0.2 < known.flipped["mean"] == (before != after).double().mean().item() < 1
    maps = w[before] * (x - channel_mean(x))
    for kind, asked in (("same_class", before), ("as_shown", after)):
        expected = cosine(maps, w[asked] * (z - channel_mean(z))).mean().item()
        figure = known.methods["perfect"]["stability"][kind]["cosine"]
        assert figure["mean"] == pytest.approx(expected, abs=1e-6)
    assert known.methods["perfect"]["stability"]["faithful"]


def test_only_what_was_attacked_is_explained_and_counted(known: Explanations) -> None:
    model, x, z, y = vectors()
    z = torch.where((torch.arange(60) % 3 == 0)[:, None], x, z)
    found = explanations(model, x, z, y, seed=1, count=25, shown=6, methods=(("constant", constant),))
    assert found.n == 25
    assert found.right["clean"]["accuracy"] == 1
    assert found.right["attacked"]["accuracy"] == pytest.approx(1 - found.flipped["mean"])
    shown = found.maps
    whole = {"x", "z", "y", "rows", "prediction/clean", "prediction/attacked"}
    assert set(shown) == whole | {"constant/clean", "constant/attacked"}
    assert {len(value) for value in shown.values()} == {6}
    assert (shown["x"] != shown["z"]).any(1).all()
    drawn = [next(i for i in range(60) if torch.equal(x[i], row)) for row in shown["x"]]
    assert drawn != sorted(drawn)  # at random
    assert explanations(model, x, z, y, seed=1, methods=()).n == 40
    assert known.n == 60


def test_the_same_seed_repeats_and_batches_do_not_matter() -> None:
    model, x, z, y = vectors()
    first, second, split = (
        explanations(model, x, z, y, seed=3, count=10, batch_size=size).as_dict() for size in (256, 256, 7)
    )
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first != explanations(model, x, z, y, seed=4, count=10).as_dict()
    one, other = (found["methods"]["integrated-gradients"]["attacked"]["deletion"] for found in (first, split))
    assert one["mean"] == pytest.approx(other["mean"], abs=1e-6)


def test_images_are_explained_with_masks_and_told_of() -> None:
    """A model that looks at the upper left only: there is the energy of its maps, and no control's is."""
    x, stages = images(30, 2, 6), []
    x[:, :, :3, :3] = 0.6 + 0.4 * x[:, :, :3, :3]  # every bright pixel there speaks for class 0
    mask = torch.zeros(30, 6, 6, dtype=torch.bool)
    mask[:, :3, :3] = True
    mask[:10] = False  # no foreground is known

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen = torch.tanh(4 * (x[:, :, :3, :3] - 0.5)).sum((1, 2, 3))
            return torch.stack([seen, 0 * seen], 1)

    z = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)).clamp(0, 1)
    found = explanations(
        Corner(), x, z, torch.zeros(30).long(), masks=mask, seed=0, shown=4, advance=lambda *told: stages.append(told)
    )
    for name in ("gradient", "integrated-gradients"):
        assert found.maps[f"{name}/attacked"].shape == (4, 6, 6)
        for state in ("clean", "attacked"):
            where = found.methods[name]["concentration"][state]
            assert where["energy"]["mean"] == pytest.approx(1)
            assert where["pointing"]["mean"] == 1
            assert where["energy"]["n"] == 20
            assert where["energy"]["control"]["mean"] == pytest.approx(1 / 4)
            assert where["energy"]["advantage"]["mean"] == pytest.approx(3 / 4)
            assert found.methods[name][state]["deletion"]["n"] == 30
    assert [(done, total) for _, done, total in stages] == [(i, 6) for i in range(6)]
    assert found.methods["gradient"]["clean"]["deletion"]["beats_control"]
    nowhere = explanations(Corner(), x, z, torch.zeros(30).long(), masks=mask & False, seed=0, count=5)
    assert nowhere.methods["gradient"]["concentration"] is None


def test_every_example_meets_its_own_mask_and_another_examples_map(rng: torch.Generator) -> None:
    x, model = images(20), curved()
    masks = torch.rand((20, 5, 5), generator=rng) < 0.3
    found = explanations(model, x, 1 - x, torch.zeros(20).long(), masks=masks, seed=0, count=12, shown=12)
    drawn = [next(i for i in range(20) if torch.equal(x[i], row)) for row in found.maps["x"]]
    for name in ("gradient", "integrated-gradients"):
        report, clean, attacked = found.methods[name], found.maps[f"{name}/clean"], found.maps[f"{name}/attacked"]
        for state, maps in (("clean", clean), ("attacked", attacked)):
            energy = report["concentration"][state]["energy"]
            assert energy["mean"] == pytest.approx(energy_inside(maps, masks[drawn]).mean().item())
            assert energy["control"]["mean"] == pytest.approx(masks[drawn].double().mean().item())
        for kind, alike in (*LIKENESS, ("ssim", ssim)):
            figure = report["stability"]["as_shown"][kind]
            assert figure["mean"] == pytest.approx(alike(clean, attacked).mean().item())
            assert figure["control"]["mean"] == pytest.approx(alike(clean, clean.roll(1, 0)).mean().item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.rand(4, 3).double()}, "x and z must be"),
        ({"y": torch.zeros(5).long()}, "x and z must be"),
        ({"masks": torch.ones(6, 4)}, r"masks must be bool \[6, 4\]. Got torch.float32"),
        ({"masks": torch.ones(6, 3, dtype=torch.bool)}, r"masks must be bool \[6, 4\]"),
        ({"z": None}, "z must differ from x in at least 2 examples"),
        ({"count": 1}, r"The 'count' parameter must be an int in the range \[2, inf\)"),
    ],
)
def test_what_cannot_be_explained_is_refused(change: dict[str, Any], message: str) -> None:
    x = torch.rand((6, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = {"z": 1 - x, "y": torch.zeros(6).long(), "seed": 0, **change}
    if given["z"] is None:
        given["z"] = x
    with pytest.raises(ValueError, match=message):
        explanations(linear(4), x, **given)
