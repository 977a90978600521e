"""Grad-CAM against Captum, against its formula written out, and its gradient against finite differences."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from sparring.core.cam import alive, grad_cam, last_map, layer_of, normalised
from sparring.core.gradient import frozen
from sparring.domains.image import models, resnet


def images(count: int = 5, channels: int = 2, side: int = 8, seed: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand((count, channels, side, side), generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (count,), generator=rng)


def small_conv() -> nn.Module:
    torch.manual_seed(0)
    return models.small_conv((2, 8, 8), 4, (0.4, 0.5), (0.2, 0.3)).double()


def residual() -> nn.Module:
    """A ResNet of four blocks with 3 and 5 channels; maps of 8x8 and 4x4."""
    torch.manual_seed(1)
    stages = resnet.stages(2, widths=(3, 5))
    model = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double()
    rng = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.2 * torch.randn(module.running_mean.shape, generator=rng))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=rng))
    return model


def smooth(inplace: bool = False) -> nn.Sequential:
    """Three convolutions around a feature map "2", whose gradient depends on the map: nothing about it is linear."""
    torch.manual_seed(4)
    model = nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 3, 3, padding=1)),
        *(nn.ReLU(inplace=True) if inplace else nn.Tanh(), nn.Flatten(), nn.Linear(75, 6), nn.Tanh(), nn.Linear(6, 4)),
    ).double()  # fmt: skip
    for weight in model.parameters():
        weight.data.mul_(2.5)
    return model


MODELS: list[tuple[Callable[[], nn.Module], tuple[str, ...]]] = [
    (small_conv, ("1", "2", "4", "6")),
    (residual, ("2", "4", "5.bn1", "6")),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("make", "layers"), MODELS)
def test_the_map_is_captums(make: Callable[[], nn.Module], layers: tuple[str, ...], training: bool) -> None:
    model, (x, y) = make().train(training), images()
    for name in layers:
        layer = layer_of(model, name)
        expected = LayerGradCam(model, layer).attribute(x, target=y, relu_attributions=True).squeeze(1)
        logits, maps = grad_cam(model, x, y, layer)
        torch.testing.assert_close(maps, expected.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(logits, model(x), rtol=0, atol=1e-12)
        assert 0 < (maps > 0).double().mean() < 1
        assert not maps.requires_grad


def test_the_map_is_its_formula_written_out() -> None:
    model, (x, y) = smooth(), images(side=5)
    _, maps = grad_cam(model, x, y, model[2])
    for b in range(len(x)):
        activation = model[:3](x[b : b + 1]).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(model[3:](activation)[0, y[b]], activation)
        total = sum(slope[0, k].mean() * activation[0, k] for k in range(3))
        torch.testing.assert_close(maps[b], F.relu(total).detach(), rtol=0, atol=1e-12)


def slopes(of: Callable[[nn.Sequential], Tensor]) -> list[Tensor]:
    """The gradient of the summed maps with respect to all weights before the layer, and of those after it."""
    model = smooth()
    return list(torch.autograd.grad(of(model).sum(), list(model.parameters()), allow_unused=True))


def test_the_gradient_of_the_map_is_that_of_finite_differences_in_every_weight() -> None:
    """Through the activations and through their weights alpha: with alpha detached it is another gradient."""
    x, y = images(side=5)

    def whole(model: nn.Sequential) -> Tensor:
        return grad_cam(model, x, y, model[2], create_graph=True)[1]

    def halfway(model: nn.Sequential) -> Tensor:
        activation = model[:3](x)
        score = model[3:](activation).gather(1, y[:, None]).sum()
        (slope,) = torch.autograd.grad(score, activation)
        return F.relu((slope.mean((2, 3), keepdim=True) * activation).sum(1))

    got, detached, model, step = slopes(whole), slopes(halfway), smooth(), 1e-6
    for parameter, slope in zip(model.parameters(), got, strict=True):
        flat = parameter.data.view(-1)
        expected = torch.empty_like(flat)
        for i in range(len(flat)):
            before = flat[i].item()
            ends = []
            for sign in (1, -1):
                flat[i] = before + sign * step
                ends.append(grad_cam(model, x, y, model[2])[1].sum())
            flat[i] = before
            expected[i] = (ends[0] - ends[1]) / (2 * step)
        slope = torch.zeros_like(flat) if slope is None else slope.flatten()
        torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(whole(model), halfway(model))  # the same map ...
    assert (got[0] - detached[0]).abs().max() > 0.1 * got[0].abs().max()  # ... with another gradient
    assert detached[4] is None  # none at all for the weights after the layer, which only alpha depends on
    assert got[4].abs().max() > 1e-3


def test_the_gradient_reaches_the_input_and_the_logits_keep_their_graph() -> None:
    model, (x, y) = smooth(), images(2, side=5)
    assert torch.autograd.gradcheck(
        lambda z: grad_cam(model, z, y, model[2], create_graph=True)[1].sum(), x.requires_grad_(True)
    )
    logits, maps = grad_cam(model, x, y, model[2], create_graph=True)
    together = torch.autograd.grad(logits.sum() + maps.sum(), model[0].weight)[0]
    apart = torch.autograd.grad(model(x).sum(), model[0].weight)[0]
    apart = apart + torch.autograd.grad(grad_cam(model, x, y, model[2], create_graph=True)[1].sum(), model[0].weight)[0]
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)


def test_an_activation_in_place_after_the_layer_does_not_reach_the_map() -> None:
    changed, x, y = smooth(inplace=True), *images(side=5)
    kept = smooth(inplace=True)
    kept[3] = nn.ReLU()
    for create_graph in (False, True):
        got = grad_cam(changed, x, y, changed[2], create_graph=create_graph)[1]
        torch.testing.assert_close(got, grad_cam(kept, x, y, kept[2])[1], rtol=0, atol=0)
    assert changed[2](x[:, :1].expand(-1, 3, -1, -1)).min() < 0  # or ReLU in place would change nothing


@pytest.mark.parametrize("make", [small_conv, residual])
def test_a_frozen_model_on_plain_inputs_has_its_map(make: Callable[[], nn.Module]) -> None:
    model, (x, y) = make().eval(), images()
    layer = layer_of(model, last_map(model, x))
    expected = grad_cam(model, x, y, layer)[1]
    with frozen(model), torch.no_grad():
        logits, maps = grad_cam(model, x, y, layer)
    assert torch.equal(maps, expected)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not layer._forward_hooks
    torch.testing.assert_close(logits.detach(), model(x).detach(), rtol=0, atol=0)


class Twice(nn.Module):
    """One convolution, used twice; then one that is used once; the head sees both."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
        self.again, self.head = nn.ReLU(), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.again(self.once(self.again(self.twice(self.twice(x)))))
        return self.head(h.mean((2, 3)))


