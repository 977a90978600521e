"""Attacks: exact maxima on linear models, and what holds on any model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.core.attack import Attack, best_of, each_member, restarts
from sparring.core.compose import Intersection, Masked, Union
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy, kl, margin, of_model
from sparring.core.pgd import fgsm, pgd
from sparring.core.players import Attacker
from sparring.core.standing import DeadStartError
from sparring.core.threat import L1, L2, Linf, Threat, norm

INF = math.inf
THREATS: list[Threat] = [
    Linf(0.1), L2(0.5), L1(1.0), Masked(L2(0.5), torch.tensor([[1, 1, 0, 1, 0, 1]])),
    Intersection(Linf(0.1), L2(0.2)), Union(Linf(0.1), L2(0.3), L1(0.5)),
]  # fmt: skip


@dataclass
class Recorded:
    """A gain that writes down every z it was asked about and what it answered."""

    inner: Callable[[Tensor], Tensor]
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        value = self.inner(z)
        self.seen.append((z.detach().clone(), value.detach().clone()))
        self.sizes.append(len(z))
        return value


@dataclass
class RecordedJudge:
    """A `ClassifierGain` that counts the rows it is given."""

    inner: Any
    sizes: list[int] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        self.sizes.append(len(z))
        return self.inner(z)

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(len(z))
        return self.inner.judge(z)

    def take(self, rows: Tensor) -> "RecordedJudge":
        return RecordedJudge(self.inner.take(rows), self.sizes)


@dataclass(frozen=True)
class Task:
    """A small classifier trained from a seed, and the data it was trained on."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def gain(self, loss: Any = margin) -> ClassifierGain:
        return ClassifierGain(self.model, self.y, loss)


@pytest.fixture(scope="module")
def task() -> Task:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.rand(64, 6)
        y = (x[:, :3].sum(1) > x[:, 3:].sum(1)).long() + (x.prod(1) > 0.01).long()
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    model.eval().requires_grad_(False)
    return Task(model, x, y)


def rugged(z: Tensor) -> Tensor:
    """A gain with many local maxima, on which the last iterate is rarely the best."""
    flat = z.reshape(len(z), -1)
    return (torch.sin(40 * flat) + torch.cos(25 * flat.roll(1, 1) * flat)).sum(1)


def linear(seed: int, batch: int = 3, n: int = 5) -> tuple[nn.Linear, Tensor, Tensor, Tensor]:
    """A two-class linear model in float64, inputs well inside the box, labels, and w of each margin `[B, n]`."""
    rng = torch.Generator().manual_seed(seed)
    model = nn.Linear(n, 2).double().requires_grad_(False)
    model.weight.copy_(torch.randn((2, n), generator=rng))
    model.bias.copy_(torch.randn(2, generator=rng))
    x = 0.4 + 0.2 * torch.rand((batch, n), generator=rng, dtype=torch.float64)
    y = torch.randint(0, 2, (batch,), generator=rng)
    return model, x, y, model.weight[1 - y] - model.weight[y]


# On a linear model the maximum is known


@given(st.integers(0, 1000), st.sampled_from([(Linf, 1.0), (L2, 2.0), (L1, INF)]), st.booleans())
def test_margin_of_a_linear_model_rises_by_eps_times_the_dual_norm(
    seed: int, kind_and_dual: tuple[Any, float], random_start: bool
) -> None:
    """max over ||z - x||_p <= eps of w^T z + b is w^T x + b + eps ||w||_q, with 1/p + 1/q = 1, where the box is far."""
    kind, dual = kind_and_dual
    model, x, y, w = linear(seed)
    threat = L1(0.3, sparsity=1.0) if kind is L1 else kind(0.3)
    gain = ClassifierGain(model, y, margin)
    expected = gain(x) + 0.3 * norm(w, dual)
    torch.testing.assert_close(gain(fgsm(gain, x, threat)), expected, rtol=0, atol=1e-9)
    rng = torch.Generator().manual_seed(seed)
    z = pgd(gain, x, threat, steps=50, step_size=0.3, random_start=random_start, rng=rng)
    assert (gain(z) <= expected + 1e-9).all()
    torch.testing.assert_close(gain(z), expected, rtol=0, atol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([(Linf, INF), (L2, 2.0), (L1, 1.0)]))
