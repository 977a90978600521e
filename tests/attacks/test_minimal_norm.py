"""Carlini-Wagner, DDN, FMN and EAD: the nearest adversarial point of a linear model is known exactly."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.carlini_wagner import carlini_wagner
from sparring.attacks.ddn import ddn
from sparring.attacks.ead import ead
from sparring.attacks.fmn import fmn
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.sparse import L0
from sparring.core.threat import L1, L2, Linf, norm

INF = math.inf
DUAL = {Linf: 1.0, L2: 2.0, L1: INF}
ATTACKS: list[tuple[Any, Any]] = [
    (partial(carlini_wagner, steps=40, search_steps=5), L2(0.1)),
    (ddn, L2(0.1)),
    (fmn, Linf(0.1)),
    (fmn, L2(0.1)),
    (fmn, L1(0.1)),
    (fmn, L0(1)),
    (fmn, L0(1, per_pixel=True)),
    (partial(ead, steps=40, search_steps=5), L1(0.1)),
    (partial(ead, steps=40, search_steps=5, elastic_rule=True), L2(0.1)),
]
NAMES = ["cw", "ddn", "fmn-linf", "fmn-l2", "fmn-l1", "fmn-l0", "fmn-pixels", "ead", "ead-elastic"]
RESOLUTION = 6e-3
"""The step of half a learning rate of 0.01, which no example is nearer to its boundary for."""
every = pytest.mark.parametrize(("attack", "threat"), ATTACKS, ids=NAMES)


@dataclass
class Recorded:
    """A gain that writes down the points it is asked about."""

    inner: Any
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        raise AssertionError("minimal-norm attacks ask for rivals only")

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("minimal-norm attacks ask for rivals only")

    def rivals(self, z: Tensor) -> Tensor:
        self.seen.append(z.detach().clone())
        return self.inner.rivals(z)

    def take(self, rows: Tensor) -> "Recorded":
        return Recorded(self.inner.take(rows), self.seen)

    def towards(self, rival: Tensor) -> "Recorded":
        return Recorded(self.inner.towards(rival), self.seen)


def plane(
    seed: int, batch: int = 8, n: int = 12, classes: int = 2, edge: bool = False, offset: float = 1.0
) -> tuple[ClassifierGain, Tensor]:
    """A linear classifier in float64 whose boundary runs near the middle of the unit box, and points that stand: within
    a tenth of the middle, or anywhere and in places at the very edge of the box."""
    rng = torch.Generator().manual_seed(seed)
    model = nn.Linear(n, classes, dtype=torch.float64).requires_grad_(False)
    model.weight.copy_(torch.randn((classes, n), generator=rng))
    model.bias.copy_(-model.weight.sum(1) / 2 + offset * torch.randn(classes, generator=rng))
    x = torch.rand((batch, n), generator=rng, dtype=torch.float64)
    x = torch.where(torch.rand((batch, n), generator=rng) < 0.4, x.round(), x) if edge else 0.4 + 0.2 * x
    return ClassifierGain(model, model(x).argmax(1), margin), x


def half_spaces(gain: ClassifierGain, x: Tensor, threat: Any) -> Tensor:
    """How far each rival's half-space is inside the box, `[B, K]`."""
    weight, distance = gain.model.weight, torch.full((len(x), len(gain.model.weight)), INF, dtype=torch.float64)
    ahead = gain.rivals(x)
    for rival in range(len(weight)):
        normal = weight[rival] - weight[gain.y]
        step = threat.reach(normal, -ahead[:, rival], x)
        there = (normal * step).sum(1) >= -ahead[:, rival] - 1e-9
        distance[:, rival] = torch.where((gain.y != rival) & there, threat.distance(x + step, x), INF)
    return distance


# The nearest point of a linear model


