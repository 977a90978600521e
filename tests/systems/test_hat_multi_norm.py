"""HAT and multi-norm training against their formulae written out, their limits, and what they carry between rounds."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.game import Game, Stateful, play
from sparring.core.payoff import cross_entropy
from sparring.core.players import Curriculum
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.systems import hat, multi_norm, pgd_at, standard, trades

CLOSE = {"rtol": 0, "atol": 1e-6}
BALLS = (sparring.Linf(0.15), sparring.L2(0.5), sparring.L1(2.0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()


def batch(seed: int = 1) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(12, 6, generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (12,), generator=rng)


def make(module: Any, config: Any, model: nn.Module, **more: Any) -> Game:
    tools = Tools(rng=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return module.game(config, model=model, optimizer=optimizer, tools=tools, **more)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def weights_after(module: Any, config: Any, rounds: int = 5, **more: Any) -> list[Tensor]:
    model = network()
    for _ in play(make(module, config, model, **more), [batch()] * rounds):
        pass
    return weights(model)


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def step(loss: Tensor, model: nn.Module) -> list[Tensor]:
    """One plain step of length 0.1 down the gradient of a loss."""
    parameters = list(model.parameters())
    return [p.detach() - 0.1 * g for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True)]


def trained(labels: Tensor | None = None) -> nn.Module:
    """A standard network of another function than the model's."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 4)).double()
    model[0].bias.data = -model[0].weight.data.sum(1) / 2  # undecided at grey, so that a small move changes its mind
    if labels is not None:
        model[0].weight.data.zero_()
        model[0].bias.data.copy_(labels)
    return model


@pytest.mark.parametrize(("beta", "gamma"), [(2.5, 0.5), (1.0, 3.0)])
def test_one_step_of_hat_is_the_formula(beta: float, gamma: float) -> None:
    """CE(f(x), y) + beta KL(p(x) || p(z)) + gamma CE(f(x + 2 (z - x)), argmax g(z)), g trained beforehand."""
    config, model, (x, y), helper = hat.Config(eps=0.1, beta=beta, gamma=gamma), network(), batch(), trained()
    x = 0.2 + 0.6 * x  # so far from the box that nothing is cut
    game = make(hat, config, model, helper=helper)
    z = make(hat, config, model, helper=helper).adversary.respond(model, (x, y))
    answer = helper(z).argmax(1)
    assert (answer != y).any()
    assert (answer != helper(x).argmax(1)).any()
    p, q, far = model(x).softmax(1), model(z).softmax(1), model(x + 2 * (z - x)).softmax(1)
    rows = torch.arange(12)
    divergence = (p * (p.log() - q.log())).sum(1)
    loss = (-p[rows, y].log() + beta * divergence - gamma * far[rows, answer].log()).mean()
    expected = step(loss, model)
    game.learner.update(game.adversary.respond(model, (x, y)), (x, y))
    for got, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(got.detach(), wanted, **CLOSE)


def test_helpers_lie_twice_as_far_out_also_outside_the_box() -> None:
    x, z = torch.tensor([[0.5, 0.9, 0.05]]), torch.tensor([[0.6, 1.0, 0.0]])
    torch.testing.assert_close(hat.helpers(x, z), torch.tensor([[0.7, 1.1, -0.05]]))


@pytest.mark.parametrize("given", [True, False])
def test_hat_without_helpers_is_trades(given: bool) -> None:
    more = {"helper": trained()} if given else {}
    got = weights_after(hat, hat.Config(beta=3.0, gamma=0.0), **more)
    assert equal(got, weights_after(trades, trades.Config(beta=3.0)))


def test_hat_without_both_weights_is_standard_training_for_the_model_and_for_its_twin() -> None:
    model = network()
    game = make(hat, hat.Config(beta=0.0, gamma=0.0), model)
    for _ in play(game, [batch()] * 5):
        pass
    assert equal(weights(model), weights_after(standard, standard.Config()))
    assert equal(weights(model), weights(game.learner.standard))


def test_the_twin_trains_on_clean_inputs_whatever_the_model_does() -> None:
    model = network()
    game = make(hat, hat.Config(), model)
    assert equal(weights(model), weights(game.learner.standard))  # a copy from before any step
    for _ in play(game, [batch()] * 5):
        pass
    assert equal(weights(game.learner.standard), weights_after(standard, standard.Config()))
    assert not equal(weights(model), weights(game.learner.standard))