def test_margin_of_a_linear_model_reaches_the_maximum_of_its_program_where_the_box_is_active(
    highest: Callable[..., Tensor], seed: int, kind_and_p: tuple[Any, float]
) -> None:
    kind, p = kind_and_p
    model, x, y, w = linear(seed)
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(x.shape, generator=rng, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=rng) < 0.4, x.round(), x)
    threat = L1(0.7, sparsity=1.0) if kind is L1 else kind(0.7)
    gain = ClassifierGain(model, y, margin)
    best = highest(w, x, [(p, 0.7)], 0.0, 1.0)
    expected = best + (gain(x) - (w * x).sum(1))
    z = pgd(gain, x, threat, steps=300, step_size=0.02, random_start=False)
    assert (gain(z) <= expected + 1e-6).all()
    torch.testing.assert_close(gain(z), expected, rtol=0, atol={Linf: 1e-6, L2: 1e-4, L1: 2e-2}[kind])


# What holds on any gain


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("threat", THREATS, ids=lambda t: type(t).__name__)
def test_attacks_stay_inside_the_threat(threat: Threat, early_stop: bool, task: Task, rng: torch.Generator) -> None:
    gain = task.gain()
    attacks: list[Attack] = [
        partial(fgsm, random_start=False), partial(fgsm, random_start=True), partial(fgsm, step_size=10.0),
        partial(pgd, steps=5, early_stop=early_stop), partial(pgd, steps=3, step_size=50.0, random_start=False),
        partial(pgd, steps=3, restarts=3, early_stop=early_stop), each_member(partial(pgd, steps=3)),
        best_of(partial(fgsm), partial(pgd, steps=2), early_stop=early_stop),
    ]  # fmt: skip
    for attack in attacks:
        z = attack(gain, task.x, threat, rng=rng)
        assert threat.contains(z, task.x).all()
        assert z.shape == task.x.shape
        assert not z.requires_grad
        if isinstance(threat, Masked):
            closed = ~threat.mask.bool()[0]
            assert torch.equal(z[:, closed], task.x[:, closed])


