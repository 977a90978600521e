"""The players: `play` against hand-written loops, bit for bit, and what each player promises."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.game import Adversary, Batch, Game, play
from sparring.core.payoff import cross_entropy, margin, of_model
from sparring.core.pgd import pgd
from sparring.core.players import Attacker, Critic, Curriculum, Descent, Fixed, Joint, Mixture, Nature
from sparring.core.schedule import Progress, ramp
from sparring.core.threat import Linf


def net(seed: int = 0, *, dropout: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5 if dropout else 0.0), nn.Linear(16, 3)
        )


def batches(count: int = 6, size: int = 8) -> Iterator[Batch]:
    rng = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.rand((size, 6), generator=rng)
        yield x, torch.randint(0, 3, (size,), generator=rng)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, mine), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


# play


def test_play_against_nature_is_the_training_loop_bit_for_bit() -> None:
    by_hand = net()
    optimizer = sgd(by_hand)
    losses = []
    for x, y in batches():
        by_hand.train()
        loss = F.cross_entropy(by_hand(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    model = net()
    game = Game(Descent(model, sgd(model), of_model(cross_entropy)), Nature(), of_model(cross_entropy))
    metrics = list(play(game, batches()))
    assert_same(model, by_hand)
    torch.testing.assert_close(torch.stack([m["loss"] for m in metrics]), torch.stack(losses), rtol=1e-6, atol=0)
    assert not any(m["loss"].requires_grad for m in metrics)


def test_play_against_pgd_is_adversarial_training_bit_for_bit() -> None:
    """Madry et al. as anyone would write it, keeping the best iterate: train-mode descent, eval-mode ascent."""
    eps, steps = 0.1, 5
    by_hand = net()
    optimizer = sgd(by_hand)
    for x, y in batches():
        by_hand.eval()
        z = best = x
        record = torch.full((len(x),), -torch.inf)
        for _ in range(steps):
            z = z.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(by_hand(z), y, reduction="sum"), z)
            z = (z.detach() + 2.5 * eps / steps * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
            with torch.no_grad():
                value = F.cross_entropy(by_hand(z), y, reduction="none")
            best = torch.where((value > record)[:, None], z, best)
            record = value.maximum(record)
        by_hand.train()
        optimizer.zero_grad()
        F.cross_entropy(by_hand(best), y).backward()
        optimizer.step()
    model, payoff = net(), of_model(cross_entropy)
    attacker = Attacker(payoff, Linf(eps), partial(pgd, steps=steps, random_start=False))
    list(play(Game(Descent(model, sgd(model), payoff), attacker, payoff), batches()))
    assert_same(model, by_hand)


def test_play_is_lazy_and_alternates_adversary_and_learner() -> None:
    told: list[str] = []

    class Log:
        model = nn.Identity()

        def respond(self, model: nn.Module, batch: Batch) -> str:
            assert model is self.model
            told.append("respond")
            return "move"

        def update(self, move: str, batch: Batch) -> dict[str, Tensor]:
            assert move == "move"
            told.append("update")
            return {}

    rounds = play(Game(Log(), Log(), of_model(margin)), batches(3))
    assert told == []
    next(rounds)
    assert told == ["respond", "update"]
    list(rounds)
    assert told == ["respond", "update"] * 3


# Descent


def test_descent_calls_its_hooks_in_order() -> None:
    model, told = net(), []

    class Told(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            told.append("zero_grad")
            super().zero_grad(set_to_none)

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            told.append("step")
            super().step()

    def backward(loss: Tensor) -> None:
        assert loss.shape == ()
        told.append("backward")
        loss.backward()

    def clip() -> None:
        told.append("clip")
        assert all(p.grad is not None for p in model.parameters())

    def objective(model: nn.Module, move: Any, batch: Batch) -> Tensor:
        told.append("objective")
        assert model.training
        return cross_entropy(model(move), batch[1])

    learner = Descent(model.eval(), Told(model.parameters(), lr=0.1), objective, backward=backward, clip=clip)
    x, y = next(batches())
    learner.update(x, (x, y))
    assert [t for t in told if t != "zero_grad"] == ["objective", "backward", "clip", "step"]
    assert told.index("zero_grad") < told.index("backward")


def test_descent_steps_on_the_mean_of_what_backward_saw() -> None:
    """A backward that scales the loss by zero leaves plain SGD where it was; the reported loss is unscaled."""
    model = nn.Linear(6, 3)
    before = copy.deepcopy(model)
    learner = Descent(model, torch.optim.SGD(model.parameters(), lr=1.0), of_model(cross_entropy),
                      backward=lambda loss: (0 * loss).backward())  # fmt: skip
    x, y = next(batches())
    loss = learner.update(x, (x, y))["loss"]
    assert_same(model, before)
    torch.testing.assert_close(loss, F.cross_entropy(before(x), y).detach())


# Critic


class Point(nn.Module):
    """A player of a scalar game: its parameter is its strategy."""

    def __init__(self, *value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))


def saddle(model: Any, network: Any, batch: Batch) -> Tensor:
    """a . M b + |a|^2 / 2 - |b|^2 / 2 for each M of the batch: the learner's a descends, the critic's b ascends."""
    a, b = model.value, network.value
    return torch.einsum("i,nij,j->n", a, batch[0], b) + 0.5 * a.square().sum() - 0.5 * b.square().sum()


@pytest.mark.parametrize("steps", [1, 3])
def test_critic_with_sgd_is_alternating_descent_ascent_bit_for_bit(
    steps: int, seeded: Callable[..., torch.Generator]
) -> None:
    rng = seeded(0)
    data = [(torch.randn((4, 2, 2), generator=rng, dtype=torch.float64),) for _ in range(20)]
    learner, critic = Point(1.0, -2.0), Point(0.5, 1.5)
    a, b = learner.value.detach().clone(), critic.value.detach().clone()
    for (m,) in data:
        for _ in range(steps):
            at = b.clone().requires_grad_(True)
            value = torch.einsum("i,nij,j->n", a, m, at) + 0.5 * a.square().sum() - 0.5 * at.square().sum()
            b = b.add(torch.autograd.grad(value.mean(), at)[0], alpha=0.1)
        at = a.clone().requires_grad_(True)
        value = torch.einsum("i,nij,j->n", at, m, b) + 0.5 * at.square().sum() - 0.5 * b.square().sum()
        a = a.add(torch.autograd.grad(value.mean(), at)[0], alpha=-0.2)
    game = Game(
        Descent(learner, torch.optim.SGD(learner.parameters(), lr=0.2), saddle),
        Critic(critic, torch.optim.SGD(critic.parameters(), lr=0.1), saddle, steps=steps),
        saddle,
    )
    list(play(game, data))
    assert torch.equal(learner.value, a)
    assert torch.equal(critic.value, b)


def test_descent_ascent_on_a_strongly_convex_concave_game_finds_its_saddle() -> None:
    learner, critic = Point(1.0, -2.0), Point(0.5, 1.5)
    m = torch.tensor([[[1.0, 2.0], [-1.0, 0.5]]], dtype=torch.float64)
    game = Game(
        Descent(learner, torch.optim.SGD(learner.parameters(), lr=0.1), saddle),
        Critic(critic, torch.optim.SGD(critic.parameters(), lr=0.1), saddle),
        saddle,
    )
    list(play(game, [(m,)] * 400))
    assert torch.cat([learner.value, critic.value]).abs().max() < 1e-6


def test_critic_holds_no_gradient_of_the_learner_and_the_learner_none_of_the_critic() -> None:
    learner, network = Point(1.0, -2.0), Point(0.5, 1.5)
    m = torch.eye(2, dtype=torch.float64)[None]
    critic = Critic(network, torch.optim.SGD(network.parameters(), lr=0.1), saddle)
    assert not network.value.requires_grad
    move = critic.respond(learner, (m,))
    assert move is network
    assert not network.value.requires_grad
    assert learner.value.requires_grad
    assert learner.value.grad is None
    of_its_own = network.value.grad
    assert of_its_own is not None
    of_its_own = of_its_own.clone()
    saddle(learner, move, (m,)).mean().backward()
    assert torch.equal(network.value.grad, of_its_own)
    assert learner.value.grad is not None


def test_critic_uses_its_backward_and_trains_against_the_model_in_eval_mode() -> None:
    model, told = net(dropout=True).train(), []

    def payoff(model: nn.Module, network: nn.Module, batch: Batch) -> Tensor:
        told.append((model.training, network.training))
        assert all(p.requires_grad for p in network.parameters())
        assert not any(p.requires_grad for p in model.parameters())
        return network(model(batch[0])).squeeze(1)

    def backward(loss: Tensor) -> None:
        told.append("backward")
        loss.backward()

    network = nn.Linear(3, 1)
    buffers = {name: value.clone() for name, value in model.state_dict().items()}
    critic = Critic(network, torch.optim.SGD(network.parameters(), lr=0.1), payoff, steps=2, backward=backward)
    before = payoff_value(model, network)
    critic.respond(model, next(batches()))
    assert told == [(False, True), "backward"] * 2
    assert model.training
    assert all(torch.equal(value, buffers[name]) for name, value in model.state_dict().items())
    assert payoff_value(model, network) > before  # it ascends


def payoff_value(model: nn.Module, network: nn.Module) -> float:
    frozen_copy = copy.deepcopy(model).eval()
    return network(frozen_copy(next(batches())[0])).mean().item()


def test_gradient_reversal_is_simultaneous_descent_ascent() -> None:
    """Ganin & Lempitsky's reversal layer trains both players from one backward pass at the old (a, b). A critic's step
    computed first and a learner's step that still sees the old critic give the same numbers."""

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, value: Tensor) -> Tensor:
            return value.view_as(value)

        @staticmethod
        def backward(_: Any, *gradient: Tensor) -> Tensor:
            return -gradient[0]

    rng = torch.Generator().manual_seed(0)
    data = [(torch.randn((4, 2, 2), generator=rng, dtype=torch.float64),) for _ in range(10)]
    a, b = Point(1.0, -2.0), Point(0.5, 1.5)
    together = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=0.1)
    for batch in data:
        reversed_b = Point(0.0, 0.0)
        del reversed_b.value
        reversed_b.value = Reverse.apply(b.value)
        together.zero_grad()
        saddle(a, reversed_b, batch).mean().backward()
        together.step()

    learner, critic = Point(1.0, -2.0), Point(0.5, 1.5)
    player = Critic(critic, torch.optim.SGD(critic.parameters(), lr=0.1), saddle)
    descent = Descent(learner, torch.optim.SGD(learner.parameters(), lr=0.1), saddle)
    for batch in data:
        old = copy.deepcopy(critic)
        player.respond(learner, batch)
        descent.update(old, batch)
    assert torch.equal(learner.value, a.value)
    assert torch.equal(critic.value, b.value)


