"""Saliency-guided training against the formula written out, at the limits where it must be something else, and what its
mask takes and leaves."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.core.game import Game, play
from sparring.core.gradient import frozen
from sparring.core.players import Nature
from sparring.core.tools import Tools
from sparring.core.view import Fast, Speed
from sparring.core.weights import Perturbation
from sparring.systems import mixed_at, saliency_guided, standard
from sparring.systems.saliency_guided import Config, by_channel, masked, objective, saliency

CLOSE = {"rtol": 0, "atol": 1e-6}


def network() -> nn.Module:
    """Ten inputs, two hidden layers: neither its saliency nor its curvature is the same everywhere."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(12, 10, generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (12,), generator=rng)


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(2), dtype=dtype)


def seeded(seed: int = 3) -> Tools:
    return Tools(rng=torch.Generator().manual_seed(seed))


def make(module: Any, config: Any, model: nn.Module, tools: Tools | None = None) -> Game:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return module.game(config, model=model, optimizer=optimizer, tools=tools or seeded())


def weights_after(module: Any, config: Any, rounds: int = 5) -> list[Tensor]:
    model = network()
    for _ in play(make(module, config, model), [batch()] * rounds):
        pass
    return [p.detach().clone() for p in model.parameters()]


def step(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """One plain step of length 0.1 down the gradient of a loss."""
    parameters = list(model.parameters())
    return [p.detach() - 0.1 * g for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]


def written_out(config: Config, model: nn.Module) -> Tensor:
    """The whole loss of a first round, in plain torch, one example and one feature at a time."""
    (x, y), tools = batch(), seeded()
    z = make(saliency_guided, config, copy.deepcopy(model), tools).adversary.respond(model, (x, y))
    noise, rows = torch.rand(12, 1, 10, generator=tools.rng, dtype=torch.float64)[:, 0], torch.arange(12)
    hidden = z.clone()
    for i in rows:
        u = z[i].clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(u[None])[0, y[i]], u)
        for j in slope.abs().sort().indices[: round(config.share * 10)]:
            hidden[i, j] = z[i].min() + (z[i].max() - z[i].min()) * noise[i, j]
    p, q, r = model(x).softmax(1), model(z).softmax(1), model(hidden).softmax(1)
    divergence = (p * (p.log() - r.log())).sum(1)
    loss = -p[rows, y].log() - config.adversarial * q[rows, y].log() + config.weight * divergence
    return loss.mean()


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(weight=4.0, share=0.3),
        Config(adversarial=0.5, weight=2.0, share=1.0),
        Config(adversarial=0.0, weight=3.0),
    ],
    ids=str,
)
def test_one_step_is_the_formula(config: Config) -> None:
    model = network()
    expected = step(written_out(config, model), model)
    for got, wanted in zip(weights_after(saliency_guided, config, rounds=1), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_the_gradient_flows_through_the_clean_distribution() -> None:
    model, (x, y) = network(), batch()
    z = x + 0.1
    whole = objective(0.0, 50.0, 0.0, seeded())(model, z, (x, y)).mean()
    p, q = model(x).softmax(1), model(z).softmax(1)
    held = -p[torch.arange(12), y].log() + 50.0 * (p.detach() * (p.detach().log() - q.log())).sum(1)
    torch.testing.assert_close(whole, held.mean())
    pairs = zip(step(whole, model), step(held.mean(), model), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) > 1e-4


def test_without_divergence_it_is_the_sum_of_clean_and_adversarial_loss() -> None:
    """CE(f(x), y) + CE(f(z), y), written out for one step; which is mixed-at by sum, for five and bit for bit."""
    config, model, (x, y) = Config(weight=0.0), network(), batch()
    z = make(saliency_guided, config, copy.deepcopy(model)).adversary.respond(model, (x, y))
    rows = torch.arange(12)
    loss = -(model(x).softmax(1)[rows, y].log() + model(z).softmax(1)[rows, y].log()).mean()
    for got, wanted in zip(weights_after(saliency_guided, config, rounds=1), step(loss, model), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)
    pairs = zip(weights_after(saliency_guided, config), weights_after(mixed_at, mixed_at.Config()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_without_adversary_and_divergence_it_is_standard_training_bit_for_bit() -> None:
    ours = weights_after(saliency_guided, Config(adversarial=0.0, weight=0.0))
    assert all(torch.equal(a, b) for a, b in zip(ours, weights_after(standard, standard.Config()), strict=True))


def test_sgt_has_no_adversary_and_masks_the_clean_input() -> None:
    model, (x, y) = network(), batch()
    sgt = make(saliency_guided, Config(adversarial=0.0), model)
    assert isinstance(sgt.adversary, Nature)
    assert torch.equal(sgt.adversary.respond(model, (x, y)), x)


def test_a_share_of_zero_compares_the_clean_with_the_adversarial_answer() -> None:
    config, model, (x, y) = Config(weight=2.5, share=0.0), network(), batch()
    z = make(saliency_guided, config, copy.deepcopy(model)).adversary.respond(model, (x, y))
    p, q, rows = model(x).softmax(1), model(z).softmax(1), torch.arange(12)
    loss = -p[rows, y].log() - q[rows, y].log() + 2.5 * (p * (p.log() - q.log())).sum(1)
    for got, wanted in zip(weights_after(saliency_guided, config, rounds=1), step(loss.mean(), model), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_exactly_the_least_salient_pixels_are_replaced_in_all_channels(share: float) -> None:
    x = images()
    importance = torch.rand(5, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    changed = by_channel(masked(x, importance, share, torch.Generator().manual_seed(5)) != x)
    count = round(share * 24)
    assert (changed.sum(2) == count).all()
    assert torch.equal(changed.any(1), changed.all(1))
    if 0 < count < 24:
        taken = changed[:, 0]
        assert (importance.where(taken, -1.0).amax(1) < importance.where(~taken, 2.0).amin(1)).all()


def test_of_equal_saliencies_the_first_go() -> None:
    x = images()
    changed = by_channel(masked(x, torch.zeros(5, 24), 0.25, torch.Generator().manual_seed(0)) != x)
    assert changed[..., :6].all()
    assert not changed[..., 6:].any()


@given(
    low=st.floats(-1e3, 1e3, width=32),
    width=st.floats(0, 1e3, width=32),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 999),
)
def test_the_fill_is_within_the_range_of_its_channel(low: float, width: float, dtype: torch.dtype, seed: int) -> None:
    x = low + width * images(dtype) * torch.tensor([1.0, 0.1, 0.0], dtype=dtype)[:, None, None]
    filled = by_channel(masked(x, torch.zeros(5, 24), 1.0, torch.Generator().manual_seed(seed)))
    least, greatest = by_channel(x).aminmax(dim=2, keepdim=True)
    assert filled.dtype == dtype
    assert ((least <= filled) & (filled <= greatest)).all()


def test_the_fill_is_uniform_and_never_the_same_in_two_places() -> None:
    x = torch.rand(2, 2, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([1.0, 0.2], dtype=torch.float64)[:, None, None]
    values = by_channel(masked(x, torch.zeros(2, 10_000), 1.0, torch.Generator().manual_seed(1)))
    shares = values / torch.tensor([1.0, 0.2], dtype=torch.float64)[:, None]  # uniform on [0, 1], n = 10,000 four times
    torch.testing.assert_close(shares.mean(2), torch.full((2, 2), 0.5, dtype=torch.float64), rtol=0, atol=0.015)
    torch.testing.assert_close(shares.var(2), torch.full((2, 2), 1 / 12, dtype=torch.float64), rtol=0, atol=0.005)
    assert shares.unique().numel() == 40_000


def test_the_saliency_of_a_linear_model_is_the_size_of_its_weights() -> None:
    """|d logit_y / dx| = |w_y|, channels added up: signs that differ between channels do not cancel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4)).double()
    x, y = images(), torch.tensor([0, 1, 2, 3, 1])
    weights = model[1].weight.detach().view(4, 3, 24)
    torch.testing.assert_close(saliency(model, x, y), weights.abs().sum(1)[y])
    flat = saliency(model[1], x.flatten(1), y)
    torch.testing.assert_close(flat, weights.flatten(1).abs()[y])


def test_a_soft_label_is_explained_by_its_most_probable_class() -> None:
    model, (x, y) = network(), batch()
    soft = 0.7 * nn.functional.one_hot(y, 4).double() + 0.3 * nn.functional.one_hot((y + 1) % 4, 4).double()
    assert torch.equal(saliency(model, x, soft), saliency(model, x, y))
    certain = nn.functional.one_hot(y, 4).double()
    losses = [objective(1.0, 2.0, 0.5, seeded())(model, x + 0.1, (x, label)) for label in (certain, y)]
    torch.testing.assert_close(*losses)
    rounds = play(make(saliency_guided, Config(), model), [(x, soft)] * 20)
    losses = [metrics["loss"] for metrics in rounds]
    assert losses[-1] < losses[0]


class Watched(nn.Module):
    """Notes each forward pass: whether in train mode, for inputs with gradient, and the parameters with gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()
        self.passes: list[tuple[bool, bool, bool]] = []

    def forward(self, z: Tensor) -> Tensor:
        self.passes.append((self.training, z.requires_grad, self.inner[0].weight.requires_grad))
        return self.inner(z)


TRAINING, LOOKING = (True, False, True), (False, True, False)


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        (Config(), [LOOKING] + [TRAINING] * 3),
        (Config(adversarial=0.0), [LOOKING] + [TRAINING] * 2),
        (Config(share=0.0), [TRAINING] * 3),
        (Config(weight=0.0), [TRAINING] * 2),
        (Config(adversarial=0.0, weight=0.0), [TRAINING]),
    ],
    ids=str,
)
def test_the_passes_of_an_update_and_their_modes(config: Config, passes: list[tuple[bool, bool, bool]]) -> None:
    """Saliency is looked up first, frozen and in eval mode; what has no weight is not computed."""
    model, (x, y) = Watched(), batch()
    make(saliency_guided, config, model).learner.update(x, (x, y))
    assert model.passes == passes
    assert model.inner[1].num_batches_tracked == passes.count(TRAINING)


def test_the_saliency_is_the_views() -> None:
    seen = network()
    for p in seen.parameters():
        p.data.copy_(p.data.flip(-1))  # another network, so that it shows whose saliency was taken

    @contextmanager
    def view(model: nn.Module) -> Iterator[nn.Module]:
        with frozen(seen) as other:
            yield other

    (x, y), model, tools = batch(), network(), seeded()
    drawn = objective(0.0, 1.0, 0.5, replace(tools, view=view))(model, x, (x, y))
    with frozen(seen):
        hidden = masked(x, saliency(seen, x, y), 0.5, torch.Generator().manual_seed(3))
    p, q = model(x).softmax(1), model(hidden).softmax(1)
    expected = -p[torch.arange(12), y].log() + (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(drawn, expected)


def test_a_cheaper_view_plays_the_same_game() -> None:
    def trained(fast: bool) -> list[Tensor]:
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 4, 4))
        model = nn.Sequential(*layers).double()
        x = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        view = Fast(model, x, Speed(channels_last=True, folded=True)) if fast else frozen
        played = make(saliency_guided, Config(steps=2), model, replace(seeded(), view=view))
        for _ in play(played, [(x, torch.arange(8) % 4)] * 3):
            pass
        return [p.detach() for p in model.parameters()]

    for plain, quick in zip(trained(False), trained(True), strict=True):
        torch.testing.assert_close(quick, plain, **CLOSE)


def test_a_weight_space_adversary_has_it_computed_twice_each_time_with_its_own_draw() -> None:
    """The second gradient is that of the moved weights, with their saliency and the next values of the generator."""
    (x, y), model, radius = batch(), network(), 0.2
    tools = replace(seeded(), perturbation=Perturbation("sam", radius))
    descended = objective(0.0, 2.0, 0.5, seeded())
    make(saliency_guided, Config(adversarial=0.0, weight=2.0), model, tools).learner.update(x, (x, y))

    twin = network()
    parameters = list(twin.parameters())
    before = [p.detach().clone() for p in parameters]
    gradients = torch.autograd.grad(descended(twin, x, (x, y)).mean(), parameters)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    for p, g in zip(parameters, gradients, strict=True):
        p.data.add_(radius * g / norm)
    gradients = torch.autograd.grad(descended(twin, x, (x, y)).mean(), parameters)
    for got, start, g in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(got.detach(), start - 0.1 * g, **CLOSE)


def test_every_draw_is_the_tools() -> None:
    (x, y), model = batch(), network()

    def loss(seed: int, noise: int) -> Tensor:
        torch.manual_seed(noise)
        return objective(0.0, 1.0, 0.5, seeded(seed))(model, x, (x, y)).detach()

    assert torch.equal(loss(0, noise=0), loss(0, noise=1))
    assert not torch.equal(loss(0, noise=0), loss(1, noise=0))


def test_the_mask_leaves_the_move_and_the_batch_as_they_were() -> None:
    (x, y), model = batch(), network()
    z = x + 0.1
    kept = x.clone(), y.clone(), z.clone()
    objective(1.0, 1.0, 1.0, seeded())(model, z, (x, y)).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip((x, y, z), kept, strict=True))
    assert not z.requires_grad


def test_training_makes_the_answer_depend_less_on_what_is_masked() -> None:
    """The divergence that is penalised falls far below where the sum without it leaves it."""

    def divergence(weight: float) -> float:
        model, (x, y) = network(), batch()
        for _ in play(make(saliency_guided, Config(weight=weight, steps=2), model), [batch()] * 200):
            pass
        masking, plain = (objective(0.0, w, 0.5, seeded(9))(model, x, (x, y)).mean().item() for w in (1.0, 0.0))
        return masking - plain

    assert 0 < divergence(10.0) < 0.5 * divergence(0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adversarial", -1.0),
        ("adversarial", float("inf")),
        ("adversarial", True),
        ("weight", -0.5),
        ("weight", float("nan")),
        ("share", -0.1),
        ("share", 1.2),
        ("share", True),
        ("steps", 0),
        ("attack", "cw"),
        ("threat", "l3"),
        ("eps_warmup", 2.0),
    ],
)
def test_a_bad_field_names_itself_its_range_and_its_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        Config(**{field: value})
