"""TRADES and MART against the authors' formulae written out, and at the limits where they must be something else."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.game import Game, play
from sparring.core.payoff import cross_entropy, kl, of_model
from sparring.core.players import Attacker, Curriculum, Descent
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.systems import mart, pgd_at, standard, trades

CLOSE = {"rtol": 0, "atol": 1e-6}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(12, 6, generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (12,), generator=rng)


def seeded() -> Tools:
    return Tools(rng=torch.Generator().manual_seed(3))


def make(module: Any, config: Any, model: nn.Module) -> Game:
    return module.game(config, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), tools=seeded())


def weights_after(module: Any, config: Any, rounds: int = 5) -> list[Tensor]:
    model = network()
    for _ in play(make(module, config, model), [batch()] * rounds):
        pass
    return [p.detach().clone() for p in model.parameters()]


def step(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """One plain step of length 0.1 down the gradient of a loss."""
    parameters = list(model.parameters())
    return [p.detach() - 0.1 * g for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]


def move(module: Any, config: Any) -> Tensor:
    """What the game's adversary plays in its first round."""
    model = network()
    return make(module, config, model).adversary.respond(model, batch())


@pytest.mark.parametrize("beta", [0.5, 6.0])
def test_one_step_of_trades_is_the_formula(beta: float) -> None:
    """L(f(x), y) + beta KL(p(x) || p(z)), both distributions differentiated: sum_k p_k(x) (log p_k(x) - log p_k(z))."""
    config, model, (x, y) = trades.Config(beta=beta), network(), batch()
    z = move(trades, config)
    p, q = model(x).softmax(1), model(z).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1)
    loss = -p[torch.arange(12), y].log().mean() + beta * divergence.mean()
    for got, wanted in zip(weights_after(trades, config, rounds=1), step(loss, model), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_the_gradient_of_trades_flows_through_the_clean_distribution() -> None:
    model, (x, y) = network(), batch()
    z = move(trades, trades.Config())
    loss = trades.objective(6.0)(model, z, (x, y)).mean()
    held = cross_entropy(model(x), y) + 6.0 * kl(model(z), model(x).detach())
    through = zip(step(loss, model), step(held.mean(), model), strict=True)
    assert max((a - b).abs().max().item() for a, b in through) > 1e-4


def test_trades_without_weight_is_standard_training() -> None:
    for got, wanted in zip(
        weights_after(trades, trades.Config(beta=0.0)), weights_after(standard, standard.Config()), strict=True
    ):
        assert torch.equal(got, wanted)


def test_the_adversary_of_trades_is_pgd_on_the_divergence_and_needs_no_label() -> None:
    model, (x, y) = network(), batch()
    clean = model(x).detach()
    attacked = copy.deepcopy(model)
    rng = torch.Generator().manual_seed(3)
    linf = sparring.Linf(0.15)
    z = sparring.pgd(lambda z: kl(attacked(z), clean), x, linf, steps=10, keep_best=False, rng=rng)
    assert torch.equal(move(trades, trades.Config()), z)
    other = make(trades, trades.Config(), model).adversary.respond(model, (x, (y + 1) % 4))
    assert torch.equal(other, z)
    assert not torch.equal(move(pgd_at, pgd_at.Config()), z)


def test_the_clean_logits_are_those_of_eval_mode_and_computed_once() -> None:
    calls = []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double()

        def forward(self, z: Tensor) -> Tensor:
            calls.append((self.inner[1].training, z.requires_grad))
            return self.inner(z)

    model = Counted()
    make(trades, trades.Config(steps=4), model).adversary.respond(model, batch())
    assert calls == [(False, False)] + [(False, True)] * 4


@pytest.mark.parametrize("attack", ["pgd", "fgsm"])
def test_a_start_at_the_clean_point_is_refused(attack: Any) -> None:
    with pytest.raises(ValueError, match=r"'random_start' parameter must be True.*no gradient.* Got False instead"):
        trades.Config(random_start=False, attack=attack)


def test_trades_keeps_its_reference_while_it_warms_up() -> None:
    model, progress = network(), Progress(0.0)
    game = trades.game(trades.Config(eps=0.2, eps_warmup=0.5), model=model, tools=Tools(progress=progress))
    assert isinstance(game.adversary, Curriculum)
    for value, eps in ((0.0, 0.02), (1.0, 0.2)):
        progress.value = value
        inner = game.adversary.at(value)
        assert isinstance(inner, Attacker)
        assert inner.reference is trades.clean_logits
        assert inner.threat.eps == pytest.approx(eps)
        assert sparring.Linf(eps).contains(game.adversary.respond(model, batch()), batch()[0]).all()


def authors_mart(model: nn.Module, x: Tensor, z: Tensor, y: Tensor, weight: float) -> Tensor:
    """The loss as the released code has it, small constants included; nothing detached."""
    rows = torch.arange(len(y))
    p, q = model(x).softmax(1), model(z).softmax(1)
    others = q.clone()
    others[rows, y] = -1.0
    rival = others.argmax(1)
    boosted = -q[rows, y].log() - (1.0001 - q[rows, rival] + 1e-12).log()
    divergence = (p * (p.log() - (q + 1e-12).log())).sum(1)
    return (boosted + weight * divergence * (1.0000001 - p[rows, y])).mean()


@pytest.mark.parametrize("weight", [0.5, 5.0])
def test_one_step_of_mart_is_the_authors_formula(weight: float) -> None:
    config, model, (x, y) = mart.Config(weight=weight), network(), batch()
    loss = authors_mart(model, x, move(mart, config), y, weight)
    for got, wanted in zip(weights_after(mart, config, rounds=1), step(loss, model), strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_mart_without_weight_descends_the_boosted_cross_entropy_alone() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    adversary = make(pgd_at, pgd_at.Config(), model).adversary
    payoff = of_model(mart.boosted_cross_entropy)
    learner = Descent(model, optimizer, payoff)
    for _ in play(Game(learner, adversary, payoff), [batch()] * 5):
        pass
    for got, wanted in zip(weights_after(mart, mart.Config(weight=0.0)), model.parameters(), strict=True):
        torch.testing.assert_close(got, wanted.detach(), rtol=0, atol=1e-12)


def test_the_weight_of_mart_carries_gradient() -> None:
    """At z = x the divergence and its gradient vanish; moved off, the detached weight gives another gradient."""
    model, (x, y) = network(), batch()
    z = move(mart, mart.Config())
    whole = mart.objective(5.0)(model, z, (x, y)).mean()
    doubt = (1 - (-cross_entropy(model(x), y)).exp()).detach()
    held = mart.boosted_cross_entropy(model(z), y) + 5.0 * kl(model(z), model(x)) * doubt
    torch.testing.assert_close(whole, held.mean())
    pairs = zip(step(whole, model), step(held.mean(), model), strict=True)
    assert max((a - b).abs().max().item() for a, b in pairs) > 1e-5


def test_a_certain_and_wrong_answer_has_a_finite_loss_and_gradient() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        logits = torch.tensor([[0.0, 200.0, 0.0], [200.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
        loss = mart.boosted_cross_entropy(logits, torch.tensor([0, 0]))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        assert loss[0].item() == pytest.approx(200 - math.log(1e-4), abs=1e-3)
        assert loss[1].item() == pytest.approx(-math.log(1.0001), abs=1e-6)


@pytest.mark.parametrize("module", [trades, mart])
def test_soft_labels_that_are_certain_are_the_classes(module: Any) -> None:
    model, (x, y) = network(), batch()
    z = move(module, module.Config())
    soft = nn.functional.one_hot(y, 4).double()
    objective = module.objective(3.0)
    torch.testing.assert_close(objective(model, z, (x, soft)), objective(model, z, (x, y)))


@pytest.mark.parametrize("module", [trades, mart])
def test_soft_labels_that_are_mixed_give_a_finite_step(module: Any) -> None:
    model, (x, y) = network(), batch()
    soft = 0.7 * nn.functional.one_hot(y, 4).double() + 0.3 * nn.functional.one_hot((y + 1) % 4, 4).double()
    losses = [m["loss"].item() for m in play(make(module, module.Config(), model), [(x, soft)] * 20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [
        (trades, "beta", -1.0),
        (trades, "beta", float("nan")),
        (trades, "steps", 0),
        (trades, "threat", "l3"),
        (mart, "weight", -1.0),
        (mart, "weight", float("inf")),
        (mart, "attack", "cw"),
    ],
)
def test_a_bad_field_names_itself_its_range_and_its_value(module: Any, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        module.Config(**{field: value})


@pytest.mark.parametrize("module", [trades, mart])
def test_the_reported_payoff_is_the_cross_entropy_and_a_threat_can_be_given(module: Any) -> None:
    model, (x, y) = network(), batch()
    union = sparring.Union(sparring.Linf(0.05), sparring.L2(0.2))
    game = module.game(module.Config(), model=model, threat=union, tools=seeded())
    torch.testing.assert_close(game.payoff(model, x, (x, y)), cross_entropy(model(x), y))
    assert union.contains(game.adversary.respond(model, (x, y)), x).all()
