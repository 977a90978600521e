"""Score-based black-box attacks: queries to the unit, exact maxima of linear models, and what each step tries."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.natural_evolution import estimated_gradient, gaussian, nes, rademacher, spsa
from sparring.attacks.random_search import Draws, stage
from sparring.attacks.sparse_rs import Exchanges, sparse_rs
from sparring.attacks.square import Squares, square
from sparring.attacks.square_bumps import Bumps, layers
from sparring.attacks.square_windows import BREAKS, place, planes, side
from sparring.core.attack import Attack
from sparring.core.compose import Intersection, Masked
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.sparse import L0
from sparring.core.threat import L1, L2, Linf, Threat

Seeded = Callable[..., torch.Generator]
Images = tuple[Tensor, Tensor]

SEARCHES: list[tuple[Any, Any]] = [
    (square, Linf(0.03)), (square, L2(0.15)), (square, L1(0.5)),
    (square, Masked(Linf(0.05), torch.eye(6)[None, None])), (square, Masked(L2(0.3), torch.eye(6)[None, None])),
    (sparse_rs, L0(1, 0.2, 0.8)), (sparse_rs, L0(2, 0.2, 0.8, per_pixel=True)),
]  # fmt: skip
CLIMBS: list[tuple[Any, Any]] = [(nes, Linf(0.02)), (spsa, Linf(0.02)), (nes, L2(0.1)), (spsa, L1(0.4))]


def name(value: Any) -> str:
    return str(getattr(value, "__name__", "")) or type(value).__name__


@dataclass
class Recorded:
    """A gain that writes down what it was asked to judge, the examples it is narrowed to, and its answers."""

    inner: Any
    x: Tensor
    rows: Tensor
    judged: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, inner: Any, x: Tensor) -> "Recorded":
        return cls(inner, x, torch.arange(len(x)))

    def __call__(self, z: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return self.inner(z)

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        assert not torch.is_grad_enabled()
        value, lost = self.inner.judge(z)
        self.judged.append((self.rows, z.clone(), value.clone(), lost.clone()))
        return value, lost

    def take(self, rows: Tensor) -> "Recorded":
        return Recorded(self.inner.take(rows), self.x, self.rows[rows], self.judged)


@dataclass(frozen=True)
class Slope:
    """The linear gain <w, z>, `w [n]` or `[B, n]`; no example is ever lost."""

    w: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return (z.flatten(1) * self.w).sum(1)

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self(z), torch.zeros(len(z), dtype=torch.bool)

    def take(self, rows: Tensor) -> "Slope":
        return Slope(self.w[rows] if self.w.dim() == 2 else self.w)


def slope(batch: int, *shape: int, seed: int = 0) -> tuple[Slope, Tensor]:
    """A linear gain of its own for each example, and inputs away from the box, in float64."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn((batch, math.prod(shape)), generator=rng, dtype=torch.float64)
    return Slope(w), 0.4 + 0.2 * torch.rand((batch, *shape), generator=rng, dtype=torch.float64)


# Queries


@pytest.mark.parametrize(("attack", "threat"), SEARCHES, ids=name)
@pytest.mark.parametrize(("queries", "restarts"), [(1, 1), (2, 1), (37, 1), (150, 1), (30, 4), (3, 5)])
def test_a_search_costs_every_standing_example_its_queries_and_a_lost_one_none_after(
    attack: Any, threat: Threat, queries: int, restarts: int, curved: nn.Module, images: Images, rng: torch.Generator
) -> None:
    x, y = images
    y = torch.where(torch.arange(len(y)) < 5, (y + 1) % 5, y)  # five are lost from the start
    meter = Meter.of(len(x))
    gain = Recorded.of(Counted(ClassifierGain(curved, y, margin), meter), x)
    z = attack(gain, x, threat, queries=queries, restarts=restarts, rng=rng)
    assert meter.forwards.max() <= queries
    assert (meter.forwards[:5] == 1).all()
    assert torch.equal(z[:5], x[:5])
    lost = ClassifierGain(curved, y, margin).judge(z)[1]
    assert (meter.forwards[~lost] == queries).all()
    for rows, point, _, gone in gain.judged:
        assert torch.equal(z[rows[gone]], point[gone])  # what lost it is what it keeps
    asked = torch.cat([rows for rows, *_ in gain.judged])
    assert torch.equal(asked.bincount(minlength=len(x)), meter.forwards)
    if queries == 150:
        assert 5 < lost.sum() < len(x)  # neither outcome is trivial


