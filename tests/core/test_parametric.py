"""Boxes of parameters, and gains of what is rendered from them."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.core.attack import Attack, best_of
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain, RivalGain
from sparring.core.parametric import Box, Parametric, Rendered, through
from sparring.core.payoff import cross_entropy, margin
from sparring.core.pgd import fgsm, pgd
from sparring.core.threat import Linf

SEEDS = st.integers(0, 10_000)
WIDTH = torch.tensor([[2.0, 0.5, 0.0]], dtype=torch.float64)


@dataclass(frozen=True)
class Brighter:
    """z = clamp(x + theta_0 + theta_1 ramp, 0, 1), with a row of the batch's own offset."""

    offset: Tensor
    eps: float = 1.0

    @property
    def space(self) -> Box:
        return Box(torch.tensor([[0.2, 0.1]]), self.eps)

    def origin(self, x: Tensor) -> Tensor:
        return torch.zeros((len(x), 2), dtype=x.dtype)

    def render(self, theta: Tensor, x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)
        moved = theta[:, :1] + theta[:, 1:] * ramp
        return (x + moved * (1 + self.offset[:, None].to(x.dtype))).clamp(0, 1)

    def scaled(self, factor: float) -> "Brighter":
        return Brighter(self.offset, self.eps * factor)

    def take(self, rows: Tensor) -> "Brighter":
        return Brighter(self.offset[rows], self.eps)

    def describe(self) -> dict[str, Any]:
        return {"norm": "brighter"}


def points(seed: int, batch: int = 4) -> tuple[Tensor, Tensor, torch.Generator]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn((batch, 3), generator=rng, dtype=torch.float64)
    return x, x + 3 * torch.randn((batch, 3), generator=rng, dtype=torch.float64), rng


# The box


@given(SEEDS, st.sampled_from([0.3, 1.0, 2.0]))
def test_the_projection_clamps_each_parameter_to_its_own_range(seed: int, eps: float) -> None:
    x, z, rng = points(seed)
    box = Box(WIDTH, eps)
    nearest = torch.minimum(torch.maximum(z, x - eps * WIDTH), x + eps * WIDTH)
    assert torch.equal(box.project(z, x), nearest)
    assert box.contains(box.project(z, x), x).all()
    assert torch.equal(box.project(nearest, x), nearest)
    inside = ((z - x).abs() <= eps * WIDTH).all(1)
    assert torch.equal(box.contains(z, x), inside)
    drawn = box.sample(x, rng)
    assert box.contains(drawn, x).all()
    assert torch.equal(drawn[:, 2], x[:, 2])


def test_the_projection_holds_in_each_dtype() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x, z, _ = points(3, 64)
        x, z = x.to(dtype), z.to(dtype)
        for radius in (0.7, torch.linspace(0.1, 2, 64)):
            near = Box(WIDTH, 0.7).within(z, x, radius)
            assert near.dtype == dtype
        assert Box(WIDTH, 0.7).contains(Box(WIDTH, 0.7).project(z, x), x).all()
        assert Box(WIDTH, 0.7).sample(x).dtype == dtype
        assert not Box(WIDTH, 0.7).contains(x + torch.tensor([1.5, 0, 0]).to(dtype), x).any()


def test_nan_and_a_step_too_far_are_outside() -> None:
    box, x = Box(WIDTH), torch.zeros((5, 3), dtype=torch.float64)
    z = x.clone()
    z[0, 0], z[1, 0], z[2, 2], z[3, 1], z[4, 1] = math.nan, 2.00001, 1e-9, 0.5, math.inf
    assert box.contains(z, x).tolist() == [False, False, False, True, False]


def test_samples_are_uniform(seeded: Callable[..., torch.Generator]) -> None:
    """Mean 0 and variance (eps width)^2 / 3, within five standard errors."""
    n = 20_000
    theta = Box(WIDTH, 0.5).sample(torch.zeros((n, 3), dtype=torch.float64), seeded(1))
    share = theta[:, :2] / (0.5 * WIDTH[:, :2])
    assert (share.mean(0).abs() < 5 / math.sqrt(3 * n)).all()
    assert ((share.square().mean(0) - 1 / 3).abs() < 5 * math.sqrt(4 / 45 / n)).all()
    assert share.abs().amax() > 0.999


@given(SEEDS)
def test_steepest_is_the_best_direction_of_length_one(seed: int) -> None:
    """The maximum of <g, d> over max_i |d_i| / width_i <= 1 is sum |g_i| width_i."""
    x, gradient, _ = points(seed)
    step = Box(WIDTH).steepest(gradient, x)
    torch.testing.assert_close((gradient * step).sum(1), (gradient.abs() * WIDTH).sum(1))
    assert ((step.abs() - WIDTH) <= 0).all()