@pytest.mark.parametrize(
    ("attack", "threat", "excess", "at_edge"),
    [
        (partial(carlini_wagner, steps=300), L2(0.1), 0.01, 0.05),
        (partial(ddn, steps=300, gamma=0.02), L2(0.1), 0.01, 0.01),
        (partial(fmn, steps=150), L2(0.1), 1e-3, 1e-3),
        (partial(fmn, steps=150), Linf(0.1), 1e-3, 1e-3),
        (partial(fmn, steps=150), L1(0.1), 1e-3, 1e-3),
        (partial(ead, steps=200, beta=1e-2), L1(0.1), 0.02, 0.15),
    ],
    ids=["cw", "ddn", "fmn-l2", "fmn-linf", "fmn-l1", "ead"],
)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("edge", [False, True])
def test_the_nearest_point_of_a_linear_model_is_found(
    attack: Any, threat: Any, excess: float, at_edge: float, classes: int, edge: bool
) -> None:
    """Without the box in the way its distance is |ahead_k| / ||w_k - w_y||_q, with 1/p + 1/q = 1, for the nearest rival
    k; each rival's half-space has such a point, and the attack ends on one of them. DDN follows cross-entropy, which is
    normal to the boundary between two classes only: it is held to 15 % with five. Where x is at the edge of the box,
    C&W's tanh is flat and EAD's steps are cut."""
    gain, x = plane(3, classes=classes, edge=edge)
    expected = half_spaces(gain, x, threat)
    normal = gain.model.weight[None] - gain.model.weight[gain.y][:, None]
    dual = norm(normal.flatten(0, 1), DUAL[type(threat)]).reshape(len(x), -1)
    torch.testing.assert_close(half_spaces(gain, x, type(threat)(0.1, -INF, INF)), -gain.rivals(x) / dual)
    z = attack(gain, x, threat)
    assert gain.judge(z)[1].all()
    distance = threat.distance(z, x)
    assert (distance >= expected.amin(1) * (1 - 1e-9)).all()
    excess = 0.15 if attack.func is ddn and classes > 2 else at_edge if edge else excess
    on = expected.gather(1, gain.rivals(z).argmax(1)[:, None]).squeeze(1)
    assert (distance <= on * (1 + excess) + RESOLUTION).all()


@pytest.mark.parametrize(
    ("edge", "classes", "more"), [(False, 2, 0.0), (True, 2, 0.1), (False, 5, 0.7), (True, 5, 0.7)]
)
def test_fmn_counts_the_fewest_coordinates_of_a_linear_model(edge: bool, classes: int, more: float) -> None:
    """Between two classes away from the box's edge always; elsewhere there are local minima."""
    needed, excess = [], []
    for seed in (5, 6, 7):
        gain, x = plane(seed, classes=classes, edge=edge, offset=2.0)
        z = fmn(gain, x, L0(1), steps=200)
        assert gain.judge(z)[1].all()
        needed.append(half_spaces(gain, x, L0(1)).amin(1))
        excess.append(L0(1).distance(z, x) - needed[-1])
    assert (torch.cat(excess) >= 0).all()
    assert torch.cat(excess).mean() <= more
    assert len(torch.cat(needed).unique()) > 1


def test_fmn_counts_the_fewest_pixels_of_a_linear_model() -> None:
    gain, x = plane(6, batch=12, edge=True)
    image = ClassifierGain(nn.Sequential(nn.Flatten(), gain.model), gain.y, margin)
    threat = L0(1, per_pixel=True)
    pixels = x.reshape(-1, 3, 2, 2)
    normal = (gain.model.weight[1 - gain.y] - gain.model.weight[gain.y]).reshape_as(pixels)
    step = threat.reach(normal, -image.rivals(pixels).amax(1), pixels)
    z = fmn(image, pixels, threat, steps=300)
    assert image.judge(z)[1].all()
    assert torch.equal(threat.distance(z, pixels), threat.distance(pixels + step, pixels))


def test_carlini_wagner_takes_any_bounded_box() -> None:
    gain, x = plane(7)
    stretched = nn.Linear(12, 2, dtype=torch.float64).requires_grad_(False)
    stretched.weight.copy_(gain.model.weight / 255)
    stretched.bias.copy_(gain.model.bias + gain.model.weight.sum(1))  # at 255 (x - 1)
    far = ClassifierGain(stretched, gain.y, margin)
    z = carlini_wagner(
        far, 255 * (x - 1), L2(1.0, low=-255.0, high=0.0), steps=200, search_steps=7, initial_constant=10.0
    )
    ratio = L2(1.0).distance(z, 255 * (x - 1)) / (255 * half_spaces(gain, x, L2(0.1)).amin(1))
    assert ((ratio >= 1 - 1e-9) & (ratio < 1.05)).all()


@pytest.mark.parametrize("attack", [ddn, fmn, partial(ead, steps=100)])
def test_the_box_may_be_open(attack: Any) -> None:
    gain, x = plane(8)
    z = attack(gain, x, L2(1.0, low=-INF, high=INF))
    assert gain.judge(z)[1].all()
    assert (L2(1.0).distance(z, x) / half_spaces(gain, x, L2(1.0)).amin(1) < 1.2).all()


@pytest.mark.parametrize("attack", [carlini_wagner, ead])
def test_confidence_is_how_far_the_rival_is_ahead(
    attack: Any, images: tuple[Tensor, Tensor], curved: nn.Module
) -> None:
    gain = ClassifierGain(curved, images[1], margin)
    x = images[0][:8]
    gain = gain.take(torch.arange(8))
    z = attack(gain, x, L2(1.0), steps=50, search_steps=6, initial_constant=0.1, confidence=0.2)
    moved = (z != x).flatten(1).any(1)
    assert moved.any()
    assert (gain.rivals(z).amax(1)[moved] > 0.2).all()
    near = attack(gain, x, L2(1.0), steps=50, search_steps=6, initial_constant=0.1)
    assert (L2(1.0).distance(z, x) > L2(1.0).distance(near, x))[moved].all()