def test_the_twin_follows_the_learning_rate_that_an_engine_sets() -> None:
    model, rates = network(), (0.1, 0.02, 0.3)
    game = make(hat, hat.Config(), model)
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for rate in rates:
        game.learner.learner.optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = rate
        game.learner.update(game.adversary.respond(model, batch()), batch())
        optimizer.zero_grad()
        cross_entropy(plain(batch()[0]), batch()[1]).mean().backward()
        optimizer.step()
    assert equal(weights(game.learner.standard), weights(plain))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_twin_has_an_optimiser_of_the_same_kind_over_its_own_weights(kind: type[torch.optim.Optimizer]) -> None:
    model = network()
    groups = [{"params": list(model[0].parameters()), "weight_decay": 0.1}, {"params": list(model[2].parameters())}]
    optimizer = kind(groups, lr=0.01)  # type: ignore[call-arg]
    twin = hat.game(hat.Config(), model=model, optimizer=optimizer).learner.twin.optimizer
    assert type(twin) is kind
    assert [g["weight_decay"] for g in twin.param_groups] == [g["weight_decay"] for g in optimizer.param_groups]
    theirs = {id(p) for g in twin.param_groups for p in g["params"]}
    assert not theirs & {id(p) for p in model.parameters()}


def test_a_helper_that_is_given_stays_as_it_is_and_leaves_no_state() -> None:
    helper = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).double().train()
    before = copy.deepcopy(helper.state_dict())
    model = network()
    game = make(hat, hat.Config(), model, helper=helper)
    for _ in play(game, [batch()] * 3):
        pass
    assert all(torch.equal(value, before[name]) for name, value in helper.state_dict().items())
    assert helper.training
    assert all(p.grad is None and p.requires_grad for p in helper.parameters())
    assert isinstance(game.learner, Stateful)
    assert game.learner.state_dict() == {}
    game.learner.load_state_dict({})


def test_a_helper_that_always_answers_one_class_pulls_the_helpers_there() -> None:
    """With all weight on the helpers their class becomes that one, whatever y is."""
    helper = trained(labels=torch.tensor([0.0, 0.0, 9.0, 0.0]))
    model, (x, y) = network(), batch()
    game = make(hat, hat.Config(beta=0.0, gamma=100.0), model, helper=helper)
    game.learner.learner.optimizer.param_groups[0]["lr"] = 1e-3
    for _ in play(game, [(x, y)] * 60):
        pass
    z = game.adversary.respond(model, (x, y))
    assert (model(hat.helpers(x, z)).argmax(1) == 2).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_game_goes_on_as_if_it_had_not_stopped(optimizer: str) -> None:
    """The model's weights and optimiser, which the engine saves, and the learner's state are all there is."""

    def begin() -> tuple[nn.Module, torch.optim.Optimizer, Game, torch.Generator]:
        model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)).double()
        rng = torch.Generator()
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
        made = kind(model.parameters(), lr=0.01, **({"momentum": 0.9} if optimizer == "sgd" else {}))
        return model, made, hat.game(hat.Config(), model=model, optimizer=made, tools=Tools(rng=rng)), rng

    def go_on(game: Game, rng: torch.Generator, rounds: range) -> None:
        for i in rounds:
            rng.manual_seed(i)  # as the engine does: randomness is a function of the position
            for _ in play(game, [batch(i)]):
                pass

    torch.manual_seed(0)
    model, made, game, rng = begin()
    start = copy.deepcopy(model.state_dict())
    go_on(game, rng, range(4))
    assert isinstance(game.learner, Stateful)
    saved = copy.deepcopy((model.state_dict(), made.state_dict(), game.learner.state_dict()))
    go_on(game, rng, range(4, 8))
    torch.manual_seed(99)
    other, other_made, other_game, other_rng = begin()
    assert not torch.equal(next(iter(other.parameters())), next(iter(start.values())))
    other.load_state_dict(saved[0])
    other_made.load_state_dict(saved[1])
    other_game.learner.load_state_dict(saved[2])
    go_on(other_game, other_rng, range(4, 8))
    for a, b in ((model, other), (game.learner.standard, other_game.learner.standard)):
        assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def one_ball(strategy: str, **fields: Any) -> multi_norm.Config:
    return multi_norm.Config(strategy=strategy, eps_l2=0, eps_l1=0, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["max", "average", "random"])
