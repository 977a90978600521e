"""Interval and linear bounds: closed forms, soundness, tightness, and an independent implementation."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core import crown, interval
from sparring.core.traced import SUPPORTED, UnsupportedError, graph
from sparring.domains.image.models import Normalize, build

SHAPE = (1, 8, 8)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)).double()


class Functional(nn.Module):
    """The same operations as functions and methods, and a convolution whose weight is a plain parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(4, 1, 3, 3))
        self.last = nn.Linear(4 * 3 * 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(2 * (1 - x) - 0.5, self.weight, padding=1))
        x = F.max_pool2d(x, 2) - F.avg_pool2d(x, 2)
        x = F.dropout(torch.relu(x).add(0.1), training=self.training)
        x = F.adaptive_avg_pool2d(x, 3) / 2
        return self.last(x.view(x.size(0), -1).relu()).contiguous() * 1.5


def batch_norm() -> nn.Module:
    """BatchNorm with scales of both signs, behind a convolution and behind a linear layer."""
    norm, flat = nn.BatchNorm2d(5), nn.BatchNorm1d(9)
    layers = (nn.Conv2d(1, 5, 3, 2), norm, nn.ReLU(), nn.Dropout2d(), nn.Flatten(), nn.Linear(45, 9), flat, nn.ReLU())
    with torch.no_grad():
        for one in (norm, flat):
            one.weight.copy_(torch.randn_like(one.weight))
            one.running_mean.normal_()
            one.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(*layers, nn.Identity(), nn.Linear(9, 4))


def network(kind: str) -> nn.Module:
    torch.manual_seed(1)
    if kind == "functional":
        return Functional().double().eval()
    if kind == "batch-norm":
        return batch_norm().double().eval()
    model = build(kind, SHAPE, 4, (0.3,), (0.4,)).double()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, *SHAPE, dtype=torch.float64))  # statistics of the BatchNorms
    return model.eval()


NETS = ("small-conv", "small-strided", "batch-norm", "wrn-10-1", "functional")
LINEAR_BOUNDS = ("small-strided", "batch-norm", "wrn-10-1")
"""Those without max-pooling."""


def batch(n: int = 4) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(2)
    return torch.rand(n, *SHAPE, generator=rng, dtype=torch.float64), torch.arange(n) % 4


def differences(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None]) - logits


def test_one_linear_layer_has_the_closed_form() -> None:
    layer, x = nn.Linear(5, 3).double(), torch.rand(7, 5, dtype=torch.float64)
    low, high = interval.bounds(layer, x - 0.1, x + 0.1)
    radius = 0.1 * layer.weight.abs().sum(1)
    torch.testing.assert_close(low, layer(x) - radius, rtol=0, atol=1e-12)
    torch.testing.assert_close(high, layer(x) + radius, rtol=0, atol=1e-12)