@pytest.mark.parametrize(("attack", "threat"), CLIMBS, ids=name)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 11, 100])
def test_a_climb_spends_no_more_than_its_queries_and_all_but_one_of_them(
    attack: Any, threat: Threat, queries: int, curved: nn.Module, images: Images, rng: torch.Generator
) -> None:
    x, y = images
    y = torch.where(torch.arange(len(y)) < 5, (y + 1) % 5, y)
    meter = Meter.of(len(x))
    z = attack(Counted(ClassifierGain(curved, y, margin), meter), x, threat, queries=queries, samples=10, rng=rng)
    lost = ClassifierGain(curved, y, margin).judge(z)[1]
    assert meter.forwards.max() <= queries
    assert (meter.forwards[:5] == 1).all()
    rest = (queries - 1) % 11  # after whole steps of ten samples and a judgement
    assert (meter.forwards[~lost] == queries - (rest if rest < 3 else (rest + 1) % 2)).all()
    assert torch.equal(z[:5], x[:5])


def test_a_climb_asks_no_more_about_who_is_lost(curved: nn.Module, images: Images, rng: torch.Generator) -> None:
    x, y = images
    meter = Meter.of(len(x))
    z = nes(Counted(ClassifierGain(curved, y, margin), meter), x, Linf(0.06), queries=400, samples=10, rng=rng)
    lost = ClassifierGain(curved, y, margin).judge(z)[1]
    assert 0.2 < lost.double().mean() < 1
    assert (meter.forwards[lost] < 400).any()
    assert ((meter.forwards[lost] - 1) % 11 == 0).all()  # each left at the judgement that ends a step


# Where they ask and what they answer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("attack", "threat"), SEARCHES + CLIMBS, ids=name)
def test_every_point_judged_is_allowed_and_the_best_of_them_is_returned(
    attack: Any, threat: Threat, dtype: torch.dtype, curved: nn.Module, images: Images, rng: torch.Generator
) -> None:
    low, high = getattr(threat, "low", 0.0), getattr(threat, "high", 1.0)
    x = (2 * images[0][:12] - 0.5).to(dtype).clamp(low, high)  # many a pixel is on the edge of the box
    curved = curved.to(dtype)
    y = curved(x).argmax(1)
    before = x.clone()
    gain = Recorded.of(ClassifierGain(curved, y, margin), x)
    z = attack(gain, x, threat, queries=60, rng=rng)
    assert torch.equal(x, before)
    assert z.dtype == dtype
    assert z.shape == x.shape
    assert not z.requires_grad
    for rows, point, *_ in gain.judged:
        assert threat.take(rows).contains(point, x[rows]).all()
    assert threat.contains(z, x).all()
    best = torch.full((len(x),), -math.inf)
    last = torch.zeros(len(x), dtype=torch.bool)
    for rows, _, value, lost in gain.judged:
        best[rows] = torch.maximum(best[rows], value.float())
        last[rows] |= lost
    stands = ~last
    torch.testing.assert_close(
        gain.inner(z)[stands].float(), best[stands], rtol=0, atol=0.02 if dtype == torch.bfloat16 else 1e-5
    )
    if isinstance(threat, Masked):
        closed = ~threat.mask.bool().expand_as(x)
        assert torch.equal(z[closed], x[closed])


