"""Decision-based attacks: what they pay, that decisions are all they use, and how near to x they come."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.boundary import boundary
from sparring.attacks.decision import Hunt, bisect
from sparring.attacks.hop_skip_jump import hop_skip_jump
from sparring.core.compose import Masked
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import cross_entropy, margin
from sparring.core.threat import L1, L2, Linf, norm

Images = tuple[Tensor, Tensor]
ATTACKS = [hop_skip_jump, boundary]
both = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__)
balls = pytest.mark.parametrize("threat", [L2(0.1), Linf(0.02), L1(0.4)], ids=lambda t: type(t).__name__)


@dataclass
class Witness:
    """A judging gain that answers garbage for its value, and writes down who asked what and what it decided."""

    inner: Any
    rows: Tensor
    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    value: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        raise AssertionError("a decision-based attack must not ask for the value alone")

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        assert not torch.is_grad_enabled()
        lost = self.inner.judge(z)[1]
        self.seen.append((self.rows, z.clone(), lost))
        return torch.full((len(z),), self.value), lost

    def take(self, rows: Tensor) -> "Witness":
        return replace(self, inner=self.inner.take(rows), rows=self.rows[rows])

    def queries(self) -> Tensor:
        return torch.cat([rows for rows, _, _ in self.seen]).bincount()


@dataclass(frozen=True)
class Region:
    """Lost wherever a given function says so; every example alike."""

    where: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z))

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(z)), self.where(z)

    def take(self, rows: Tensor) -> "Region":
        return self


def witness(model: nn.Module, y: Tensor, value: float = 0.0) -> Witness:
    return Witness(ClassifierGain(model, y, margin), torch.arange(len(y)), value=value)


def halves(linear: nn.Module, x: Tensor) -> tuple[ClassifierGain, Tensor, Tensor]:
    """The linear model's gain at its own predictions, the margin to be bought, and w."""
    linear.requires_grad_(False)
    gain = ClassifierGain(linear, linear(x).argmax(1), margin)
    return gain, -gain(x), linear.weight[1] - linear.weight[0]