@pytest.mark.filterwarnings("ignore::sparring.core.pgd.ShortAttackWarning")
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([0.02, 0.1, 0.5]))
def test_pgd_returns_the_best_of_the_iterates_it_visited(seed: int, random_start: bool, step_size: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand((4, 3), generator=rng)
    gain = Recorded(rugged)
    z = pgd(gain, x, Linf(0.3), steps=7, step_size=step_size, random_start=random_start, rng=rng)
    assert len(gain.seen) == 8  # the start, and one per step
    values = torch.stack([value for _, value in gain.seen])
    assert torch.equal(rugged(z), values.amax(0))
    visited = torch.stack([point for point, _ in gain.seen])
    assert torch.equal(z, visited[values.argmax(0), torch.arange(4)])


def test_pgd_keeps_a_better_iterate_than_its_last() -> None:
    """The premise of the test above: on this gain the last iterate is often not the best."""
    x = torch.rand((64, 3), generator=torch.Generator().manual_seed(0))
    gain = Recorded(rugged)
    z = pgd(gain, x, Linf(0.3), steps=7, step_size=0.3, random_start=False)
    assert (rugged(z) > gain.seen[-1][1]).sum() > 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_of_what_is_returned_was_seen_exactly(task: Task, dtype: torch.dtype, rng: torch.Generator) -> None:
    """Also with early stopping and restarts, whose bookkeeping holds values next to points; in float64 a record kept
    in float32 would let a lower value win."""
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype).requires_grad_(False)
    for layer, seed in ((model[0], 1), (model[2], 2)):
        assert isinstance(layer, nn.Linear)
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(seed)))
        layer.bias.zero_()
    x = task.x.to(dtype)
    y = model(x).argmax(1)

    @dataclass
    class Judged:
        rows: Tensor
        best: Tensor
        inner: ClassifierGain

        def __call__(self, z: Tensor) -> Tensor:
            return self.inner(z)

        def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
            value, lost = self.inner.judge(z)
            self.best[self.rows] = torch.maximum(self.best[self.rows], value.detach())
            return value, lost

        def take(self, rows: Tensor) -> "Judged":
            return Judged(self.rows[rows], self.best, self.inner.take(rows))

    gain = Judged(torch.arange(len(x)), torch.full((len(x),), -INF, dtype=dtype), ClassifierGain(model, y, margin))
    z = pgd(gain, x, Linf(1e-5), steps=40, step_size=5e-7, early_stop=True, rng=rng)
    assert not gain.inner.judge(z)[1].any()  # nothing was lost, so the best value must be the returned one's
    torch.testing.assert_close(gain.inner(z), gain.best, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.filterwarnings("ignore::sparring.core.pgd.ShortAttackWarning")
def test_more_restarts_are_never_weaker(task: Task, seeded: Callable[..., torch.Generator]) -> None:
    """With the same leading draws, in pgd's own restarts and in the combinator, which are the same."""
    gain = task.gain(cross_entropy)
    before = torch.full((len(task.x),), -INF)
    one: Attack = partial(pgd, steps=2, step_size=0.03)
    for count in (1, 2, 4, 8):
        z = pgd(gain, task.x, Linf(0.1), steps=2, step_size=0.03, restarts=count, rng=seeded(3))
        assert (gain(z) >= before).all()
        before = gain(z)
        assert torch.equal(z, restarts(one, count)(gain, task.x, Linf(0.1), rng=seeded(3)))
    assert (before > gain(one(gain, task.x, Linf(0.1), rng=seeded(3)))).any()


def test_best_of_is_the_maximum_of_its_members(task: Task) -> None:
    gain = task.gain()
    attacks: list[Attack] = [
        fgsm, partial(pgd, steps=3, random_start=False), partial(pgd, steps=3, step_size=0.1, random_start=False),
    ]  # fmt: skip
    each = torch.stack([gain(attack(gain, task.x, Linf(0.1))) for attack in attacks])
    together = gain(best_of(*attacks)(gain, task.x, Linf(0.1)))
    assert torch.equal(together, each.amax(0))
    assert len(each.argmax(0).unique()) > 1  # no member wins everywhere
    stopped = gain(best_of(*attacks, early_stop=True)(gain, task.x, Linf(0.1)))
    assert torch.equal(stopped > 0, together > 0)
    torch.testing.assert_close(stopped[together <= 0], together[together <= 0])
    with pytest.raises(ValueError, match="best_of needs at least one attack"):
        best_of()


def test_each_member_is_at_least_as_strong_as_each_member(task: Task) -> None:
    gain = task.gain()
    attack: Attack = partial(pgd, steps=10, random_start=False)
    threat = Union(Linf(0.05), L2(0.12), L1(0.3, sparsity=0.5))
    each = torch.stack([gain(attack(gain, task.x, member)) for member in threat.members])
    z = each_member(attack)(gain, task.x, threat)
    assert torch.equal(gain(z), each.amax(0))
    assert threat.contains(z, task.x).all()
    assert torch.equal(each_member(attack)(gain, task.x, Linf(0.05)), attack(gain, task.x, Linf(0.05)))


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: type(t).__name__)
def test_attacks_repeat_with_their_generator_and_never_touch_the_global_one(
    threat: Threat, task: Task, seeded: Callable[..., torch.Generator]
) -> None:
    before = torch.random.get_rng_state()
    for attack in (partial(pgd, steps=2), partial(fgsm, random_start=True), partial(pgd, steps=2, restarts=2)):
        first, second, other = (attack(task.gain(), task.x, threat, rng=seeded(seed)) for seed in (5, 5, 6))
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_pgd_is_the_bare_sign_loop_bit_for_bit(task: Task) -> None:
    x, y, eps, steps = task.x, task.y, 0.1, 10
    best, record = x.clone(), F.cross_entropy(task.model(x), y, reduction="none")
    z = x.clone()
    trajectory = [z]
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(task.model(z), y, reduction="sum"), z)
        z = (z.detach() + 2.5 * eps / steps * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
        trajectory.append(z)
        value = F.cross_entropy(task.model(z), y, reduction="none")
        best[value > record], record = z[value > record], value.maximum(record)
    gain = Recorded(task.gain(cross_entropy))
    got = pgd(gain, x, Linf(eps), steps=steps, random_start=False)
    assert torch.equal(got, best)
    assert all(torch.equal(mine, theirs) for (mine, _), theirs in zip(gain.seen, trajectory, strict=True))


def test_fgsm_is_the_formula(task: Task) -> None:
    x = task.x.clone().requires_grad_(True)
    F.cross_entropy(task.model(x), task.y).backward()
    assert x.grad is not None
    by_hand = (task.x + 0.1 * x.grad.sign()).clamp(0, 1)
    z = fgsm(task.gain(cross_entropy), task.x, Linf(0.1))
    torch.testing.assert_close(z, by_hand, rtol=0, atol=1e-7)


def test_the_default_step_crosses_the_ball(rng: torch.Generator) -> None:
    """2.5 eps / steps reaches the far corner from any start; after a random start fgsm steps 1.25 eps."""
    x = torch.full((20, 3), 0.5)
    for steps in (1, 2, 10):
        z = pgd(lambda z: z.sum(1), x, Linf(0.1), steps=max(steps, 2), rng=rng)
        torch.testing.assert_close(z, x + 0.1)
    start = Linf(0.1).sample(x, torch.Generator().manual_seed(1))
    z = fgsm(lambda z: z.sum(1), x, Linf(0.1), random_start=True, rng=torch.Generator().manual_seed(1))
    torch.testing.assert_close(z, (start + 0.125).clamp(max=0.6))


# Early stopping


@pytest.mark.parametrize("threat", [Linf(0.04), L2(0.08), Masked(Linf(0.06), torch.tensor([[1, 1, 1, 1, 0, 1]]))])
@pytest.mark.parametrize("count", [1, 3])
def test_early_stop_loses_at_least_the_same_examples_for_less_work(threat: Threat, count: int, task: Task) -> None:
    plain, stopping = RecordedJudge(task.gain()), RecordedJudge(task.gain())
    attack = partial(pgd, steps=10, random_start=False, restarts=count)
    lost = task.gain().judge(attack(plain, task.x, threat))[1]
    z = attack(stopping, task.x, threat, early_stop=True)
    lost_early = task.gain().judge(z)[1]
    assert threat.contains(z, task.x).all()
    assert (lost_early >= lost).all()
    assert 0.1 < lost.double().mean() < 0.9  # neither outcome is trivial
    assert sum(stopping.sizes) < sum(plain.sizes)
    assert stopping.sizes[: 11 if count == 1 else 1] == sorted(stopping.sizes[: 11 if count == 1 else 1], reverse=True)
    standing = ~lost_early
    torch.testing.assert_close(task.gain()(z)[standing], task.gain()(attack(plain, task.x, threat))[standing])


def test_early_stop_narrows_a_mask_per_example(task: Task, rng: torch.Generator) -> None:
    mask = torch.rand(task.x.shape, generator=rng) < 0.6
    threat = Masked(Linf(0.1), mask)
    for attack in (partial(pgd, steps=6, early_stop=True), partial(pgd, steps=6, restarts=3, early_stop=True)):
        z = attack(task.gain(), task.x, threat, rng=rng)
        assert torch.equal(z[~mask], task.x[~mask])
        assert threat.contains(z, task.x).all()


def test_early_stop_counts_rows() -> None:
    """Lost at the start: one forward pass, nothing else. Never lost: every row at every step."""
    model = nn.Linear(2, 2).requires_grad_(False)
    model.weight.copy_(torch.eye(2))
    model.bias.zero_()
    x = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
    all_lost = RecordedJudge(ClassifierGain(model, torch.tensor([1, 0]), margin))
    assert torch.equal(pgd(all_lost, x, Linf(0.1), steps=5, random_start=False, early_stop=True), x)
    assert all_lost.sizes == [2]
    none_lost = RecordedJudge(ClassifierGain(model, torch.tensor([0, 1]), margin))
    pgd(none_lost, x, Linf(0.1), steps=5, random_start=False, early_stop=True)
    assert none_lost.sizes == [2] * 6
    one_lost = RecordedJudge(ClassifierGain(model, torch.tensor([0, 0]), margin))
    pgd(one_lost, x, Linf(0.1), steps=5, random_start=False, early_stop=True)
    assert one_lost.sizes == [2] + [1] * 5
    chained = RecordedJudge(ClassifierGain(model, torch.tensor([0, 0]), margin))
    best_of(partial(fgsm), partial(fgsm), early_stop=True)(chained, x, Linf(0.1))
    assert chained.sizes == [2, 2, 1, 1]


@dataclass(frozen=True)
class Verdict:
    """A loss and a verdict that disagree: the value is z itself, yet an example is lost only between 0.65 and 0.75."""

    def __call__(self, z: Tensor) -> Tensor:
        return self.judge(z)[0]

    def judge(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z.sum(1), ((z > 0.65) & (z < 0.75)).all(1)

    def take(self, rows: Tensor) -> "Verdict":
        return self


def test_an_example_keeps_the_point_that_lost_it_whatever_its_value() -> None:
    def to(place: float) -> Attack:
        return lambda gain, x, threat, /, *, rng=None: torch.full_like(x, place)

    x = torch.full((2, 1), 0.5)
    z = best_of(to(0.8), to(0.7), to(0.9), early_stop=True)(Verdict(), x, Linf(0.5))
    assert torch.equal(z, torch.full_like(x, 0.7))


def test_early_stop_needs_a_gain_that_judges(task: Task) -> None:
    blind: Any = lambda z: rugged(z)  # noqa: E731
    for attack in (
        partial(pgd, early_stop=True),
        partial(pgd, early_stop=True, restarts=2),
        best_of(fgsm, early_stop=True),
    ):
        with pytest.raises(TypeError, match=r"early_stop=True.*needs a gain with 'judge' and 'take'.*Got function"):
            attack(blind, task.x, Linf(0.1))


# Dead starts


@pytest.fixture(scope="module")
def conv() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
        x = torch.rand(6, 1, 6, 6)
    return model.eval().requires_grad_(False), x


def test_kl_at_its_own_reference_is_refused_and_elsewhere_attacked(
    conv: tuple[nn.Module, Tensor], rng: torch.Generator
) -> None:
    model, x = conv
    reference = model(x)
    gain = lambda z: kl(model(z), reference)  # noqa: E731
    for count in (1, 2):
        with pytest.raises(DeadStartError, match="needs random_start=True"):
            pgd(gain, x, Linf(0.1), random_start=False, restarts=count)
    z = pgd(gain, x, Linf(0.1), random_start=True, rng=rng)
    assert (gain(z) > 1e-4).all()


def test_a_saturated_softmax_is_refused_and_its_margin_attacked(conv: tuple[nn.Module, Tensor]) -> None:
    model, x = conv
    y = model(x).argmax(1)
    saturated = ClassifierGain(nn.Sequential(model, Scale(1e6)), y, cross_entropy)
    for early_stop in (False, True):
        with pytest.raises(DeadStartError, match="margin payoff"):
            pgd(saturated, x, Linf(1e-3), random_start=False, early_stop=early_stop)
    gain = ClassifierGain(saturated.model, y, margin)
    assert (gain(pgd(gain, x, Linf(1e-3), random_start=False)) > gain(x)).all()


def test_one_living_example_keeps_the_batch(conv: tuple[nn.Module, Tensor]) -> None:
    model, x = conv
    scale = torch.tensor([1e6] * 5 + [1.0])[:, None]
    y = model(x).argmax(1)
    gain = lambda z: cross_entropy(model(z) * scale, y)  # noqa: E731
    assert gain(pgd(gain, x, Linf(0.1), random_start=False))[5] > gain(x)[5]


def test_a_restart_may_find_what_is_left_saturated() -> None:
    """The first run was alive on the batch; that the examples it leaves standing are dead is no news."""
    model = nn.Linear(2, 2).requires_grad_(False)
    model.weight.copy_(50 * torch.eye(2))
    model.bias.zero_()
    gain = ClassifierGain(model, torch.tensor([0, 0]), cross_entropy)
    x = torch.tensor([[0.52, 0.48], [1.0, 0.0]])
    z = pgd(gain, x, Linf(0.1), steps=3, random_start=False, restarts=3, early_stop=True)
    assert gain.judge(z)[1].tolist() == [True, False]


def test_half_precision_is_not_mistaken_for_dead(rng: torch.Generator) -> None:
    """A gradient of 0.02 is below eight bfloat16 epsilons of 1, and is an ordinary gradient all the same."""
    x = torch.full((2, 3), 0.5, dtype=torch.bfloat16)
    z = pgd(lambda z: 0.02 * z.float().sum(1), x, Linf(0.1), random_start=False)
    assert (z > x).all()


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


# Arguments


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "3"])
def test_steps_and_restarts_out_of_range_are_refused_by_name(steps: Any) -> None:
    x = torch.full((1, 2), 0.5)
    with pytest.raises(ValueError, match=rf"'steps' parameter must be an int .*Got {steps!r} instead"):
        pgd(rugged, x, Linf(0.1), steps=steps)
    with pytest.raises(ValueError, match=rf"'restarts' parameter must be an int .*Got {steps!r} instead"):
        pgd(rugged, x, Linf(0.1), restarts=steps)
    with pytest.raises(ValueError, match=rf"'count' parameter must be an int .*Got {steps!r} instead"):
        restarts(fgsm, steps)