# Mixture and the small ones


@dataclass
class Shift:
    """A deterministic adversary that adds one, and remembers what it was asked."""

    asked: list[Batch] = field(default_factory=list)

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        self.asked.append(batch)
        return batch[0] + 1


@pytest.mark.parametrize("share", [0.0, 0.125, 0.25, 0.5, 0.9, 1.0])
def test_mixture_attacks_an_exact_share_and_only_that(share: float, rng: torch.Generator) -> None:
    x, y = next(batches(size=40))
    inner = Shift()
    z = Mixture(inner, share, rng).respond(nn.Identity(), (x, y))
    count = round(share * 40)
    moved = (z != x).all(1)
    assert moved.sum() == count
    assert torch.equal(z, torch.where(moved[:, None], x + 1, x))
    assert sum(len(batch[0]) for batch in inner.asked) == count
    if 0 < count < 40:
        ((asked_x, asked_y),) = inner.asked
        labels = {tuple(row): label for row, label in zip(x.tolist(), y.tolist(), strict=True)}
        assert all(labels[tuple(row)] == label for row, label in zip(asked_x.tolist(), asked_y.tolist(), strict=True))


def test_mixture_of_nothing_is_nature_and_of_all_is_the_attack(rng: torch.Generator) -> None:
    x, y = next(batches())
    attacker = Attacker(of_model(cross_entropy), Linf(0.1), partial(pgd, steps=3, random_start=False))
    model = net()
    assert torch.equal(Mixture(attacker, 0.0, rng).respond(model, (x, y)), Nature().respond(model, (x, y)))
    torch.testing.assert_close(
        Mixture(attacker, 1.0, rng).respond(model, (x, y)), attacker.respond(model, (x, y)), rtol=0, atol=1e-6
    )