# What holds on any model


@every
def test_it_returns_a_lost_point_of_the_box_or_x_and_repeats(
    attack: Any,
    threat: Any,
    curved: nn.Module,
    images: tuple[Tensor, Tensor],
    seeded: Callable[..., torch.Generator],
) -> None:
    x, y = images[0], images[1].clone()
    y[:3] = (y[:3] + 1) % 5  # lost from the start
    before, weights = x.clone(), [p.clone() for p in curved.parameters()]
    rng = torch.random.get_rng_state()
    gain = Recorded(ClassifierGain(curved, y, margin))
    z = attack(gain, x, threat, rng=seeded(1))
    assert torch.equal(z, attack(gain, x, threat, rng=seeded(1)))
    assert torch.equal(rng, torch.random.get_rng_state())
    assert torch.equal(x, before)
    assert all(p.grad is None and torch.equal(p, w) for p, w in zip(curved.parameters(), weights, strict=True))
    assert ((z >= 0) & (z <= 1)).all()
    assert z.dtype == x.dtype
    assert not z.requires_grad
    assert torch.equal(z[:3], x[:3])
    moved = (z != x).flatten(1).any(1)
    with torch.no_grad():
        assert (curved(z).argmax(1) != y)[moved].all()
    assert moved[3:].double().mean() > 0.8
    sizes = [len(seen) for seen in gain.seen]
    assert max(sizes[1:-1]) <= 24
    assert sizes[1] == 21