@pytest.mark.parametrize("step_size", [0, -0.1, math.nan, INF, True, "0.1"])
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_step_sizes_out_of_range_are_refused_by_name(step_size: Any, attack: Any) -> None:
    with pytest.raises(ValueError, match=rf"'step_size' parameter must be a number .*Got {step_size!r} instead"):
        attack(rugged, torch.full((1, 2), 0.5), Linf(0.1), step_size=step_size)


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_integer_inputs_are_refused(attack: Any) -> None:
    with pytest.raises(TypeError, match=r"floating-point tensor in input units. Got torch.uint8"):
        attack(rugged, torch.zeros((1, 2), dtype=torch.uint8), Linf(0.1))


def test_an_empty_batch_is_attacked_for_free(task: Task) -> None:
    x, gain = task.x[:0], ClassifierGain(task.model, task.y[:0], margin)
    one: Attack = partial(pgd, steps=2)
    attacks: list[Attack] = [
        fgsm, one, partial(pgd, restarts=2), partial(pgd, early_stop=True), best_of(one, fgsm),
        best_of(one, fgsm, early_stop=True), each_member(one),
    ]  # fmt: skip
    for attack in attacks:
        for threat in THREATS:
            assert attack(gain, x, threat).shape == x.shape


def test_attacks_detach_from_the_graph_of_x(task: Task) -> None:
    x = task.x.clone().requires_grad_(True)
    for attack in (fgsm, pgd, partial(pgd, restarts=2), best_of(partial(pgd, steps=1))):
        z = attack(task.gain(), x, Linf(0.1))
        assert not z.requires_grad
    assert x.grad is None