def test_a_union_of_one_ball_is_pgd_at(strategy: str) -> None:
    assert equal(weights_after(multi_norm, one_ball(strategy)), weights_after(pgd_at, pgd_at.Config()))


@pytest.mark.parametrize("ball", BALLS, ids=["linf", "l2", "l1"])
def test_multi_steepest_descent_in_one_ball_is_pgd(ball: Any) -> None:
    model, (x, y) = network().requires_grad_(False), batch()

    def gain(z: Tensor) -> Tensor:
        return cross_entropy(model(z), y)

    ours = multi_norm.steepest(gain, x, sparring.Union(ball), steps=7, random_start=False)
    theirs = sparring.pgd(gain, x, ball, steps=7, random_start=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert torch.equal(multi_norm.steepest(gain, x, ball, steps=7, random_start=False), ours)


def test_one_step_of_multi_steepest_descent_is_the_best_of_the_balls_steps() -> None:
    model, (x, y) = network().requires_grad_(False), batch()

    def gain(z: Tensor) -> Tensor:
        return cross_entropy(model(z), y)

    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gain(z).sum(), z)
    steps = torch.stack([ball.project(x + 0.6 * ball.eps * ball.steepest(gradient, x), x) for ball in BALLS])
    values = torch.stack([gain(candidate) for candidate in steps])
    found = multi_norm.steepest(gain, x, sparring.Union(*BALLS), steps=1, share=0.6, random_start=False)
    torch.testing.assert_close(gain(found), torch.maximum(values.amax(0), gain(x)))
    assert len(set(values.argmax(0).tolist())) > 1  # no single ball decides


def test_multi_steepest_descent_is_worth_each_balls_pgd_on_the_mean() -> None:
    model, (x, y) = network().requires_grad_(False), batch()

    def gain(z: Tensor) -> Tensor:
        return cross_entropy(model(z), y)

    whole = gain(multi_norm.steepest(gain, x, sparring.Union(*BALLS), steps=20, random_start=False)).mean()
    for ball in BALLS:
        assert whole >= gain(sparring.pgd(gain, x, ball, steps=20, random_start=False)).mean() - 1e-6


@pytest.mark.parametrize("strategy", ["max", "random", "steepest"])
@pytest.mark.parametrize("random_start", [True, False])
def test_the_move_is_in_the_union(strategy: Any, random_start: bool) -> None:
    config, model, (x, y) = multi_norm.Config(strategy=strategy, random_start=random_start), network(), batch()
    z = make(multi_norm, config, model).adversary.respond(model, (x, y))
    assert multi_norm.union(config).contains(z, x).all()
    assert z.shape == x.shape


def test_max_is_at_least_every_ball_alone_on_every_example() -> None:
    model, (x, y) = network(), batch()
    game = make(multi_norm, multi_norm.Config(random_start=False), model)
    worst = game.payoff(model, game.adversary.respond(model, (x, y)), (x, y))
    attacked = copy.deepcopy(model).requires_grad_(False)
    values = [
        cross_entropy(
            model(
                sparring.pgd(
                    lambda z: cross_entropy(attacked(z), y), x, ball, steps=10, random_start=False, keep_best=False
                )
            ),
            y,
        )
        for ball in BALLS
    ]
    torch.testing.assert_close(worst, torch.stack(values).amax(0))