@every
def test_it_returns_the_nearest_lost_point_that_it_saw(
    attack: Any, threat: Any, curved: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    """Also where the last is not the nearest; EAD sees points between those that it judges, so it is left out."""
    x, y = images[0][:1], images[1][:1]
    gain = Recorded(ClassifierGain(curved, y, margin))
    z = attack(gain, x, threat)
    if "ead" in repr(attack):
        return
    seen = torch.cat(gain.seen)
    with torch.no_grad():
        lost = curved(seen).argmax(1) != y
    assert lost.any()
    assert threat.distance(z, x) <= threat.distance(seen[lost], x.expand_as(seen[lost])).min() * (1 + 1e-6)


@every
def test_it_works_in_any_precision_and_on_nothing(
    attack: Any, threat: Any, curved: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images[0][:12], images[1][:12]
    size = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        model, points = curved.to(dtype), x.to(dtype)
        with torch.no_grad():
            gain = ClassifierGain(model, model(points).argmax(1), margin)
        z = attack(gain, points, threat)
        assert z.dtype == dtype
        assert ((z >= 0) & (z <= 1)).all()
        moved = (z != points).flatten(1).any(1)
        with torch.no_grad():
            assert (gain.rivals(z).amax(1) > 0)[moved].double().mean() > 0.9
        size[dtype] = threat.distance(z.double(), points.double())[moved].median()
    assert size[torch.float32] == pytest.approx(size[torch.float64].item(), rel=0.1)
    assert size[torch.bfloat16] == pytest.approx(size[torch.float64].item(), rel=0.5)
    nothing = attack(ClassifierGain(curved, y[:0], margin), x[:0].bfloat16(), threat)
    assert nothing.shape == x[:0].shape
    all_lost = Recorded(ClassifierGain(curved, (y + 1) % 5, margin))
    assert torch.equal(attack(all_lost, x.bfloat16(), threat), x.bfloat16())
    assert len(all_lost.seen) == 1


@every
def test_an_example_is_attacked_alone(attack: Any, threat: Any) -> None:
    """In a batch as by itself, whatever its neighbours do."""
    gain, x = plane(9, batch=6, classes=5)
    image = ClassifierGain(nn.Sequential(nn.Flatten(), gain.model), gain.y, margin)
    x = x.reshape(-1, 3, 2, 2)
    together = attack(image, x, threat)
    for row in torch.arange(6).split(1):
        torch.testing.assert_close(attack(image.take(row), x[row], threat), together[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("attack", "threat"), [(fmn, L2(0.1)), (fmn, Linf(0.1)), (ddn, L2(0.1))])
def test_a_dead_start_is_left_in_a_random_direction(
    attack: Any, threat: Any, seeded: Callable[..., torch.Generator]
) -> None:
    """Logits that are flat near x, and fall to a rival further away, whichever way."""

    class Crater(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            ahead = ((z - 0.5).square().sum(1) - 0.01).clamp(min=0) - 0.01
            return torch.stack([torch.zeros_like(ahead), ahead], 1)

    x = torch.full((4, 6), 0.5, dtype=torch.float64)
    gain = ClassifierGain(Crater(), torch.zeros(4, dtype=torch.long), margin)
    z = attack(gain, x, threat, steps=200, rng=seeded(0))
    assert gain.judge(z)[1].all()
    torch.testing.assert_close(
        norm(z - x, 2), torch.full((4,), math.sqrt(0.02), dtype=torch.float64), rtol=0.05, atol=0
    )
    assert not torch.equal(z, attack(gain, x, threat, steps=200, rng=seeded(1)))


# Defects of released attacks


def test_a_projection_never_makes_a_small_perturbation_larger() -> None:
    """A ball of radius one leaves (0.1, 0) where it is; an attack whose projection is a rescaling jumps to (1, 0)."""
    x, z = torch.zeros(1, 2), torch.tensor([[0.1, 0.0]])
    for threat in (Linf(0.5), L2(0.5), L1(0.5), L0(1)):
        assert torch.equal(threat.within(z, x, torch.ones(1)), z)
    gain, x = plane(11)
    for threat in (L2(0.1), L1(0.1), Linf(0.1)):
        recorded = Recorded(gain)
        fmn(recorded, x, threat, steps=1, step_size=1e-3)  # the boundary is much further than the step
        torch.testing.assert_close(norm(recorded.seen[-1] - x, 2), torch.full((len(x),), 1e-3, dtype=torch.float64))


def test_ddn_sees_the_direction_of_cross_entropy_where_softmax_has_none() -> None:
    """Logits thousands apart: the probabilities are exactly 0 and 1, and cross-entropy's gradient exactly zero."""
    gain, x = plane(12)
    scaled = nn.Linear(12, 2, dtype=torch.float64).requires_grad_(False)
    scaled.weight.copy_(gain.model.weight * 1e5)
    scaled.bias.copy_(gain.model.bias * 1e5)
    z = ddn(ClassifierGain(scaled, gain.y, margin), x, L2(0.1))
    torch.testing.assert_close(z, ddn(gain, x, L2(0.1)), rtol=0, atol=1e-6)


def test_ddn_quantises_what_it_sees(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x = (images[0] * 15).round() / 15
    with torch.no_grad():
        gain = ClassifierGain(curved, curved(x).argmax(1), margin)
    z = ddn(gain, x, L2(1.0), quantise=16)
    torch.testing.assert_close(z * 15, (z * 15).round(), rtol=0, atol=1e-5)
    assert gain.judge(z)[1].double().mean() > 0.9


# Bad arguments


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (partial(ddn, steps=0), r"The 'steps' parameter must be an int in the range \[1, inf\). Got 0"),
        (partial(ddn, gamma=1.0), "'gamma'"),
        (partial(ddn, initial_eps=-1.0), "'initial_eps'"),
        (partial(ddn, quantise=1), "'quantise' needs 2 levels"),
        (partial(fmn, steps=True), "'steps'"),
        (partial(fmn, final_gamma=1.5), "'final_gamma'"),
        (partial(fmn, step_size=0.0), "'step_size'"),
        (partial(carlini_wagner, search_steps=0), "'search_steps'"),
        (partial(carlini_wagner, lr=INF), "'lr'"),
        (partial(carlini_wagner, confidence=-0.1), "'confidence'"),
        (partial(ead, beta=0.0), "'beta'"),
        (partial(ead, confidence=INF), "'confidence'"),
        (partial(ead, initial_constant=0.0), "'initial_constant'"),
    ],
)
def test_parameters_out_of_range_are_named(attack: Any, message: str) -> None:
    gain, x = plane(1)
    with pytest.raises(ValueError, match=message):
        attack(gain, x, L2(0.1))


def test_what_an_attack_needs_is_asked_for() -> None:
    gain, x = plane(1)
    blind: Any = lambda z: z.sum(1)  # noqa: E731
    for attack in (ddn, fmn, ead, carlini_wagner):
        with pytest.raises(TypeError, match=r"needs a gain with .*'rivals'"):
            attack(blind, x, L2(0.1))
        with pytest.raises(TypeError, match="x must be a floating-point tensor"):
            attack(gain, x.long(), L2(0.1))
    for attack in (ddn, carlini_wagner):
        with pytest.raises(TypeError, match=r"minimises the L2 distance and needs the threat L2\. Got Linf"):
            attack(gain, x, Linf(0.1))
    with pytest.raises(ValueError, match="carlini_wagner changes variables on a bounded box"):
        carlini_wagner(gain, x, L2(0.1, low=-INF))
    with pytest.raises(ValueError, match="a bounded box"):
        ddn(gain, x, L2(0.1, high=INF), quantise=256)