# Against a model in training


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [(module, module.training) for module in model.modules()],
        [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
    )


def assert_untouched(model: nn.Module, before: tuple[Any, ...]) -> None:
    state, modes, parameters = before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training == training for module, training in modes)
    assert all(p.requires_grad == wanted for p, wanted, _ in parameters)
    assert all(p.grad is grad for p, _, grad in parameters)


@pytest.fixture
def training_model() -> nn.Module:
    """Train mode, with one BatchNorm frozen by its user and one parameter that wants no gradient."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2),
        nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    model.train()
    model[5].eval()
    model[4].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, steps=2), partial(pgd, steps=2, restarts=2)])
def test_an_attacker_leaves_the_model_and_the_batch_as_found(
    training_model: nn.Module, attack: Attack, rng: torch.Generator
) -> None:
    batch = (torch.rand((4, 1, 6, 6), generator=rng), torch.tensor([0, 1, 0, 1]))
    copies = tuple(part.clone() for part in batch)
    before = snapshot(training_model)
    z = Attacker(of_model(cross_entropy), Linf(0.1), attack, rng).respond(training_model, batch)
    assert_untouched(training_model, before)
    assert all(p.grad is None for p in training_model.parameters())
    assert all(torch.equal(part, copy) for part, copy in zip(batch, copies, strict=True))
    assert Linf(0.1).contains(z, batch[0]).all()
    assert not z.requires_grad


def test_an_attacker_leaves_the_model_as_found_when_it_fails(training_model: nn.Module, rng: torch.Generator) -> None:
    before = snapshot(training_model)
    calls = []

    def payoff(model: nn.Module, z: Tensor, batch: tuple[Tensor, ...]) -> Tensor:
        calls.append(model.training)
        if len(calls) == 3:
            raise RuntimeError("half way")
        return cross_entropy(model(z), batch[1])

    batch = (torch.rand((4, 1, 6, 6), generator=rng), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(RuntimeError, match="half way"):
        Attacker(payoff, Linf(0.1), pgd, rng).respond(training_model, batch)
    assert calls == [False] * 3
    assert_untouched(training_model, before)


def test_frozen_nests_and_restores_mixed_modes(training_model: nn.Module) -> None:
    before = snapshot(training_model)
    with frozen(training_model) as outer:
        assert outer is training_model
        with frozen(training_model):
            assert not any(module.training for module in training_model.modules())
        assert not any(module.training for module in training_model.modules())
        assert not any(parameter.requires_grad for parameter in training_model.parameters())
    assert_untouched(training_model, before)
    with pytest.raises(KeyError), frozen(training_model):
        raise KeyError
    assert_untouched(training_model, before)


def test_frozen_touches_no_gradient_that_was_there(training_model: nn.Module) -> None:
    for parameter in training_model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    before = snapshot(training_model)
    with frozen(training_model):
        x = torch.rand(2, 1, 6, 6, requires_grad=True)
        training_model(x).sum().backward()
    assert_untouched(training_model, before)
    assert all((p.grad == 1).all() for p in training_model.parameters() if p.requires_grad)


@pytest.mark.parametrize("early_stop", [False, True])
def test_attacks_make_no_parameter_gradients_even_on_a_model_nobody_froze(
    early_stop: bool, rng: torch.Generator
) -> None:
    model = nn.Linear(4, 3)
    x = torch.rand((5, 4), generator=rng)
    gain = ClassifierGain(model, model(x).argmax(1), cross_entropy)
    for attack in (fgsm, partial(pgd, steps=2, early_stop=early_stop)):
        assert not attack(gain, x, Linf(0.1), rng=rng).requires_grad
    assert all(p.grad is None for p in model.parameters())