def test_one_step_of_average_is_the_mean_of_the_balls_losses() -> None:
    config, model, (x, y) = multi_norm.Config(strategy="average", random_start=False), network(), batch()
    attacked = copy.deepcopy(model).requires_grad_(False)
    moves = [
        sparring.pgd(lambda z: cross_entropy(attacked(z), y), x, ball, steps=10, random_start=False, keep_best=False)
        for ball in BALLS
    ]
    loss = sum(cross_entropy(model(z), y).mean() for z in moves) / 3
    assert isinstance(loss, Tensor)
    expected = step(loss, model)
    for got, wanted in zip(weights_after(multi_norm, config, rounds=1), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_average_plays_one_input_for_each_ball() -> None:
    config, model, (x, y) = multi_norm.Config(strategy="average"), network(), batch()
    game = make(multi_norm, config, model)
    moves = game.adversary.respond(model, (x, y))
    assert len(moves) == 3
    assert all(ball.contains(z, x).all() for ball, z in zip(BALLS, moves, strict=True))
    mean = torch.stack([cross_entropy(model(z), y) for z in moves]).mean(0)
    torch.testing.assert_close(game.payoff(model, moves, (x, y)), mean)
    torch.testing.assert_close(game.payoff(model, x, (x, y)), cross_entropy(model(x), y))


def drawn(seed: int, rounds: int = 60) -> list[int]:
    """Which ball each of some batches was attacked in: the first that holds the move of every example."""
    model, (x, y) = network(), batch()
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    config = multi_norm.Config(strategy="random", random_start=False, steps=2)
    apart = sparring.Union(sparring.Linf(0.01), sparring.L2(0.1), sparring.L1(0.5))  # each step leaves the ball before
    game = multi_norm.game(config, model=model, threat=apart, tools=tools)
    found = []
    for _ in range(rounds):
        torch.manual_seed(len(found))  # the choice does not depend on the global generator
        z = game.adversary.respond(model, (x, y))
        found.append(next(i for i, ball in enumerate(apart.members) if ball.contains(z, x).all()))
    return found


def test_the_ball_of_random_is_drawn_per_batch_from_the_games_generator() -> None:
    first = drawn(0)
    assert drawn(0) == first
    assert drawn(1) != first
    assert {0, 1, 2} == set(first)
    assert min(first.count(i) for i in range(3)) > 60 / 3 / 2


def test_a_given_step_is_the_same_share_of_every_radius() -> None:
    config, model, (x, y) = (
        multi_norm.Config(strategy="average", random_start=False, steps=1, step_size=0.15),
        network(),
        batch(),
    )
    x = 0.4 + 0.2 * x
    moves = make(multi_norm, config, model).adversary.respond(model, (x, y))
    for ball, z in zip(BALLS[:2], moves, strict=False):  # the step of L1 may be cut by the box
        torch.testing.assert_close(ball.distance(z, x), torch.full((12,), ball.eps, dtype=torch.float64))


@pytest.mark.parametrize("strategy", ["max", "average", "random", "steepest"])
def test_all_radii_and_the_steps_grow(strategy: Any) -> None:
    progress, calls = Progress(0.0), []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, z: Tensor) -> Tensor:
            calls.append(z.requires_grad)
            return self.inner(z)

    model, config = Counted(), multi_norm.Config(strategy=strategy, steps=6, eps_warmup=1.0, steps_warmup=1.0)
    game = multi_norm.game(config, model=model, tools=Tools(rng=torch.Generator().manual_seed(0), progress=progress))
    assert isinstance(game.adversary, Curriculum)
    x = batch()[0]
    for value, steps in ((0.0, 1), (0.5, 3), (1.0, 6)):
        progress.value = value
        calls.clear()
        moves = game.adversary.respond(model, batch())
        moves = moves if isinstance(moves, tuple) else (moves,)
        within = multi_norm.union(config).scaled(0.1 + 0.9 * value)
        assert all(within.contains(z, x).all() for z in moves)
        assert sum(calls) == steps * (3 if strategy in ("max", "average") else 1)


def test_a_radius_of_zero_leaves_its_ball_out() -> None:
    assert multi_norm.union(multi_norm.Config()).members == BALLS
    assert multi_norm.union(multi_norm.Config(eps_l2=0)).members == (BALLS[0], BALLS[2])
    assert multi_norm.union(one_ball("max")).members == BALLS[:1]


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [
        (hat, "beta", -1.0),
        (hat, "gamma", -0.5),
        (hat, "random_start", False),
        (hat, "steps", 0),
        (multi_norm, "strategy", "sum"),
        (multi_norm, "threat", "linf"),
        (multi_norm, "eps_l2", -1.0),
        (multi_norm, "eps_l1", float("inf")),
        (multi_norm, "eps_l1", True),
        (multi_norm, "steps", 0),
        (multi_norm, "step_size", 0.0),
        (multi_norm, "eps_warmup", 2.0),
    ],
)
def test_a_bad_field_names_itself_its_range_and_its_value(module: Any, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        module.Config(**{field: value})