@pytest.mark.parametrize(("attack", "threat"), SEARCHES + CLIMBS, ids=name)
def test_attacks_repeat_with_their_generator_and_never_touch_the_global_one(
    attack: Any, threat: Threat, curved: nn.Module, images: Images, seeded: Seeded
) -> None:
    gain = ClassifierGain(curved, images[1], margin)
    state = torch.random.get_rng_state()
    first, second, other = (attack(gain, images[0], threat, queries=60, rng=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(("attack", "threat"), SEARCHES + CLIMBS, ids=name)
def test_an_example_fares_the_same_in_any_company(
    attack: Any, threat: Threat, curved: nn.Module, images: Images, seeded: Seeded
) -> None:
    """Also beside examples that are lost on the way, and narrow the batch."""
    model, x, y = curved.double(), images[0].double(), images[1]
    gain = ClassifierGain(model, y, margin)
    run: Attack = partial(attack, queries=100)
    together = run(gain, x, threat, rng=seeded(1))
    assert gain.judge(together)[1].any()
    for rows in (torch.tensor([3]), torch.tensor([23, 0, 7])):
        alone = run(gain.take(rows), x[rows], threat, rng=seeded(1))
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(7,), (2, 9), (3, 4, 5), (1, 1, 1)])
@pytest.mark.parametrize(
    ("attack", "threat"),
    [(square, Linf(0.1)), (square, L2(0.2)), (square, L1(0.3)), (sparse_rs, L0(1)), (nes, Linf(0.1)), (spsa, L2(0.2))],
    ids=name,
)
def test_any_shape_is_attacked_and_an_empty_batch_for_free(
    attack: Any, threat: Threat, shape: tuple[int, ...], rng: torch.Generator
) -> None:
    gain, x = slope(4, *shape)
    z = attack(gain, x, threat, queries=200, rng=rng)
    assert z.shape == x.shape
    assert threat.contains(z, x).all()
    assert (gain(z) > gain(x)).all()
    meter = Meter.of(0)
    empty: Any = Counted(Slope(gain.w[:0]), meter)  # type: ignore[arg-type]
    assert attack(empty, x[:0], threat, rng=rng).shape == x[:0].shape
    assert len(meter.forwards) == meter.calls == 0


def test_what_was_lost_is_kept_whatever_its_value(rng: torch.Generator) -> None:
    """A verdict that disagrees with the value: the highest is no use, only the band below it is lost."""

    @dataclass(frozen=True)
    class Band:
        def __call__(self, z: Tensor) -> Tensor:
            return z.mean(1)

        def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self(z), (self(z) > 0.5) & (self(z) < 0.53)

        def take(self, rows: Tensor) -> "Band":
            return self

    x = torch.full((3, 20), 0.5)
    z = square(Band(), x, Linf(0.1), queries=500, rng=rng)
    assert Band().judge(z)[1].all()


# On a linear gain the maximum is known


@pytest.mark.parametrize("shape", [(12,), (2, 3, 3)])
@pytest.mark.parametrize("edge", [False, True])
def test_square_finds_the_maximum_of_a_linear_gain_in_the_maximum_norm(
    shape: tuple[int, ...], edge: bool, rng: torch.Generator
) -> None:
    """sum_i max(w_i low_i, w_i high_i): with squares of one pixel any wrong sign is turned right."""
    gain, x = slope(6, *shape)
    if edge:
        x = torch.where(x < 0.5, 0.03, x)
    low, high = (x - 0.1).clamp(min=0).flatten(1), (x + 0.1).flatten(1)
    z = square(gain, x, Linf(0.1), queries=1000, rng=rng)
    torch.testing.assert_close(gain(z), torch.maximum(gain.w * low, gain.w * high).sum(1), rtol=0, atol=1e-9)
    mask = torch.rand(shape, generator=rng) < 0.5
    z = square(gain, x, Masked(Linf(0.1), mask[None]), queries=1000, rng=rng)
    open_ = mask.flatten()
    best = torch.where(open_, torch.maximum(gain.w * low, gain.w * high), gain.w * x.flatten(1)).sum(1)
    torch.testing.assert_close(gain(z), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("threat", "dual", "share"), [(L2(0.3), 2, 0.7), (L1(0.3), math.inf, 0.6)], ids=name)
def test_square_comes_near_the_maximum_of_a_smooth_linear_gain_in_other_norms(
    threat: Any, dual: float, share: float, rng: torch.Generator
) -> None:
    """eps ||w||_dual is the bound. Bumps of nine pixels and more follow a smooth w, not one of single pixels."""
    x = slope(6, 1, 8, 8)[1]
    phase = 2 * math.pi * torch.rand((2, 6, 1, 1), generator=rng, dtype=torch.float64)
    down = torch.arange(8, dtype=torch.float64)[None, :, None]
    w = (torch.sin(down / 2 + phase[0]) * torch.sin(down.mT / 2 + phase[1])).flatten(1)
    z = square(Slope(w), x, threat, queries=1000, rng=rng)
    rise, bound = Slope(w)(z) - Slope(w)(x), threat.eps * torch.linalg.vector_norm(w, dual, dim=1)
    assert (rise <= bound * (1 + 1e-6)).all()
    assert (rise / bound).min() > share, rise / bound