@pytest.mark.parametrize("margins", [interval.margin_bounds, crown.margin_bounds])
def test_the_margin_of_a_linear_network_is_its_worst_case(margins: object) -> None:
    """logits_y - logits_k is linear: its least value in the ball is at distance eps ||w_y - w_k||_1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()
    x, y = batch()
    w = model[1].weight
    exact = differences(model(x), y) - 0.07 * (w[y][:, None] - w[None]).abs().sum(2)
    torch.testing.assert_close(margins(model, x - 0.07, x + 0.07, y), exact, rtol=0, atol=1e-12)


def test_crown_is_exact_for_a_deep_linear_network_where_intervals_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Normalize((0.3,), (0.4,)), nn.Conv2d(1, 3, 4, 3), nn.Flatten(), nn.Linear(12, 4)).double()
    x, y = batch()
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).transpose(0, 1).flatten(2)
    exact = differences(model(x), y) - 0.05 * (jacobian[range(4), y][:, None] - jacobian).abs().sum(2)
    linear = crown.margin_bounds(model, x - 0.05, x + 0.05, y)
    torch.testing.assert_close(linear, exact, rtol=0, atol=1e-12)
    off = torch.ones(4, 4).scatter(1, y[:, None], 0).bool()
    assert (interval.margin_bounds(model, x - 0.05, x + 0.05, y) < exact - 1e-3)[off].all()


class Apart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) - self.other(x)


def test_the_difference_of_two_branches_has_the_sum_of_their_radii() -> None:
    torch.manual_seed(0)
    model, x = Apart(), torch.rand(4, 3, dtype=torch.float64)
    radius = 0.1 * (model.one.weight.abs() + model.other.weight.abs()).sum(1)
    low, high = interval.bounds(model, x - 0.1, x + 0.1)
    torch.testing.assert_close(low, model(x) - radius, rtol=0, atol=1e-12)
    torch.testing.assert_close(high, model(x) + radius, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", NETS)
def test_no_point_of_the_box_leaves_the_bounds(kind: str) -> None:
    model, (x, y) = network(kind), batch()
    low, high = x - 0.03, x + 0.03
    least, most = interval.bounds(model, low, high)
    margins = [interval.margin_bounds(model, low, high, y)]
    margins += [crown.margin_bounds(model, low, high, y)] if kind in LINEAR_BOUNDS else []
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for i in range(120):
            share = torch.rand(x.shape, generator=rng, dtype=torch.float64)
            z = low + (high - low) * (share.round() if i % 2 else share)
            logits = model(z)
            assert (logits >= least - 1e-9).all()
            assert (logits <= most + 1e-9).all()
            assert all((differences(logits, y) >= bound - 1e-9).all() for bound in margins)


@pytest.mark.parametrize("kind", NETS)
def test_a_box_without_extent_gives_the_logits(kind: str) -> None:
    model, (x, y) = network(kind), batch()
    low, high = interval.bounds(model, x, x)
    torch.testing.assert_close(low, model(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(high, model(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(interval.margin_bounds(model, x, x, y), differences(model(x), y), rtol=0, atol=1e-10)
    if kind in LINEAR_BOUNDS:
        torch.testing.assert_close(crown.margin_bounds(model, x, x, y), differences(model(x), y), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", NETS)
def test_a_larger_box_has_wider_bounds(kind: str) -> None:
    model, (x, y) = network(kind), batch()
    least, most = interval.bounds(model, x, x)
    margins = interval.margin_bounds(model, x, x, y)
    for eps in (0.01, 0.05, 0.2):
        low, high = interval.bounds(model, x - eps, x + eps)
        again = interval.margin_bounds(model, x - eps, x + eps, y)
        assert (low < least).all()
        assert (high > most).all()
        assert (again <= margins + 1e-12).all()
        least, most, margins = low, high, again


def test_eliding_the_last_layer_is_tighter_than_subtracting_its_bounds() -> None:
    model, (x, y) = network("small-strided"), batch()
    low, high = interval.bounds(model, x - 0.05, x + 0.05)
    apart = low.gather(1, y[:, None]) - high
    off = torch.ones(4, 4).scatter(1, y[:, None], 0).bool()
    elided = interval.margin_bounds(model, x - 0.05, x + 0.05, y)
    assert (elided > apart)[off].all()
    assert not elided[~off].any()


def test_bounds_equal_an_independent_implementation() -> None:
    """Gowal et al. 2018, equations 6 and 7, by the signs of the weights."""
    model, rng = mlp(), torch.Generator().manual_seed(0)
    low = torch.rand(3, 6, generator=rng, dtype=torch.float64)
    high = low + 0.2 * torch.rand(3, 6, generator=rng, dtype=torch.float64)
    least, most = low, high
    for layer in model:
        if isinstance(layer, nn.ReLU):
            least, most = least.clamp(min=0), most.clamp(min=0)
        else:
            up, down = layer.weight.clamp(min=0).T, layer.weight.clamp(max=0).T
            least, most = least @ up + most @ down + layer.bias, most @ up + least @ down + layer.bias
    got = interval.bounds(model, low, high)
    torch.testing.assert_close(got, (least, most), rtol=0, atol=1e-12)


def crown_by_hand(model: nn.Sequential, low: Tensor, high: Tensor, row: Tensor) -> Tensor:
    """CROWN-IBP for one example of Linear-ReLU-Linear-ReLU-Linear and one linear form of its logits, neuron by neuron:
    Zhang et al. 2018, theorem 3.2 with the adaptive lower slope; Zhang et al. 2020, section 3."""
    first, second = model[0], model[2]
    boxes, box = [], (low, high)
    for layer in (first, second):
        c, r = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
        spread = layer.weight.abs() @ r
        boxes.append((layer(c) - spread, layer(c) + spread))
        box = tuple(end.clamp(min=0) for end in boxes[-1])
    constant = row @ model[4].bias
    form = row @ model[4].weight
    for layer, (least, most) in ((second, boxes[1]), (first, boxes[0])):
        through = torch.zeros_like(form)
        for j, a in enumerate(form.tolist()):
            lj, uj = least[j].item(), most[j].item()
            if uj <= 0:
                continue
            if lj >= 0:
                through[j] = a
            elif a >= 0:
                through[j] = a * (1.0 if uj > -lj else 0.0)
            else:
                through[j] = a * uj / (uj - lj)
                constant = constant - a * uj * lj / (uj - lj)
        constant = constant + through @ layer.bias
        form = through @ layer.weight
    return constant + form.clamp(min=0) @ low + form.clamp(max=0) @ high


def test_crown_equals_an_independent_implementation() -> None:
    model, rng = mlp(), torch.Generator().manual_seed(0)
    low = torch.rand(5, 6, generator=rng, dtype=torch.float64)
    high, y = low + 0.5, torch.tensor([0, 1, 2, 3, 0])
    got = crown.margin_bounds(model, low, high, y)
    eye = torch.eye(4, dtype=torch.float64)
    for i, k in itertools.product(range(5), range(4)):
        torch.testing.assert_close(got[i, k], crown_by_hand(model, low[i], high[i], eye[y[i]] - eye[k]))


def test_bounds_of_a_tiny_network_enclose_its_corners_and_crown_is_closer() -> None:
    """Along a coordinate of a two-layer ReLU network the extremes are at corners or kinks: a fine grid finds them."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    centre, y = torch.rand(6, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    steps = torch.linspace(-0.3, 0.3, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    found = torch.stack([differences(model(c + grid), y[i].expand(len(grid))).amin(0) for i, c in enumerate(centre)])
    by_interval = interval.margin_bounds(model, centre - 0.3, centre + 0.3, y)
    by_crown = crown.margin_bounds(model, centre - 0.3, centre + 0.3, y)
    assert (by_interval <= found + 1e-12).all()
    assert (by_crown <= found + 1e-12).all()
    assert (found - by_crown).mean() < 0.5 * (found - by_interval).mean()


