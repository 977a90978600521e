"""Patches placed anywhere, grids of parameters, and gradient attacks on parameters of pictures."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.grid import grid
from sparring.attacks.patch import Placed, patch
from sparring.core.attack import Attack, best_of, restarts
from sparring.core.compose import Masked
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.parametric import Box, Parametric, Rendered, through
from sparring.core.payoff import cross_entropy, margin
from sparring.core.pgd import fgsm, pgd
from sparring.core.standing import DeadStartError
from sparring.core.threat import L2, Linf, Threat
from sparring.domains.image.patch import Patch, frame
from sparring.domains.image.threats import Colour, Flow, RotationTranslation

Images = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Function:
    """A gain that is any function, of which an example is lost from a height on; it keeps what it was asked."""

    value: Callable[[Tensor], Tensor]
    height: float = math.inf
    asked: list[Tensor] = field(default_factory=list)

    def __call__(self, z: Tensor, /) -> Tensor:
        return self.judge(z)[0]

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        self.asked.append(z.detach().clone())
        value = self.value(z)
        return value, value >= self.height

    def take(self, rows: Tensor, /) -> "Function":
        return self


@dataclass(frozen=True)
class Sturdy:
    """A classifier's margin, lost only from a height on: a classifier that is harder to fool."""

    inner: ClassifierGain
    height: float

    def __call__(self, z: Tensor, /) -> Tensor:
        return self.inner(z)

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        value = self.inner(z)
        return value, value > self.height

    def take(self, rows: Tensor, /) -> "Sturdy":
        return Sturdy(self.inner.take(rows), self.height)