def test_mixture_chooses_at_random_and_leaves_the_batch(seeded: Callable[..., torch.Generator]) -> None:
    x, y = next(batches(size=20))
    before = x.clone()
    state = torch.random.get_rng_state()
    chosen = [(Mixture(Shift(), 0.5, seeded(s)).respond(nn.Identity(), (x, y)) != x).all(1) for s in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_mixture_refuses_a_share_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match=r"'share' parameter must be a number in the range \[0, 1\]"):
        Mixture(Nature(), share)


def test_nature_fixed_and_joint() -> None:
    batch = next(batches())
    move = object()
    assert Nature().respond(nn.Identity(), batch) is batch[0]
    assert Nature(lambda b: b[1]).respond(nn.Identity(), batch) is batch[1]
    assert Fixed(move).respond(nn.Identity(), batch) is move
    assert Joint((Nature(), Fixed(move))).respond(nn.Identity(), batch) == (batch[0], move)


def test_curriculum_is_the_adversary_of_its_progress() -> None:
    x, y = next(batches())
    x = 0.3 + 0.4 * x
    progress, model = Progress(0.0), net()

    def at(now: float) -> Adversary:
        return Attacker(of_model(margin), Linf(0.2).scaled(ramp(now, 0.5)), partial(pgd, steps=3, random_start=False))

    curriculum = Curriculum(at, progress)
    for now, eps in ((0.0, 0.02), (0.25, 0.11), (0.5, 0.2), (1.0, 0.2)):
        progress.value = now
        z = curriculum.respond(model, (x, y))
        assert torch.equal(z, at(now).respond(model, (x, y)))
        assert (z - x).abs().max().item() == pytest.approx(eps, abs=1e-6)


def test_an_attacker_ascends_its_payoff_from_its_start() -> None:
    x, y = next(batches())
    seen: list[Tensor] = []

    def attack(gain: Any, start: Tensor, threat: Any, /, *, rng: Any = None) -> Tensor:
        seen.append(start)
        assert threat == Linf(0.1)
        return start + gain(start).detach()[:, None].sign() * 0

    attacker = Attacker(of_model(margin), Linf(0.1), attack, start=lambda batch: batch[0] / 2)
    z = attacker.respond(net(), (x, y))
    assert torch.equal(seen[0], x / 2)
    assert torch.equal(z, x / 2)