@given(SEEDS, st.floats(-1, 5))
def test_the_shortest_step_buys_exactly_the_rise(seed: int, rise: float) -> None:
    x, normal, _ = points(seed)
    box = Box(WIDTH)
    step = box.reach(normal, torch.full((4,), rise, dtype=torch.float64), x)
    torch.testing.assert_close((normal * step).sum(1), torch.full((4,), max(rise, 0.0), dtype=torch.float64))
    length = box.distance(x + step, x)
    torch.testing.assert_close(length, max(rise, 0.0) / (normal.abs() * WIDTH).sum(1))  # Hoelder: none is shorter
    assert torch.equal(box.reach(torch.zeros_like(x), torch.ones(4), x), torch.zeros_like(x))


def test_distance_is_the_smallest_eps_that_allows_it() -> None:
    x, z, _ = points(0)
    z[:, 2] = x[:, 2]
    distance = Box(WIDTH).distance(z, x)
    for i, d in enumerate(distance.tolist()):
        assert Box(WIDTH, d).contains(z, x)[i]
        assert not Box(WIDTH, d * 0.9999).contains(z, x)[i]
    z[0, 2] += 1
    assert Box(WIDTH).distance(z, x)[0] == math.inf
    assert Box(WIDTH).distance(x, x).tolist() == [0.0] * 4


def test_take_narrows_widths_per_example_and_scaled_multiplies() -> None:
    width = torch.arange(12.0).reshape(4, 3)
    box = Box(width, 0.5)
    assert torch.equal(box.take(torch.tensor([2, 0])).width, width[[2, 0]])
    assert torch.equal(box.take(torch.tensor([True, False, False, True])).width, width[[0, 3]])
    assert len(box.take(torch.tensor([], dtype=torch.long)).width) == 0
    assert Box(WIDTH).take(torch.tensor([0, 0])).width is WIDTH
    assert box.scaled(3.0).eps == 1.5
    assert json.loads(json.dumps(Box(WIDTH).describe())) == {"norm": "box", "eps": 1.0, "width": [2.0, 0.5, 0.0]}


@pytest.mark.parametrize("width", [[[-1.0]], [[math.inf]], [[math.nan]]])
def test_widths_out_of_range_are_refused(width: Any) -> None:
    with pytest.raises(ValueError, match=r"'width' parameter of Box must be in the range \[0, inf\)"):
        Box(torch.tensor(width))
    with pytest.raises(ValueError, match="'eps' parameter"):
        Box(WIDTH, 0.0)


# The rendered gain