@pytest.mark.parametrize("eps", [0.01, 0.1, 0.4])
def test_crown_is_at_least_as_tight_on_average(eps: float) -> None:
    gaps = []
    for seed in range(8):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 4)).double()
        x, y = batch(8)
        gaps.append(
            crown.margin_bounds(model, x - eps, x + eps, y) - interval.margin_bounds(model, x - eps, x + eps, y)
        )
    assert torch.stack(gaps).mean() > 0


@pytest.mark.parametrize("kind", LINEAR_BOUNDS)
@pytest.mark.parametrize("margins", [interval.margin_bounds, crown.margin_bounds])
def test_margins_are_differentiable_in_the_weights(kind: str, margins: object) -> None:
    """Against central differences of the bound itself, along a random direction of all weights."""
    model, (x, y) = network(kind), batch(2)
    parameters = list(model.parameters())

    def value() -> Tensor:
        return margins(model, x - 0.02, x + 0.02, y).sum()

    gradients = torch.autograd.grad(value(), parameters)
    rng = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, along, strict=True))
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, along, strict=True):
                p.add_(d, alpha=sign * 1e-7)
            ends.append(value())
            for p, d in zip(parameters, along, strict=True):
                p.sub_(d, alpha=sign * 1e-7)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-7, rtol=1e-4, atol=1e-4)