def test_a_layer_that_is_no_feature_map_is_refused() -> None:
    model, (x, y) = Twice().double(), images()
    with pytest.raises(ValueError, match=r"must answer once, .* It answered with \[5, 2, 8, 8\], \[5, 2, 8, 8\]\."):
        grad_cam(model, x, y, model.twice)
    with pytest.raises(ValueError, match=r"It answered with \[5, 4\]\."):
        grad_cam(model, x, y, model.head)
    with pytest.raises(ValueError, match=r"It answered with nothing\."):
        grad_cam(model, x, y, nn.ReLU())
    assert not any(module._forward_hooks for module in model.modules())  # also after an error
    assert last_map(model, x) == "once"
    for name in ("", "nowhere"):
        with pytest.raises(ValueError, match=rf"must be the name of a module: twice, once.* Got '{name}' instead"):
            layer_of(model, name)
    assert layer_of(model, "once") is model.once


def test_a_wrapped_model_has_its_layers_under_their_own_names() -> None:
    model = residual()
    for name in ("2", "5.bn1", "6"):
        assert layer_of(nn.Sequential(model), name) is layer_of(model, name)
    twins = nn.ModuleDict({"a": Twice(), "b": Twice()})
    with pytest.raises(ValueError, match=r"must be the name of a module: a, a\.twice"):
        layer_of(twins, "once")  # which of the two?
    assert layer_of(twins, "b.once") is twins["b"].once


def test_maps_are_at_least_float32() -> None:
    model, (x, y) = smooth(), images(side=5)
    expected = grad_cam(model, x, y, model[2])[1]
    half = smooth().bfloat16()
    maps = grad_cam(half, x.bfloat16(), y, half[2])[1]
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.double(), expected, rtol=0, atol=0.1 * expected.max().item())


def test_the_last_map_is_the_last_block_that_still_tells_places_apart() -> None:
    model, (x, _) = residual(), images()
    assert last_map(model, x) == "6"  # the block, not the parts of it that answer before
    assert last_map(nn.Sequential(model), x) == "0.6"
    coarse, _ = images(side=6)
    assert last_map(model, coarse) == "4"  # blocks 5 and 6 have 3x3
    assert last_map(small_conv(), x) == "5"  # 4x4; the pooled 2x2 after it is too coarse
    tiny, _ = images(side=3)
    pooled = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 2), nn.Flatten(), nn.Linear(12, 4)).double()
    assert last_map(pooled, tiny) == "1"  # nothing has 4x4: the last map there is
    for flat in (nn.Sequential(nn.Flatten(), nn.Linear(128, 4)), nn.Conv2d(2, 4, 8)):
        with pytest.raises(ValueError, match="needs a model with a feature map"):
            last_map(flat.double(), x)


def test_asking_for_the_last_map_leaves_the_model_as_it_was() -> None:
    model, (x, _) = residual().train(), images()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    last_map(model, x)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_normalised_maps_run_from_0_to_1_whatever_their_scale(rng: torch.Generator) -> None:
    maps = torch.randn((6, 4, 5), generator=rng, dtype=torch.float64)
    scaled = normalised(maps)
    torch.testing.assert_close(scaled.amin((1, 2)), torch.zeros(6).double(), rtol=0, atol=0)
    torch.testing.assert_close(scaled.amax((1, 2)), torch.ones(6).double(), rtol=0, atol=1e-7)
    assert (scaled <= 1).all()
    for a, b in ((3.0, 0.0), (0.5, 7.0), (20.0, -2.0)):
        torch.testing.assert_close(normalised(a * maps + b), scaled, rtol=0, atol=1e-7)
    assert torch.equal(normalised(torch.full((2, 3, 3), 0.7)), torch.zeros(2, 3, 3))
    low, high = maps[0].min(), maps[0].max()
    torch.testing.assert_close(scaled[0], (maps[0] - low) / (high - low), rtol=0, atol=1e-7)


def test_a_map_is_alive_where_it_is_anywhere_above_zero() -> None:
    maps = torch.zeros(3, 2, 2)
    maps[1, 0, 1] = 1e-12
    maps[2] = -1
    assert alive(maps).tolist() == [False, True, False]