@pytest.fixture
def task() -> tuple[ClassifierGain, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double().requires_grad_(False)
        x = 0.1 + 0.8 * torch.rand((12, 6), dtype=torch.float64)
    return ClassifierGain(model, model(x).argmax(1), margin), x


def test_a_rendered_gain_is_the_gain_of_what_is_rendered(task: tuple[ClassifierGain, Tensor]) -> None:
    gain, x = task
    threat = Brighter(torch.linspace(0, 1, 12))
    assert isinstance(threat, Parametric)
    assert not isinstance(Linf(0.1), Parametric)
    rendered = Rendered(gain, threat, x)
    assert isinstance(rendered, RivalGain)
    theta = threat.space.sample(threat.origin(x), torch.Generator().manual_seed(0))
    z = threat.render(theta, x)
    rows, rival = torch.tensor([7, 2, 2]), (gain.y + 1) % 4
    assert torch.equal(rendered(theta), gain(z))
    assert all(map(torch.equal, rendered.judge(theta), gain.judge(z)))
    assert torch.equal(rendered.rivals(theta), gain.rivals(z))
    assert torch.equal(rendered.towards(rival)(theta), gain.towards(rival)(z))
    assert torch.equal(rendered.take(rows)(theta[rows]), gain.take(rows)(z[rows]))
    assert torch.equal(rendered.take(rows).towards(rival[rows])(theta[rows]), gain.towards(rival).take(rows)(z[rows]))
    assert torch.equal(rendered(threat.origin(x)), gain(x))


def test_what_the_gain_inside_cannot_do_is_said(task: tuple[ClassifierGain, Tensor]) -> None:
    gain, x = task
    threat = Brighter(torch.zeros(12))
    blind = Rendered(lambda z: gain(z), threat, x)
    theta = threat.origin(x)
    assert torch.equal(blind(theta), gain(x))
    for ask in (lambda: blind.judge(theta), lambda: blind.take(torch.arange(2))):
        with pytest.raises(TypeError, match=r"needs a gain with 'judge' and 'take'.*Got function"):
            ask()
    for ask in (lambda: blind.rivals(theta), lambda: blind.towards(torch.arange(2))):
        with pytest.raises(TypeError, match=r"needs a gain with 'rivals' and 'towards'.*Got function"):
            ask()


@pytest.mark.parametrize("early_stop", [False, True])
def test_pgd_on_parameters_finds_the_corner_that_a_linear_gain_prefers(early_stop: bool, rng: torch.Generator) -> None:
    """The gain is w^T (x + theta_0 + theta_1 ramp) + b: its maximum is at sign of the slopes, each at its range."""
    model = nn.Linear(6, 2).double().requires_grad_(False)
    model.weight.copy_(torch.randn((2, 6), generator=rng))
    model.bias.copy_(torch.tensor([20.0, 0.0]))  # far from lost
    x = 0.4 + 0.2 * torch.rand((5, 6), generator=rng, dtype=torch.float64)
    gain, threat = ClassifierGain(model, torch.zeros(5, dtype=torch.long), margin), Brighter(torch.zeros(5))
    w = model.weight[1] - model.weight[0]
    slopes = torch.stack([w.sum(), (w * torch.linspace(-1, 1, 6, dtype=torch.float64)).sum()])
    expected = gain(x) + 0.2 * slopes[0].abs() + 0.1 * slopes[1].abs()
    theta = pgd(Rendered(gain, threat, x), threat.origin(x), threat.space, early_stop=early_stop, rng=rng)
    assert threat.space.contains(theta, threat.origin(x)).all()
    torch.testing.assert_close(gain(threat.render(theta, x)), expected)
    theta = fgsm(Rendered(gain, threat, x), threat.origin(x), threat.space)
    torch.testing.assert_close(gain(threat.render(theta, x)), expected)
    half = threat.scaled(0.5)
    theta = fgsm(Rendered(gain, half, x), half.origin(x), half.space)
    torch.testing.assert_close(gain(half.render(theta, x)), (gain(x) + expected) / 2)


def test_through_returns_the_rendered_input_and_leaves_other_threats_alone(
    task: tuple[ClassifierGain, Tensor], seeded: Callable[..., torch.Generator]
) -> None:
    gain, x = task
    threat = Brighter(torch.linspace(0, 1, 12))
    attack: Attack = partial(pgd, steps=3, early_stop=True)
    theta = attack(Rendered(gain, threat, x), threat.origin(x), threat.space, rng=seeded(1))
    z = through(attack)(gain, x, threat, rng=seeded(1))
    assert torch.equal(z, threat.render(theta, x))
    assert not z.requires_grad
    assert torch.equal(through(attack)(gain, x, Linf(0.1), rng=seeded(1)), attack(gain, x, Linf(0.1), rng=seeded(1)))
    both: Any = best_of(through(attack), through(fgsm), early_stop=True)
    assert (gain(both(gain, x, threat, rng=seeded(1))) >= gain(x)).all()
    empty: Any = gain.take(torch.arange(0))
    assert through(attack)(empty, x[:0], threat.take(torch.arange(0))).shape == (0, 6)


def test_counting_inside_and_outside_agree(task: tuple[ClassifierGain, Tensor]) -> None:
    gain, x = task
    threat = Brighter(torch.linspace(0, 1, 12))
    inside, outside = Meter.of(12), Meter.of(12)
    attack = partial(pgd, steps=4, random_start=False, early_stop=True)
    attack(Rendered(Counted(gain, inside), threat, x), threat.origin(x), threat.space)
    attack(Counted(Rendered(gain, threat, x), outside), threat.origin(x), threat.space)
    assert torch.equal(inside.forwards, outside.forwards)
    assert torch.equal(inside.backwards, outside.backwards)
    assert inside.forwards.sum() > 12


def test_attacks_on_parameters_touch_nothing(task: tuple[ClassifierGain, Tensor]) -> None:
    gain, x = task
    threat = Brighter(torch.linspace(0, 1, 12))
    before, state, kept = x.clone(), torch.random.get_rng_state(), [p.clone() for p in gain.model.parameters()]
    gain.model.requires_grad_(True)
    through(partial(pgd, steps=2))(
        ClassifierGain(gain.model, gain.y, cross_entropy), x, threat, rng=torch.Generator().manual_seed(0)
    )
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, gain.model.parameters(), kept))
    assert all(p.grad is None for p in gain.model.parameters())