@pytest.mark.parametrize(("shape", "per_pixel"), [((12,), False), ((2, 3, 3), False), ((3, 4, 3), True)])
@pytest.mark.parametrize("k", [1, 3, 9, 30])
def test_sparse_rs_finds_the_best_pixels_of_a_linear_gain(
    shape: tuple[int, ...], per_pixel: bool, k: int, rng: torch.Generator
) -> None:
    """The k largest of what a pixel's best corner brings, max(w (high - x), w (low - x)) over its channels."""
    gain, x = slope(5, *shape)
    flat = x.flatten(1)
    worth = torch.maximum(gain.w * (1 - flat), gain.w * (0 - flat))
    if per_pixel:
        worth = worth.reshape(5, shape[0], -1).sum(1)
    best = worth.topk(min(k, worth.shape[1])).values.sum(1)
    threat = L0(k, per_pixel=per_pixel)
    z = sparse_rs(gain, x, threat, queries=2500, rng=rng)
    assert threat.contains(z, x).all()
    torch.testing.assert_close(gain(z) - gain(x), best, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", [nes, spsa])
@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.1), 1), (L2(0.3), 2)], ids=name)
def test_estimated_gradients_climb_a_linear_gain_to_its_top(
    attack: Any, threat: Any, dual: float, rng: torch.Generator
) -> None:
    gain, x = slope(6, 20)
    z = attack(gain, x, threat, queries=4000, rng=rng)
    rise, bound = gain(z) - gain(x), threat.eps * torch.linalg.vector_norm(gain.w, dual, dim=1)
    assert (rise <= bound * (1 + 1e-6)).all()
    assert (rise / bound).min() > 0.97


# The estimate


@pytest.mark.parametrize("directions", [gaussian, rademacher])
def test_the_estimate_of_a_linear_gain_is_unbiased_with_the_variance_of_theory(
    directions: Any, rng: torch.Generator
) -> None:
    """u u^T w has mean w and variance ||w||^2 + w_i^2 (Gaussian) or ||w||^2 - w_i^2 (signs), over the pairs."""
    gain, x = slope(3, 3, 4)
    pairs = 5000
    found = estimated_gradient(gain, x, directions, samples=2 * pairs, sigma=0.1, rng=rng).flatten(1)
    sign = 1 if directions is gaussian else -1
    spread = ((gain.w.square().sum(1, keepdim=True) + sign * gain.w.square()) / pairs).sqrt()
    score = (found - gain.w) / spread
    assert score.abs().max() < 4
    assert 0.5 < score.square().mean() < 1.7


@pytest.mark.parametrize("directions", [gaussian, rademacher])
def test_mirrored_samples_cancel_what_is_even(directions: Any, rng: torch.Generator) -> None:
    @dataclass(frozen=True)
    class Bowl:
        def __call__(self, z: Tensor) -> Tensor:
            return (z - 0.5).square().sum(1)

        def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self(z), torch.zeros(len(z), dtype=torch.bool)

        def take(self, rows: Tensor) -> "Bowl":
            return self

    x = torch.full((2, 4), 0.5, dtype=torch.float64)
    found = estimated_gradient(Bowl(), x, directions, samples=6, sigma=0.1, rng=rng)
    torch.testing.assert_close(found, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_samples_are_asked_in_chunks_that_change_nothing(seeded: Seeded) -> None:
    gain, x = slope(3, 8)
    sizes: list[int] = []

    @dataclass(frozen=True)
    class Sized:
        inner: Slope

        def __call__(self, z: Tensor) -> Tensor:
            sizes.append(len(z))
            return self.inner(z)

        def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner.judge(z)

        def take(self, rows: Tensor) -> "Sized":
            return Sized(self.inner.take(rows))

    found = []
    for chunk, most in ((1, 6), (13, 12), (100, 96), (10_000, 384)):
        sizes.clear()
        estimate = estimated_gradient(Sized(gain), x, gaussian, samples=200, sigma=0.1, chunk=chunk, rng=seeded(2))
        found.append(estimate)
        assert max(sizes) == most
        assert sum(sizes) == 600
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-12)


# What the searches try