def test_soft_labels_bound_the_mean_margin() -> None:
    model, (x, y) = network("small-strided"), batch()
    hard = F.one_hot(y, 4).double()
    for margins in (interval.margin_bounds, crown.margin_bounds):
        torch.testing.assert_close(margins(model, x - 0.05, x + 0.05, hard), margins(model, x - 0.05, x + 0.05, y))
    soft = 0.7 * hard + 0.3 * hard.flip(0)
    bound = interval.worst_cross_entropy(interval.margin_bounds(model, x - 0.05, x + 0.05, soft))
    rng = torch.Generator().manual_seed(0)
    for _ in range(30):
        z = x + 0.05 * (2 * torch.rand(x.shape, generator=rng, dtype=torch.float64) - 1).sign()
        assert (F.cross_entropy(model(z), soft, reduction="none") <= bound + 1e-9).all()


def test_the_worst_cross_entropy_is_that_of_the_worst_logits() -> None:
    """Gowal et al. 2018, equation 11: the upper bound where the class is wrong, the lower where it is right."""
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double(), batch()
    margins = interval.margin_bounds(model, x - 0.1, x + 0.1, y)
    worst = F.cross_entropy(-margins, y, reduction="none")
    torch.testing.assert_close(interval.worst_cross_entropy(margins), worst, rtol=0, atol=1e-12)


def test_bounds_in_train_mode_are_those_of_eval_mode_and_leave_the_statistics() -> None:
    model, (x, _) = network("batch-norm"), batch()
    before, still = copy.deepcopy(model.state_dict()), interval.bounds(model, x - 0.1, x + 0.1)
    moving = interval.bounds(model.train(), x - 0.1, x + 0.1)
    torch.testing.assert_close(still, moving, rtol=0, atol=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_a_model_is_traced_once_and_read_anew() -> None:
    model, (x, _) = network("small-strided"), batch()
    first = interval.bounds(model, x, x)[0]
    assert graph(model) is graph(model)
    with torch.no_grad():
        model[-1].bias.add_(1.0)
    torch.testing.assert_close(interval.bounds(model, x, x)[0], first + 1.0)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


class Louder(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).exp()


class Leaf(Louder):
    """One that a trace does not look into."""

    __module__ = "torch.nn.of_somebody"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Leaf(3, 3), r"Leaf \(module '0'\)"),
        (nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)), r"No bound is known for Softmax \(module '0.1'\)"),
        (Squares(), "No bound is known for the function 'mul'"),
        (Louder(3, 3), "No bound is known for the method 'exp'"),
        (Branches(), "forward pass of Branches cannot be traced"),
        (nn.BatchNorm1d(3, track_running_stats=False), "BatchNorm1d"),
    ],
)
def test_what_has_no_bound_is_refused_by_name(model: nn.Module, message: str) -> None:
    model = nn.Sequential(model) if type(model).__module__.startswith("torch.nn") else model
    with pytest.raises(UnsupportedError, match=message) as caught:
        interval.bounds(model, torch.zeros(2, 3), torch.ones(2, 3))
    assert SUPPORTED in str(caught.value) or "traced" in str(caught.value)


def test_crown_refuses_max_pooling_and_names_the_choice() -> None:
    x, y = batch()
    with pytest.raises(UnsupportedError, match=r"MaxPool2d at node .* bound 'ibp', or .* 'small-strided'"):
        crown.margin_bounds(network("small-conv"), x, x, y)


def test_corners_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"of one shape. Got \[2, 3\] and \[2, 4\]"):
        interval.bounds(nn.Linear(3, 3), torch.zeros(2, 3), torch.zeros(2, 4))