def central(n: int = 16, d: int = 12) -> Tensor:
    return 0.3 + 0.4 * torch.rand((n, d), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# How near: on a linear model the nearest lost point is at margin / ||w||_q


@pytest.mark.parametrize(
    ("attack", "threat", "dual", "queries", "middle", "most"),
    [
        (hop_skip_jump, L2(0.1), 2.0, 2000, 0.01, 0.03),
        (hop_skip_jump, Linf(0.1), 1.0, 2000, 0.02, 0.05),
        (hop_skip_jump, L1(0.1, sparsity=1.0), math.inf, 4000, 0.03, 0.15),
        (boundary, L2(0.1), 2.0, 1000, 0.005, 0.03),
    ],
)
def test_the_distance_approaches_the_closed_form_on_a_linear_model(
    linear: nn.Module, rng: torch.Generator, attack: Any, threat: Any, dual: float, queries: int, middle: float,
    most: float,
) -> None:  # fmt: skip
    x = central()
    gain, rise, w = halves(linear, x)
    z = attack(gain, x, threat, queries=queries, rng=rng)
    assert gain.judge(z)[1].all()
    excess = threat.distance(z, x) / (rise / norm(w[None], dual)) - 1
    assert excess.min() > -1e-9
    assert excess.median() < middle
    assert excess.max() < most


@balls
@pytest.mark.parametrize("tolerance", [1e-2, 1e-6, 0.0])
def test_the_bisection_finds_the_boundary_within_its_tolerance(threat: Any, tolerance: float) -> None:
    """On the way from z to x that the threat's own `within` takes, the points right behind the one found stand."""
    x = torch.full((5, 8), 0.4, dtype=torch.float64)
    z = torch.rand((5, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z[:, 0] = 1.0
    gain = Region(lambda z: (z**2).sum(1) > 8 * 0.41**2)
    hunt = Hunt.of(gain, x, threat, queries=200, chunk=3, early_stop=False, rng=None)
    rows = torch.arange(5)[gain.where(z)]
    assert len(rows) >= 3
    found = bisect(hunt, rows, z[rows], tolerance)
    assert gain.where(found).all()
    far = threat.distance(found, x[rows])
    torch.testing.assert_close(found, threat.within(z[rows], x[rows], far), rtol=0, atol=1e-12)
    behind = threat.within(z[rows], x[rows], far * (1 - 3 * tolerance) - 1e-12)
    assert not gain.where(behind).any()
    wanted = torch.maximum(tolerance * far, torch.tensor(torch.finfo(torch.float64).eps, dtype=torch.float64))
    halvings = (8**0.5 * threat.distance(z[rows], x[rows]) / wanted).log2().ceil()
    assert (200 - 1 - hunt.left[rows] <= halvings).all()


# What they pay


@both
@pytest.mark.parametrize("queries", [1, 2, 5, 60, 170])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_the_budget_is_never_exceeded_and_every_query_is_counted(
    attack: Any, queries: int, chunk: int, curved: nn.Module, images: Images, rng: torch.Generator
) -> None:
    x, y = images
    gain, meter = witness(curved, y), Meter.of(len(x))
    attack(Counted(gain, meter), x, L2(0.1), queries=queries, chunk=chunk, rng=rng)
    assert torch.equal(meter.forwards, gain.queries())
    assert meter.forwards.max() <= queries
    assert meter.backwards.sum() == 0
    assert max(len(rows) for rows, _, _ in gain.seen) <= chunk
    if attack is boundary:
        assert (meter.forwards == queries).all()


def test_hop_skip_jump_pays_for_every_estimate_in_full(curved: nn.Module, images: Images, rng: torch.Generator) -> None:
    """Each example's queries are the one at x, at least one for its start, B_0 sqrt(t) for each step, and searches of
    at most a jump's 20 and the bisection's halvings; what is left unspent would not have paid for another step."""
    x, y = images
    gain, d, steps = witness(curved, y), x[0].numel(), 4
    hop_skip_jump(gain, x, L2(0.1), steps=steps, initial_evaluations=20, rng=rng)
    clouds = sum(int(20 * t**0.5) for t in range(1, steps + 1))
    search = 2 + 1.5 * math.log2(d)
    assert (gain.queries() >= 2 + clouds + steps).all()
    assert (gain.queries() <= 1 + 100 + clouds + search + steps * (20 + search)).all()
    gain = witness(curved, y)
    hop_skip_jump(gain, x, L2(0.1), queries=300, initial_evaluations=20, rng=rng)
    assert (gain.queries() > 300 - int(20 * 9**0.5) - 1).all()


@both
def test_the_chunk_changes_the_order_of_asking_only(attack: Any, curved: nn.Module, images: Images) -> None:
    """While one example's points fit in it, that is, and up to the rounding of other batch sizes."""
    model, x = curved.double(), images[0].double()
    own = {"initial_evaluations": 30} if attack is hop_skip_jump else {}
    run = partial(attack, witness(model, images[1]), x, L2(0.1), queries=200, **own)
    small, large = (run(chunk=chunk, rng=torch.Generator().manual_seed(0)) for chunk in (100, 5000))
    assert torch.equal(small, large)


# What they use


@both
@balls
def test_decisions_are_all_that_is_used(attack: Any, threat: Any, curved: nn.Module, images: Images) -> None:
    x, y = images
    found = [
        attack(gain, x, threat, queries=160, rng=torch.Generator().manual_seed(0))
        for gain in (witness(curved, y, math.nan), witness(curved, y, 1e9), ClassifierGain(curved, y, cross_entropy))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@both
@balls
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_returns_is_the_nearest_of_all_lost_points_asked_about(
    attack: Any, threat: Any, dtype: torch.dtype, curved: nn.Module, images: Images, rng: torch.Generator
) -> None:
    curved = curved.to(dtype).requires_grad_(False)
    x = images[0].to(dtype)
    gain = witness(curved, curved(x).argmax(1))
    before = x.clone()
    z = attack(gain, x, threat, queries=200, rng=rng)
    assert torch.equal(x, before)
    assert z.dtype == dtype
    rows, asked, lost = (torch.cat(part) for part in zip(*gain.seen, strict=True))
    assert ((asked >= threat.low) & (asked <= threat.high)).all()
    for i in range(len(x)):
        mine = asked[(rows == i) & lost]
        away = threat.distance(mine.double(), x[i].double().expand_as(mine))
        assert len(mine)
        assert threat.distance(z[i : i + 1].double(), x[i : i + 1].double()) == away.min()
        assert (mine == z[i]).flatten(1).all(1).any()


# Where they ask: the geometry of a step, far from any edge of the box


def asked_behind_a_plane(
    attack: Any, threat: Any, thick: float = math.inf, **parameters: Any
) -> tuple[Tensor, Tensor, list[Tensor], Witness]:
    """x = 0, a start in the slab of lost points (a half-space by default), each call's points, the witness of them."""
    x = torch.zeros((1, 20), dtype=torch.float64)
    start = 3.0 * torch.rand((1, 20), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    if thick < math.inf:
        start = start * (2.0 + thick / 2) / start.sum()
    seen = Witness(Region(lambda z: (z.sum(1) > 2.0) & (z.sum(1) < 2.0 + thick)), torch.arange(1))
    rng = torch.Generator().manual_seed(0)
    attack(seen, x, replace(threat, low=-math.inf, high=math.inf), start=start, rng=rng, **parameters)
    return x, start, [points for _, points, _ in seen.seen], seen


@pytest.mark.parametrize("threat", [L2(0.1), Linf(0.1)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_hop_skip_jump_asks_around_its_point_at_delta_and_jumps_its_distance(threat: Any, gamma: float) -> None:
    """delta = gamma D / d in both norms, and the first jump is D along the norm's steepest direction; the plane's
    normal is (1, ..., 1), and 4000 decisions find its signs."""
    x, _, calls, seen = asked_behind_a_plane(
        hop_skip_jump, threat, gamma=gamma, initial_evaluations=4000, steps=1, chunk=4000
    )
    cloud = next(i for i, points in enumerate(calls) if len(points) > 1)
    lost = [points for _, points, yes in seen.seen[:cloud] if yes]
    z = lost[-1]  # where the bisection ended
    far = threat.distance(z, x)
    torch.testing.assert_close(norm(calls[cloud] - z, 2), (gamma * far / 20).expand(4000), rtol=1e-9, atol=0)
    jump = calls[cloud + 1] - z
    torch.testing.assert_close(threat.distance(calls[cloud + 1], z), far, rtol=1e-9, atol=0)
    assert (jump > 0).all()
    assert torch.cosine_similarity(jump, torch.ones_like(jump)).item() > 0.99
    assert z.sum() - 2.0 < gamma * far.item() / 20**1.5 * 20**0.5  # delta / sqrt(d), along (1, ..., 1)


def test_a_jump_is_halved_until_it_is_lost() -> None:
    """The first jump, D = 2 / sqrt(20) along the normal, doubles the sum of 2; lost is only what stays below 2.2."""
    threat = L2(0.1)
    x, _, calls, seen = asked_behind_a_plane(
        hop_skip_jump, threat, thick=0.2, initial_evaluations=4000, steps=1, chunk=4000
    )
    cloud = next(i for i, points in enumerate(calls) if len(points) > 1)
    z = [points for _, points, yes in seen.seen[:cloud] if yes][-1]
    sizes = torch.cat([threat.distance(points, z) for points in calls[cloud + 1 : cloud + 6]])
    halves = threat.distance(z, x) / torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    torch.testing.assert_close(sizes, halves, rtol=1e-9, atol=0)
    assert [bool(yes) for _, _, yes in seen.seen[cloud + 1 : cloud + 6]] == [False, False, False, False, True]


def test_a_step_of_the_boundary_attack_is_sideways_on_the_sphere_and_then_inwards() -> None:
    _, start, calls, seen = asked_behind_a_plane(boundary, L2(0.1), spherical_step=0.3, source_step=0.2, queries=40)
    aside = next(i for i, points in enumerate(calls) if i and torch.cosine_similarity(points, start).item() < 1 - 1e-6)
    z = [points for _, points, yes in seen.seen[:aside] if yes][-1]
    sphere, inside = calls[aside], calls[aside + 1]
    torch.testing.assert_close(norm(sphere, 2), norm(z, 2), rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.cosine_similarity(sphere, z), torch.tensor([math.cos(math.atan(0.3))]).double())
    torch.testing.assert_close(inside, 0.8 * sphere, rtol=1e-9, atol=1e-12)


# What a run is


@both
def test_a_larger_budget_continues_the_same_run(attack: Any, curved: nn.Module, images: Images) -> None:
    """So the distance never grows: each example asks the same questions, and then more."""
    x, y = images[0].double(), images[1]
    asked: list[Tensor] = []
    before = torch.full((len(x),), math.inf, dtype=torch.float64)
    for queries in (40, 150, 151, 400):
        gain = witness(curved.double(), y)
        z = attack(gain, x, L2(0.1), queries=queries, rng=torch.Generator().manual_seed(0))
        rows, points, _ = (torch.cat(part) for part in zip(*gain.seen, strict=True))
        mine = [points[rows == i] for i in range(len(x))]
        for old, new in zip(asked, mine, strict=bool(asked)):
            assert torch.equal(old, new[: len(old)])
        asked = mine
        away = torch.where(gain.inner.judge(z)[1], L2(0.1).distance(z, x), math.inf)
        assert (away <= before).all()
        before = away
    assert before.isfinite().all()


@both
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_points(attack: Any, seed: int, curved: nn.Module, images: Images) -> None:
    gain, x = ClassifierGain(curved, images[1], margin), images[0]
    state = torch.get_rng_state()
    one, two, other = (
        attack(gain, x, L2(0.1), queries=150, rng=torch.Generator().manual_seed(s)) for s in (seed, seed, seed + 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


@both
def test_early_stop_leaves_an_example_once_it_is_inside(attack: Any, curved: nn.Module, images: Images) -> None:
    """Until then it is the same run; the others are not touched by its leaving."""
    x, y = images[0].double(), images[1]
    run = partial(attack, queries=400, chunk=50)
    far = run(witness(curved.double(), y), x, L2(0.1), rng=torch.Generator().manual_seed(0))
    threat = L2(L2(0.1).distance(far, x).median().item() * 1.02)
    gain, gone = witness(curved, y), torch.zeros(len(x), dtype=torch.bool)
    z = run(gain, x, threat, early_stop=True, rng=torch.Generator().manual_seed(0))
    inside = threat.contains(z, x)
    assert torch.equal(inside, threat.contains(far, x))
    assert torch.equal(z[~inside], far[~inside])
    assert 0 < inside.sum() < len(x)
    for rows, asked, lost in gain.seen:
        assert not gone[rows].any()
        gone[rows[lost & threat.contains(asked, x[rows])]] = True
    assert torch.equal(gone, inside)


# Where they start


@both
def test_an_example_lost_at_x_costs_one_query_and_stays(attack: Any, curved: nn.Module, images: Images) -> None:
    x, y = images
    y = torch.where(torch.arange(len(y)) % 3 == 0, (y + 1) % 5, y)
    gain = witness(curved, y)
    z = attack(gain, x, L2(0.1), queries=150, rng=torch.Generator().manual_seed(0))
    lost = gain.inner.judge(x)[1]
    assert torch.equal(z[lost], x[lost])
    assert (gain.queries()[lost] == 1).all()
    assert (gain.queries()[~lost] > 50).all()
    assert (z[~lost] != x[~lost]).flatten(1).any(1).all()


@both
@pytest.mark.parametrize("queries", [10, 500])
def test_where_no_start_is_found_x_returns(attack: Any, queries: int, rng: torch.Generator) -> None:
    x, gain = torch.full((3, 4), 0.5), Region(lambda z: torch.zeros(len(z), dtype=torch.bool))
    seen = Witness(gain, torch.arange(3))
    assert torch.equal(attack(seen, x, Linf(0.1), queries=queries, tries=20, rng=rng), x)
    assert (seen.queries() == min(queries, 1 + 20)).all()


@both
def test_a_given_start_is_where_the_search_begins(attack: Any, rng: torch.Generator) -> None:
    """Only the corner next to 1 is lost, which noise would hardly find; outside the box it counts at its edge. Where
    the start is not lost, noise is tried instead, and in an infinite box there is nothing to try."""
    gain = Region(lambda z: z.min(1).values > 0.95)
    x, start = torch.full((2, 10), 0.9, dtype=torch.float64), torch.full((2, 10), 1.5, dtype=torch.float64)
    seen = Witness(gain, torch.arange(2))
    z = attack(seen, x, L2(0.1), queries=400, tries=5, start=start, rng=rng)
    assert torch.equal(seen.seen[1][1], torch.ones_like(x))
    assert (L2(0.1).distance(z, x) < 0.05 * 10**0.5 + 0.02).all()
    start[1] = 0.5
    seen = Witness(gain, torch.arange(2))
    z = attack(seen, x, L2(0.1), queries=400, tries=5, start=start, rng=rng)
    assert torch.equal(z[1], x[1])
    assert seen.queries()[1] == 1 + 1 + 5
    assert (z[0] > 0.95).all()
    start[:] = 1.5
    z = attack(gain, x, L2(0.1, -math.inf, math.inf), queries=400, start=start, rng=rng)
    assert (z > 0.95).all()


@both
def test_an_empty_batch_stays_empty(attack: Any, curved: nn.Module, images: Images) -> None:
    assert attack(ClassifierGain(curved, images[1][:0], margin), images[0][:0], L2(0.1)).shape == (0, 1, 6, 6)


@both
def test_bad_arguments_are_named(attack: Any, curved: nn.Module, images: Images) -> None:
    gain, x = ClassifierGain(curved, images[1], margin), images[0]
    common: list[dict[str, Any]] = [{"queries": 0}, {"chunk": 0}, {"tries": True}, {"start": x[:1]}]
    own: dict[Any, list[dict[str, Any]]] = {
        hop_skip_jump: [{"steps": 0}, {"initial_evaluations": 1.5}, {"max_evaluations": 0}, {"gamma": -1.0}],
        boundary: [{"spherical_step": 0.0}, {"source_step": 1.0}, {"step_adaptation": 1.0}],
    }
    for arguments in common + own[attack]:
        with pytest.raises(ValueError, match=f"The '{next(iter(arguments))}' parameter must"):
            attack(gain, x, L2(0.1), **arguments)
    with pytest.raises(ValueError, match="needs the 'start' parameter"):
        attack(gain, x, L2(0.1, -math.inf, math.inf))
    with pytest.raises(TypeError, match="needs a threat with 'distance'"):
        attack(gain, x, Masked(L2(0.1), torch.ones(1, 1, 6, 6)))
    with pytest.raises(TypeError, match="needs a gain with 'judge'"):
        attack(lambda z: z.flatten(1).sum(1), x, L2(0.1))
    with pytest.raises(TypeError, match="floating-point"):
        attack(gain, x.long(), L2(0.1))