def test_squares_shrink_as_in_the_paper() -> None:
    image = torch.empty(1, 3, 28, 28)
    sides = [side(it, 10_000, image, 0.8) for it in (0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    p = [0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125, 0.0015625]
    assert sides == [(s, s) for s in (max(1, round(math.sqrt(q) * 28)) for q in p)]
    assert side(800, 1000, image, 0.8) == side(8000, 10_000, image, 0.8)
    assert side(8001, 10_000, image, 0.8, least=3, odd=True) == (3, 3)
    assert side(51, 10_000, image, 0.8, least=3, odd=True) == (13, 13)
    assert side(11, 10_000, image, 0.8, least=3, odd=True) == (19, 19)
    assert side(0, 0, image, 0.8) == (25, 25)
    assert [stage(it, 10_000, BREAKS) for it in (0, 10, 11, 8000, 8001)] == [0, 0, 1, 8, 9]


def test_windows_of_other_inputs_keep_their_area() -> None:
    assert side(0, 100, torch.empty(1, 1, 1, 50), 0.8) == (1, 40)
    assert side(0, 100, torch.empty(1, 1, 50, 1), 0.8) == (40, 1)
    assert side(0, 100, torch.empty(1, 1, 4, 100), 0.5) == (4, 50)
    assert side(99, 100, torch.empty(1, 1, 4, 100), 0.5) == (1, 1)
    assert side(0, 100, torch.empty(1, 1, 2, 2), 0.1, least=3, odd=True) == (2, 2)


def test_windows_lie_everywhere_with_equal_chance(rng: torch.Generator) -> None:
    image = torch.empty(1, 1, 5, 7)
    seen = torch.zeros(3, 6)
    for _ in range(4000):
        down, right = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
        rows, columns = place((3, 2), image, down, right)
        assert image[0, 0, rows, columns].shape == (3, 2)
        seen[rows.start, columns.start] += 1
    expected = 4000 / 18
    assert ((seen - expected).square() / expected).sum() < 40.8  # chi-square with 17 degrees, 0.1 %


def test_inputs_of_other_dimensions_are_refused() -> None:
    assert planes(torch.empty(2, 3, 4)).shape == (2, 3, 1, 4)
    with pytest.raises(ValueError, match=r"x must be \[B, C, H, W\], \[B, C, n\] or \[B, n\]. Got the shape"):
        square(*slope(2, 1, 2, 3, 4), Linf(0.1))


@pytest.mark.parametrize("shape", [(9,), (1, 5, 5), (2, 4, 4)])
def test_no_square_is_wasted_on_changing_nothing(shape: tuple[int, ...], rng: torch.Generator) -> None:
    _, x = slope(4, *shape)
    proposals = Squares(x, Linf(0.1), 100, p_init=0.8, rng=rng)
    for step in range(100):
        before = proposals.z.clone()
        z = proposals.propose(step).clone()
        changed = (z != before).flatten(1)
        assert changed.any(1).all()
        away = (z - x).abs().flatten(1)
        torch.testing.assert_close(away, torch.full_like(away, 0.1))
        rise = torch.rand(len(x), generator=rng) < 0.5
        proposals.settle(rise)
        assert torch.equal(proposals.z[rise], z[rise])
        assert torch.equal(proposals.z[~rise], before[~rise])


def test_squares_have_one_sign_in_each_channel(rng: torch.Generator) -> None:
    """And stripes, the start, one in each column: all signs are met."""
    x = torch.full((1, 2, 9, 9), 0.5)
    proposals = Squares(x, Linf(0.1), 1000, p_init=0.8, rng=rng)
    stripes = proposals.z > 0.5
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert len(stripes[0, :, 0].unique(dim=1).T) > 2
    signs = set()
    for step in range(100):
        a, b = side(step, 1000, x, 0.8)
        before = proposals.z.clone()
        changed = proposals.propose(step) != before
        rows, columns = (changed[0].any(0).any(other).nonzero() for other in (1, 0))
        assert rows.max() - rows.min() < a
        assert columns.max() - columns.min() < b
        for channel in range(2):
            new = proposals.z[0, channel][changed[0, channel]]
            assert len(new.unique()) <= 1
            signs |= {(channel, bool(value > 0.5)) for value in new}
        proposals.settle(torch.rand(1, generator=rng) < 0.5)
    assert len(signs) == 4


@pytest.mark.parametrize(("ball", "p", "decay"), [(L2(0.3), 2, 2), (L1(0.7), 1, 4)], ids=name)
@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 7, 7), (11,)])
def test_bumps_spend_the_whole_ball(
    ball: Any, p: int, decay: int, shape: tuple[int, ...], rng: torch.Generator
) -> None:
    """Where the box is far, every point tried is on the sphere: what one window gives up the other gets."""
    _, x = slope(4, *shape)
    ball = type(ball)(ball.eps, low=-10.0, high=10.0)
    proposals = Bumps(x, ball, 80, ball=ball, p=p, decay=decay, p_init=0.8, rng=rng)
    radius = torch.full((4,), ball.eps, dtype=torch.float64)
    torch.testing.assert_close(ball.distance(proposals.z, x), radius, rtol=1e-5, atol=0)
    for step in range(80):
        before = proposals.z.clone()
        z = proposals.propose(step)
        torch.testing.assert_close(ball.distance(z, x), radius, rtol=1e-5, atol=0)
        rise = torch.rand(len(x), generator=rng) < 0.5
        proposals.settle(rise)
        assert torch.equal(proposals.z, torch.where(rise.reshape(-1, *[1] * len(shape)), z, before))