@dataclass(frozen=True)
class Slope:
    """The linear gain <w, z> of each example, never lost."""

    w: Tensor

    def __call__(self, z: Tensor, /) -> Tensor:
        return (self.w * z).flatten(1).sum(1)

    def judge(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        return self(z), torch.zeros(len(z), dtype=torch.bool)

    def take(self, rows: Tensor, /) -> "Slope":
        return Slope(self.w[rows])


def slope(seed: int = 0, batch: int = 8) -> tuple[Slope, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn((batch, 2, 5, 6), generator=rng, dtype=torch.float64)
    x = torch.rand((batch, 2, 5, 6), generator=rng, dtype=torch.float64)
    return Slope(w), torch.where(torch.rand(x.shape, generator=rng) < 0.3, x.round(), x)


def rises(gain: Slope, x: Tensor, side: int) -> Tensor:
    """sum |w| room over every square, `[B, P]`, by hand."""
    room = torch.where(gain.w > 0, 1 - x, x)
    tops, lefts = range(x.shape[2] - side + 1), range(x.shape[3] - side + 1)
    each = (gain.w.abs() * room).sum(1)
    return torch.stack([each[:, i : i + side, j : j + side].sum((1, 2)) for i in tops for j in lefts], 1)


def judged(model: nn.Module, y: Tensor) -> ClassifierGain:
    return ClassifierGain(model.requires_grad_(False), y, margin)


def halfway(inner: ClassifierGain, attack: Callable[[Any], Tensor]) -> Sturdy:
    """The gain that this attack wins on half of the examples, the first four aside: its bar is between what two of them
    reach, because at what one reaches rounding would decide, which depends on who is beside it and on the processor."""
    reached = inner(attack(Sturdy(inner, math.inf)))[4:].sort().values
    middle = len(reached) // 2
    return Sturdy(inner, reached[middle - 1 : middle + 1].mean().item())


def counted(gain: Any, n: int) -> tuple[Counted, Meter]:
    meter = Meter.of(n)
    return Counted(gain, meter), meter


# Patch


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize("random_start", [False, True])
def test_the_best_patch_of_a_linear_gain_is_found_at_the_first_place(
    side: int, random_start: bool, rng: torch.Generator
) -> None:
    """The best square is the one with the largest sum |w| room; the best content is the box's end along w."""
    gain, x = slope(side)
    z = patch(gain, x, Patch(side), steps=5, locations=1, random_start=random_start, rng=rng)
    torch.testing.assert_close(gain(z) - gain(x), rises(gain, x, side).amax(1), rtol=0, atol=1e-12)
    assert Patch(side).contains(z, x).all()


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("locations", [20, 1000])
def test_with_all_places_the_best_is_among_them(guided: bool, locations: int, rng: torch.Generator) -> None:
    gain, x = slope(3)
    meter = Meter.of(len(x))
    z = patch(Counted(gain, meter), x, Patch(2), steps=3, locations=locations, guided=guided, rng=rng)  # type: ignore[arg-type]
    torch.testing.assert_close(gain(z) - gain(x), rises(gain, x, 2).amax(1), rtol=0, atol=1e-12)
    assert (meter.forwards == 1 + 20 * 4).all()


def test_random_places_are_uniform_without_repetition(seeded: Callable[..., torch.Generator]) -> None:
    """With one random place the expected rise is the mean over places; with k, each example's best of k."""
    gain, x = slope(1, batch=1)
    n = 4000
    gain, x = Slope(gain.w.expand(n, -1, -1, -1)), x.expand(n, -1, -1, -1).clone()
    each = rises(gain, x, 2)[0]
    attack = partial(patch, steps=1, step_size=1.0, guided=False, random_start=False)
    one = attack(gain, x, Patch(2), locations=1, rng=seeded(0))
    rise = gain(one) - gain(x)
    assert (rise.mean() - each.mean()).abs() < 5 * each.std() / math.sqrt(n)
    for k in (2, 19):
        best = gain(attack(gain, x, Patch(2), locations=k, rng=seeded(0))) - gain(x)
        top = each.sort().values
        below = torch.tensor([math.comb(i, k) / math.comb(20, k) for i in range(21)])  # P(all k among the lowest i)
        expected = (below.diff() * top).sum()
        assert (best.mean() - expected).abs() < 5 * each.std() / math.sqrt(n)
        assert (best >= top[k - 1] - 1e-9).all()  # k different places: the best is at least the k-th lowest


def test_guided_places_fall_in_saliency_and_keep_apart() -> None:
    gain, x = slope(5)
    spied = Function(gain)
    patch(spied, x, Patch(2), steps=1, step_size=1.0, locations=6, random_start=False)
    scores = rises(gain, x, 2)
    ends = [(z - x).abs().sum(1) > 0 for z in spied.asked[2::2]]  # after each place's one step
    assert len(ends) == 6
    for row in range(len(x)):
        free = torch.ones(20, dtype=torch.bool)
        for end in ends:
            assert free.any()
            top, left = divmod(int(scores[row].masked_fill(~free, -1).argmax()), 5)
            outside = end[row].clone()
            outside[top : top + 2, left : left + 2] = False
            assert end[row].any()
            assert not outside.any()
            for other in range(20):  # two squares of side 2 share half when they are direct neighbours
                free[other] &= abs(other // 5 - top) + abs(other % 5 - left) > 1


def test_more_places_are_never_weaker_and_content_is_the_best_seen(curved: nn.Module, images: Images) -> None:
    x, y = images
    gain = judged(curved, y)
    before = gain(x)
    for locations in (1, 2, 5, 14):
        value = gain(patch(gain, x, Patch(2), steps=4, locations=locations, random_start=False))
        standing = ~gain.judge(patch(gain, x, Patch(2), steps=4, locations=locations, random_start=False))[1]
        assert (value >= before)[standing].all()
        before = torch.where(standing, value, -math.inf)
    spied = Function(gain)
    z = patch(spied, x, Patch(2), steps=4, locations=3, step_size=0.9, rng=torch.Generator().manual_seed(0))
    assert torch.equal(gain(z), torch.stack([gain(seen) for seen in spied.asked]).amax(0))


def test_lost_examples_leave_at_once(curved: nn.Module, images: Images, rng: torch.Generator) -> None:
    x, y = images
    y = y.clone()
    y[:4] = curved(x[:4]).argmin(1)  # lost at the clean point
    attack = partial(patch, steps=5, locations=4, rng=rng)
    sturdy = halfway(judged(curved, y), lambda gain: attack(gain, x, Patch(3)))
    gain, meter = counted(sturdy, len(x))
    z = attack(gain, x, Patch(3))  # type: ignore[arg-type]
    lost = sturdy.judge(z)[1]
    assert torch.equal(z[:4], x[:4])
    assert (meter.forwards[:4] == 1).all()
    assert (meter.forwards[~lost] == 1 + 4 * 6).all()
    assert (meter.backwards[~lost] == 1 + 4 * 5).all()
    assert (meter.forwards[lost] < 1 + 4 * 6).all()
    assert 5 <= lost[4:].sum() <= 15
    assert Patch(3).contains(z, x).all()
    blind, meter = counted(sturdy, len(x))
    attack(blind, x, Patch(3), guided=False)  # type: ignore[arg-type]
    assert (meter.backwards[:4] == 0).all()


def test_an_unseen_place_is_no_dead_start_but_an_unseen_picture_is(rng: torch.Generator) -> None:
    """Only pixel (0, 0) counts: most places have no gradient, and the one that matters is found."""
    x = torch.full((2, 1, 4, 4), 0.5)
    corner = Function(lambda z: z[:, 0, 0, 0])
    for guided in (False, True):
        z = patch(corner, x, Patch(2), steps=2, locations=9, guided=guided, rng=rng)
        assert (z[:, 0, 0, 0] == 1).all()
    x[:, 0, 0, 0] = 0.01  # now without gradient at the clean point and at every place but the first
    awake = Function(lambda z: (z[:, 0, 0, 0] - 0.02).relu())
    z = patch(awake, x, Patch(2), steps=2, locations=9, rng=rng)
    assert (z[:, 0, 0, 0] == 1).all()
    with pytest.raises(DeadStartError):
        patch(Function(lambda z: 0.0 * z.sum((1, 2, 3))), x, Patch(2), steps=2, rng=rng)
    lost = Function(lambda z: 0.0 * z.sum((1, 2, 3)), height=-1.0)
    assert torch.equal(patch(lost, x, Patch(2), rng=rng), x)


def test_general_attacks_run_on_patches_and_frames(curved: nn.Module, images: Images, rng: torch.Generator) -> None:
    x, y = images
    gain, threat = Sturdy(judged(curved, y), math.inf), Patch(3)
    best = gain(patch(gain, x, threat, steps=10, locations=16, rng=rng))
    for general in (fgsm, partial(pgd, steps=10), partial(pgd, steps=10, random_start=False)):
        z = general(gain, x, threat, rng=rng)
        assert threat.contains(z, x).all()
        assert gain(x).mean() + 0.05 < gain(z).mean() < best.mean() + 0.001
    framed = frame((1, 6, 6), 1)
    z = pgd(gain, x, framed, steps=5, rng=rng)
    assert framed.contains(z, x).all()
    assert (gain(z) > gain(x)).all()


@dataclass(frozen=True)
class Interval:
    """Anything in the box in one stretch of a sequence `[B, n]`: a `Placed` threat that knows no picture."""

    length: int
    low: float = -1.0
    high: float = 1.0
    eps: float = 2.0

    def _cover(self, place: Tensor, x: Tensor) -> Tensor:
        i = torch.arange(x.shape[1])
        return (i >= place[:, None]) & (i < place[:, None] + self.length)

    def at(self, place: Tensor, x: Tensor) -> Masked:
        return Masked(Linf(self.eps, self.low, self.high), self._cover(place, x))

    def mass(self, amount: Tensor) -> Tensor:
        return amount.unfold(1, self.length, 1).sum(2)

    def rise(self, gradient: Tensor, z: Tensor) -> Tensor:
        return gradient.abs() * torch.where(gradient > 0, self.high - z, z - self.low)

    def take(self, rows: Tensor) -> "Interval":
        return self

    def _unused(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the attack needs places only")

    project = contains = sample = steepest = scaled = describe = _unused


def test_the_attack_knows_places_and_no_pictures(rng: torch.Generator) -> None:
    threat: Any = Interval(3)
    assert isinstance(threat, Placed)
    w = torch.randn((6, 9), generator=rng, dtype=torch.float64)
    x = 2 * torch.rand((6, 9), generator=rng, dtype=torch.float64) - 1
    best = threat.mass(threat.rise(w, x)).amax(1)
    z = patch(Slope(w), x, threat, steps=3, locations=2, rng=rng)
    torch.testing.assert_close(Slope(w)(z) - Slope(w)(x), best)


# Grid


@pytest.mark.parametrize("points", [2, 3, 4, (2, 5, 3)])
def test_the_grid_finds_the_corner_of_a_monotone_gain(points: Any) -> None:
    width = torch.tensor([[30.0, 0.1, 2.0]], dtype=torch.float64)
    x = torch.randn((4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sign = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, -1, -1], [-1, 1, -1]], dtype=torch.float64)
    gain = Slope(sign)
    z = grid(gain, x, Box(width, 0.5), points=points)
    torch.testing.assert_close(z, x + 0.5 * sign * width, rtol=0, atol=1e-12)


def rugged(z: Tensor) -> Tensor:
    return (torch.sin(13 * z) + torch.cos(7 * z * z.roll(1, 1))).sum(1)


@pytest.mark.parametrize("threat", [Box(torch.tensor([[1.0, 0.2, 0.0]])), Linf(0.4), Linf(0.4, -math.inf, math.inf)])
def test_the_grid_is_the_best_of_its_points(threat: Any) -> None:
    """Written out as a product of lines, x itself among the points tried."""
    x = torch.rand((5, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gain = Function(rugged)
    z = grid(gain, x, threat, points=(4, 3, 2))
    room = threat.eps * (threat.width if isinstance(threat, Box) else torch.ones(1, 3))
    high, low = (x + room).clamp(max=threat.high), (x - room).clamp(min=threat.low)
    tried = [x]
    for shares in itertools.product([-1, -1 / 3, 1 / 3, 1], [-1, 0, 1], [-1, 1]):
        share = torch.tensor(shares, dtype=torch.float64)
        tried.append(torch.where(share > 0, x + share * (high - x), x + share * (x - low)))
    torch.testing.assert_close(rugged(z), torch.stack([rugged(point) for point in tried]).amax(0))
    assert threat.contains(z, x).all()
    assert len(gain.asked) == 25
    assert torch.equal(gain.asked[0], x)
    size = torch.stack([(point - x).abs().sum(1) for point in gain.asked[1:]]).mean(1)
    if isinstance(threat, Box):
        share = torch.stack([((p - x) / threat.width)[:, :2].abs().sum(1) for p in gain.asked[1:]]).mean(1)
        assert (share.diff() <= 1e-9).all()  # from the outside in
    assert size[0] > size[-1]


def test_random_points_are_the_best_of_the_samples(seeded: Callable[..., torch.Generator]) -> None:
    x = torch.rand((5, 40), generator=seeded(1))  # more coordinates than any grid holds
    for threat in (Linf(0.3), L2(0.5), Box(torch.full((1, 1), 0.2))):
        z = grid(Function(rugged), x, threat, samples=7, rng=seeded(2))
        rng = seeded(2)
        tried = [x, *(threat.sample(x, rng) for _ in range(7))]
        assert torch.equal(rugged(z), torch.stack([rugged(point) for point in tried]).amax(0))
        assert threat.contains(z, x).all()


@pytest.mark.parametrize("how", [{"points": 3}, {"samples": 9}])
def test_the_grid_drops_what_is_lost(
    how: dict[str, Any], curved: nn.Module, images: Images, seeded: Callable[..., torch.Generator]
) -> None:
    x, y = images
    y = y.clone()
    y[:4] = curved(x[:4]).argmin(1)  # lost at the clean point
    attack, threat = through(partial(grid, **how)), RotationTranslation(45, 0.3)
    sturdy = halfway(judged(curved, y), lambda gain: attack(gain, x, threat, rng=seeded(0)))
    inside, meter = counted(sturdy, len(x))
    z = attack(inside, x, threat, rng=seeded(0))
    lost = sturdy.judge(z)[1]
    full = 1 + (27 if "points" in how else 9)
    assert torch.equal(z[:4], x[:4])
    assert (meter.forwards[:4] == 1).all()
    assert (meter.forwards[~lost] == full).all()
    assert (meter.forwards[lost] <= full).all()
    assert meter.forwards[4:][lost[4:]].float().mean() < full
    assert 5 <= lost[4:].sum() <= 15
    assert not meter.backwards.any()


def test_a_planted_rotation_is_found_among_the_papers_775() -> None:
    """The gain is highest where the picture is turned and shifted as the target is: at one point of the grid."""
    x = torch.rand((3, 1, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    threat = RotationTranslation(30, 3 / 12)
    truth = torch.tensor([[-14.0, 0.125, -0.25], [30.0, 0.0, 0.25], [4.0, -0.125, 0.0]], dtype=torch.float64)
    target = threat.render(truth, x)
    gain: Any = Function(lambda z: -(z - target).square().flatten(1).sum(1))
    theta = grid(Rendered(gain, threat, x), threat.origin(x), threat.space, points=(31, 5, 5))
    torch.testing.assert_close(theta, truth)
    assert len(gain.asked) == 776


def test_one_point_is_the_middle_and_balls_hold_their_grid() -> None:
    x = torch.full((2, 3), 0.5)
    gain = Function(lambda z: z.sum(1))
    assert torch.equal(grid(gain, x, Linf(0.1), points=1), x)
    assert len(gain.asked) == 2
    z = grid(gain, x, L2(0.3), points=3)
    torch.testing.assert_close(z, x + 0.3 / math.sqrt(3))
    assert L2(0.3).contains(z, x).all()


# Gradient attacks on parameters of pictures


@pytest.mark.parametrize("threat", [RotationTranslation(60, 0.3), Flow(2.0, 2.0), Colour(1.0, 0.3, (0.5,))])
@pytest.mark.parametrize("early_stop", [False, True])
def test_pgd_on_the_parameters_of_a_picture(
    threat: Any, early_stop: bool, curved: nn.Module, images: Images, seeded: Callable[..., torch.Generator]
) -> None:
    x, y = images
    gain = judged(curved, y)
    assert isinstance(threat, Parametric)
    rendered, origin = Rendered(gain, threat, x), threat.origin(x)
    attack = partial(pgd, steps=20, early_stop=early_stop)
    theta = attack(rendered, origin, threat.space, rng=seeded(0))
    assert threat.space.contains(theta, origin).all()
    drawn = threat.space.sample(origin, seeded(0))  # where it started
    assert (rendered(theta) >= rendered(drawn) - 1e-6)[~gain.judge(threat.render(theta, x))[1]].all()
    assert rendered(theta).mean() > rendered(drawn).mean() + 0.01
    assert torch.equal(threat.render(theta, x), through(attack)(gain, x, threat, rng=seeded(0)))
    small = threat.scaled(0.1)
    near = attack(Rendered(gain, small, x), origin, small.space, rng=seeded(0))
    assert small.space.contains(near, origin).all()
    assert rendered(near).mean() < rendered(theta).mean()


# What holds for all of them

CASES: list[tuple[Any, Any]] = [
    (partial(patch, steps=3, locations=3), Patch(2)), (partial(patch, steps=3, locations=3, guided=False), Patch(2)),
    (partial(grid, samples=4), Linf(0.1)), (through(partial(grid, samples=4)), Flow()),
    (through(partial(pgd, steps=3)), RotationTranslation()), (through(partial(pgd, steps=3)), Colour(gain=(0.2,))),
    (best_of(partial(patch, steps=2, locations=1), partial(grid, samples=2), early_stop=True), Patch(2)),
    (restarts(partial(patch, steps=2, locations=1, guided=False), 2, early_stop=True), Patch(2)),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "threat"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_same_seed_same_result_and_nothing_is_touched(
    attack: Attack, threat: Any, dtype: torch.dtype, curved: nn.Module, images: Images, seeded: Any
) -> None:
    x, model = images[0].to(dtype), curved.to(dtype)
    gain = ClassifierGain(model, model(x).argmax(1), cross_entropy)
    before, state, weights = x.clone(), torch.random.get_rng_state(), [p.clone() for p in model.parameters()]
    first, second, other = (attack(gain, x, threat, rng=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first.dtype, first.shape, first.requires_grad) == (dtype, x.shape, False)
    assert ((first >= 0) & (first <= 1)).all()
    if not isinstance(threat, Parametric):
        assert threat.contains(first, x).all()
    assert torch.equal(x, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, model.parameters(), weights))
    assert all(p.grad is None for p in model.parameters())
    none = replace(gain, y=gain.y[:0])
    assert attack(none, x[:0], threat, rng=seeded(1)).shape == (0, 1, 6, 6)


def test_bad_arguments_are_named(curved: nn.Module, images: Images) -> None:
    x, y = images
    gain: Any = judged(curved, y)
    for name, bad in (("steps", 0), ("locations", -1), ("step_size", 0.0), ("locations", 1.5)):
        with pytest.raises(ValueError, match=rf"'{name}' parameter must be .*Got {bad!r} instead"):
            patch(gain, x, Patch(2), **{name: bad})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"patch needs a threat with places .*Got Linf"):
        patch(gain, x, Linf(0.1))
    theta = torch.zeros((2, 3))
    box: Threat = Box(torch.ones(1, 3))
    for bad_points, said in (
        (0, "'points' parameter must be an int"),
        ((3, 3), "one int for each of 3 coordinates"),
        ((3, 3, 0.5), "'points' parameter must be an int"),
        (1000, r"at most 100000 points. Got 1000 for 3 coordinates"),
    ):
        with pytest.raises(ValueError, match=said):
            grid(Function(rugged), theta, box, points=bad_points)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'samples' parameter"):
        grid(Function(rugged), theta, box, samples=0)
    for attack in (grid, patch):
        with pytest.raises(TypeError, match="needs a gain with 'judge' and 'take'"):
            attack(lambda z: z.sum((1, 2, 3)), x, Patch(2))
        with pytest.raises(TypeError, match="floating-point tensor"):
            attack(gain, x.long(), Patch(2))