def test_bumps_regain_what_the_box_cuts_off(rng: torch.Generator) -> None:
    """At a corner of the box half of a pair of bumps is cut off: the other half is stretched to the same length."""
    x = slope(4, 1, 8, 8)[1].round()
    z = square(Slope(torch.where(x.flatten(1) > 0.5, -1.0, 1.0)), x, L2(0.5), queries=400, rng=rng)
    assert (L2(0.5).distance(z, x) > 0.49).all()
    for ball, p, decay in ((L2(0.5), 2, 2), (L1(2.0), 1, 4)):
        proposals = Bumps(x, ball, 50, ball=ball, p=p, decay=decay, p_init=0.8, rng=rng)
        radius = torch.full((4,), ball.eps, dtype=torch.float64)
        for z in (proposals.z, *(proposals.propose(step) for step in range(50))):
            torch.testing.assert_close(ball.distance(z, x), radius, rtol=1e-5, atol=0)


def test_a_bump_is_layers_of_falling_height() -> None:
    like = torch.empty(0, dtype=torch.float64)
    third = torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25], [0.25, 0.25, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(layers(3, 3, 2, like), third)
    by_hand = torch.zeros(5, 9, dtype=torch.float64)
    for k in range(5):
        by_hand[max(0, 2 - k) : 3 + k, max(0, 4 - k) : 5 + k] += 1 / (k + 1) ** 4
    torch.testing.assert_close(layers(5, 9, 4, like), by_hand)


@pytest.mark.parametrize(("p", "decay"), [(2, 2), (1, 4)])
@pytest.mark.parametrize("size", [(5, 5), (4, 4), (1, 6), (6, 1), (1, 1), (3, 7)])
def test_a_pair_of_bumps_has_unit_length_and_opposite_halves(p: int, decay: int, size: tuple[int, int]) -> None:
    ball: Any = L2(1.0) if p == 2 else L1(1.0)
    bumps = Bumps(torch.rand(1, 1, 9, 9).double(), ball, 1, ball=ball, p=p, decay=decay, p_init=0.8, rng=None)
    upright, abreast = pair = bumps._bump(size)
    a, b = size
    torch.testing.assert_close(pair.abs().pow(p).sum((1, 2)), torch.ones(2, dtype=torch.float64))
    if a > 1:
        assert (upright[: a // 2] > 0).all()
        assert (upright[a // 2 :] < 0).all()
    if b > 1:
        assert (abreast[:, : b // 2] > 0).all()
        assert (abreast[:, b // 2 :] < 0).all()
    if a == b:
        torch.testing.assert_close(abreast, upright.T)


@pytest.mark.parametrize(("shape", "per_pixel", "k"), [((30,), False, 7), ((2, 4, 4), True, 5), ((2, 3, 3), False, 4)])
def test_an_exchange_gives_up_and_gets_as_many_pixels_as_scheduled(
    shape: tuple[int, ...], per_pixel: bool, k: int, rng: torch.Generator
) -> None:
    _, x = slope(4, *shape)
    threat = L0(k, per_pixel=per_pixel)
    proposals = Exchanges(x, threat, 400, corners=(0.0, 1.0), per_pixel=per_pixel, alpha=0.8, rng=rng)
    counts = torch.full((4,), float(k), dtype=torch.float64)
    assert torch.equal(threat.distance(proposals.z, x), counts)
    sizes = []
    for step in range(400):
        before = proposals.z.clone()
        z = proposals.propose(step).clone()
        assert torch.equal(threat.distance(z, x), counts)  # x is no corner
        changed = z != x
        assert ((z[changed] == 0) | (z[changed] == 1)).all()
        difference = threat.distance(z, before)
        assert (difference == difference[0]).all()
        assert difference[0] >= 1
        sizes.append(math.ceil(difference[0].item() / 2))
        rise = torch.rand(len(x), generator=rng) < 0.5
        proposals.settle(rise)
        assert torch.equal(proposals.z, torch.where(rise.reshape(-1, *[1] * len(shape)), z, before))
    scheduled = [max(1, int(0.8 / d * k)) for d in (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)]
    at = [0, 1, 3, 9, 21, 41, 81, 161, 241, 321]
    assert [sizes[step] for step in at] == scheduled


def test_a_pixel_never_gets_the_corner_it_has(rng: torch.Generator) -> None:
    x = torch.rand((3, 2, 4, 4), generator=rng).round()
    threat = L0(5, per_pixel=True)
    proposals = Exchanges(x, threat, 1, corners=(0.0, 1.0), per_pixel=True, alpha=0.3, rng=rng)
    assert (threat.distance(proposals.z, x) == 5).all()


def test_draws_are_uniform_and_do_not_repeat(seeded: Seeded) -> None:
    draw = Draws(2, 3, torch.device("cpu"), seeded(0))
    drawn = [draw(step) for step in range(600)]
    numbers = torch.tensor([numbers for numbers, _ in drawn])
    coins = torch.stack([coins for _, coins in drawn])
    assert coins.shape == (600, 3, 1, 1)
    assert len(numbers.unique(dim=0)) == 600
    assert (numbers.mean(0) - 0.5).abs().max() < 4 * math.sqrt(1 / 12 / 600)
    assert (coins.double().mean(0) - 0.5).abs().max() < 4 * 0.5 / math.sqrt(600)


# Arguments


@pytest.mark.parametrize(
    ("attack", "threat"), [(square, Linf(0.1)), (sparse_rs, L0(1)), (nes, Linf(0.1)), (spsa, L2(1))]
)
def test_arguments_out_of_range_are_refused_by_name(attack: Any, threat: Threat) -> None:
    gain, x = slope(1, 4)
    counts = ("queries", "restarts") if attack in (square, sparse_rs) else ("queries", "samples", "chunk")
    shares = {square: "p_init", sparse_rs: "alpha_init"}
    for count in counts:
        with pytest.raises(ValueError, match=rf"'{count}' parameter must be an int .*Got 0 instead"):
            attack(gain, x, threat, **{count: 0})
    for wrong in (0, 1.1, math.nan, True, "1") if attack in shares else ():
        with pytest.raises(ValueError, match=rf"'{shares[attack]}' parameter must be a number in the range \(0, 1\]"):
            attack(gain, x, threat, **{shares[attack]: wrong})
    with pytest.raises(TypeError, match=r"black box.*needs a gain with 'judge' and 'take'"):
        attack(lambda z: z.sum(1), x, threat)
    with pytest.raises(TypeError, match="floating-point"):
        attack(gain, x.long(), threat)


@pytest.mark.parametrize("attack", [nes, spsa])
def test_arguments_of_climbs_out_of_range_are_refused_by_name(attack: Any) -> None:
    gain, x = slope(1, 4)
    for positive in ("sigma", "step_size"):
        with pytest.raises(ValueError, match=rf"'{positive}' parameter must be a number .*Got 0 instead"):
            attack(gain, x, Linf(0.1), **{positive: 0})
    with pytest.raises(ValueError, match=r"'samples' parameter must be even, .*Got 5 instead"):
        attack(gain, x, Linf(0.1), samples=5)
    for momentum in (1, -0.1, "0"):
        with pytest.raises(ValueError, match=rf"'momentum' parameter must be .*Got {momentum!r} instead"):
            attack(gain, x, Linf(0.1), momentum=momentum)


def test_threats_without_a_search_are_refused() -> None:
    gain, x = slope(1, 4)
    for threat in (Intersection(Linf(0.1), L2(0.1)), L0(2), Masked(Intersection(Linf(0.1)), torch.ones(1, 4))):
        with pytest.raises(TypeError, match=r"The threat of 'square' must be Linf, L2 or L1"):
            square(gain, x, threat)
    with pytest.raises(TypeError, match=r"The threat of 'sparse_rs' must be L0\. Got Linf"):
        sparse_rs(gain, x, Linf(0.1))
    with pytest.raises(ValueError, match="needs a finite box"):
        sparse_rs(gain, x, L0(2, high=math.inf))
