"""Free adversarial training and GradAlign: the authors' formulas written out, their limits, and Free's resume."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparring
from sparring.core.game import Batch, Game, play
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.core.weights import Perturbation
from sparring.systems import free_at, gradalign, pgd_at, standard

LR = 0.1


def network(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(16) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(6, 16), middle, nn.Tanh(), nn.Linear(16, 4)).double()


def batches(sizes: tuple[int, ...] = (12,), low: float = 0.35, high: float = 0.65) -> list[Batch]:
    rng = torch.Generator().manual_seed(1)
    dealt = []
    for size in sizes:
        x = low + (high - low) * torch.rand(size, 6, generator=rng, dtype=torch.float64)
        dealt.append((x, torch.randint(0, 4, (size,), generator=rng)))
    return dealt


def made(module: object, model: nn.Module, seed: int = 3, tools: Tools | None = None, **config: object) -> Game:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    tools = tools or Tools(rng=torch.Generator().manual_seed(seed))
    return module.game(module.Config(**config), model=model, optimizer=optimizer, tools=tools)


def weights_after(module: object, dealt: list[Batch], norm: bool = False, **config: object) -> list[Tensor]:
    model = network(norm)
    for _ in play(made(module, model, **config), dealt):
        pass
    return [value.detach().clone() for value in model.state_dict().values()]


def close(a: list[Tensor], b: list[Tensor]) -> None:
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


# Free


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("sizes", [(12, 12), (12, 7, 12), (12, 12, 5)])
def test_free_is_the_authors_loop(norm: bool, sizes: tuple[int, ...]) -> None:
    """Per replay: one backward at clip(x + delta, 0, 1); delta[:B] += eps sign(its gradient), clipped to the ball;
    then the optimiser's step. The rows of delta beyond a smaller batch wait. Away from the box, where the authors'
    delta and ours are the same."""
    model, eps, replays = network(norm), 0.1, 3
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    delta = torch.zeros(max(sizes), 6, dtype=torch.float64)
    model.train()
    for x, y in batches(sizes):
        for _ in range(replays):
            part = delta[: len(x)].clone().requires_grad_(True)
            optimizer.zero_grad()
            F.cross_entropy(model((x + part).clamp(0, 1)), y).backward()
            delta[: len(x)] += eps * part.grad.sign()
            delta.clamp_(-eps, eps)
            optimizer.step()
    expected = [value.detach().clone() for value in model.state_dict().values()]
    close(weights_after(free_at, batches(sizes), norm, eps=eps, replays=replays), expected)


def test_free_keeps_its_move_in_the_box_as_well() -> None:
    model, dealt = network(), batches((12, 12), 0.0, 1.0)
    game, threat = made(free_at, model, eps=0.3, replays=4), sparring.Linf(0.3)
    for batch in dealt:
        move = game.adversary.respond(model, batch)
        assert threat.contains(move, batch[0]).all()
        game.learner.update(move, batch)
        x, delta = batch[0], game.learner.delta
        assert ((x + delta >= -1e-12) & (x + delta <= 1 + 1e-12)).all()
        assert (delta.abs() <= 0.3 + 1e-12).all()
        assert (delta != 0).any()


def test_one_replay_on_the_first_batch_is_standard_training() -> None:
    """delta starts at zero."""
    close(weights_after(free_at, batches(), replays=1), weights_after(standard, batches()))


def test_one_replay_trains_each_batch_where_the_batch_before_left_delta() -> None:
    """With two rounds on one batch, the second is FGSM with a step of eps from x, taken on the weights before."""
    (batch,) = batches()
    (x, y), model, eps = batch, network(), 0.1
    z = x.clone().requires_grad_(True)
    sign = torch.autograd.grad(F.cross_entropy(model(z), y), z)[0].sign()
    expected = network()
    optimizer = torch.optim.SGD(expected.parameters(), lr=LR, momentum=0.9)
    for point in (x, x + eps * sign):
        optimizer.zero_grad()
        F.cross_entropy(expected(point), y).backward()
        optimizer.step()
    close(
        weights_after(free_at, [batch, batch], eps=eps, replays=1), [v.detach() for v in expected.state_dict().values()]
    )


def test_a_vanishing_eps_replays_standard_training() -> None:
    dealt = batches((12, 12))
    replayed = [batch for batch in dealt for _ in range(4)]
    for p, q in zip(
        weights_after(free_at, dealt, eps=1e-12, replays=4), weights_after(standard, replayed), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-9)


def test_a_larger_batch_starts_its_further_rows_at_zero() -> None:
    model, (small, large) = network(), batches((5, 12))
    game = made(free_at, model, replays=2)
    game.learner.update(game.adversary.respond(model, small), small)
    move = game.adversary.respond(model, large) - large[0]
    torch.testing.assert_close(move[:5], game.learner.delta)
    assert (move[5:] == 0).all()


def test_one_backward_pass_a_replay_and_one_clip() -> None:
    calls: list[str] = []

    def backward(loss: Tensor) -> None:
        calls.append("backward")
        loss.backward()

    tools = Tools(backward=backward, clip=lambda: calls.append("clip"))
    model = network()
    forward = model.forward
    model.forward = lambda z: calls.append("forward") or forward(z)
    for _ in play(made(free_at, model, tools=tools, replays=3), batches()):
        pass
    assert calls == ["forward", "backward", "clip"] * 3


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_free_takes_any_norm(norm: str) -> None:
    model, (batch,) = network(), batches()
    game = made(free_at, model, threat=norm, eps=0.2, replays=3)
    game.learner.update(game.adversary.respond(model, batch), batch)
    move = game.adversary.respond(model, batch)
    assert free_at.threat(free_at.Config(threat=norm, eps=0.2)).contains(move, batch[0]).all()
    assert (move != batch[0]).any()


def test_free_resumes_exactly_from_its_state() -> None:
    """Weights, optimiser and delta, through a file as the engine writes it; without delta the run would differ."""
    dealt, ends = batches((12, 12, 7, 12)), []
    for load in (True, False):
        model = network()
        game = made(free_at, model, replays=3)
        for _ in play(game, dealt[:3]):
            pass
        file = io.BytesIO()
        torch.save([game.learner.state_dict(), model.state_dict(), game.learner.optimizer.state_dict()], file)
        state, weights, optimizer = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        fresh = network()
        again = made(free_at, fresh, replays=3)
        fresh.load_state_dict(weights)
        again.learner.optimizer.load_state_dict(optimizer)
        if load:
            again.learner.load_state_dict(state)
        for _ in play(again, dealt[3:]):
            pass
        ends.append(list(fresh.state_dict().values()))
    whole = weights_after(free_at, dealt, replays=3)
    assert all(torch.equal(p, q) for p, q in zip(whole, ends[0], strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(whole, ends[1], strict=True))


def test_the_state_of_a_run_that_has_not_begun_is_empty() -> None:
    learner = made(free_at, network()).learner
    assert learner.state_dict() == {"delta": None}
    learner.load_state_dict({"delta": None})
    assert learner.delta is None


def test_free_refuses_a_weight_space_adversary() -> None:
    with pytest.raises(ValueError, match=r"'perturbation' tool must be None for free-at.* Got Perturbation"):
        made(free_at, network(), tools=Tools(perturbation=Perturbation("awp", 0.01)))


def test_free_reports_the_mean_loss_of_its_replays() -> None:
    """At a learning rate of nothing and a vanishing eps, every replay is the same."""
    model, (batch,) = network(), batches()
    expected = F.cross_entropy(model(batch[0]), batch[1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    config = free_at.Config(replays=5, eps=1e-12)
    (metrics,) = play(free_at.game(config, model=model, optimizer=optimizer), [batch])
    torch.testing.assert_close(metrics["loss"].double(), expected.detach(), rtol=0, atol=1e-6)


# GradAlign


def regularised(model: nn.Module, z: Tensor, x: Tensor, nearby: Tensor, y: Tensor, weight: float, both: bool) -> Tensor:
    """CE(f(z)) + lambda (1 - mean of the cosines over the examples where neither gradient is zero)."""
    gradients = []
    for point, through in ((x, both), (nearby, True)):
        point = point.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y), point, create_graph=through)
        gradients.append(gradient)
    first, second = gradients
    rows = (first.square().sum(1).sqrt() != 0) & (second.square().sum(1).sqrt() != 0)
    first, second = first[rows], second[rows]
    cosine = (first * second).sum(1) / first.square().sum(1).sqrt() / second.square().sum(1).sqrt()
    return F.cross_entropy(model(z), y) + weight * (1 - cosine.mean())


class Dull(nn.Module):
    """Blind to an input whose first number is above 0.6: those have no input gradient at all."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.inner = network(norm)

    def forward(self, x: Tensor) -> Tensor:
        seen = (x.detach()[:, :1] <= 0.6).to(x.dtype)
        return self.inner(x * seen)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("through", ["random", "both"])
@pytest.mark.parametrize("kind", [network, Dull])
def test_gradalign_is_the_formula(kind: type[nn.Module], through: str, norm: bool) -> None:
    """Every weight's gradient, in train mode, at the attack's z and on the random points that the rng gives."""
    ((x, y),), eps, weight = batches((32,)), 0.1, 0.7
    model = kind(norm)
    game = made(gradalign, model, eps=eps, weight=weight, through=through)
    z = game.adversary.respond(model, (x, y))
    nearby = x + (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype) - 1) * eps
    expected = kind(norm)
    loss = regularised(expected, z, x, nearby, y, weight, both=through == "both")
    wanted = torch.autograd.grad(loss, list(expected.parameters()))
    metrics = game.learner.update(z, (x, y))
    torch.testing.assert_close(metrics["loss"], loss.detach(), rtol=0, atol=1e-10)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-10)


def test_the_two_ways_of_differentiating_have_one_value_and_two_gradients() -> None:
    a, b = (weights_after(gradalign, batches(), weight=1.0, through=through) for through in ("random", "both"))
    assert not any(torch.equal(p, q) for p, q in zip(a[:-1], b[:-1], strict=True))


def test_without_weight_gradalign_is_fgsm_training() -> None:
    for p, q in zip(
        weights_after(gradalign, batches() * 4, weight=0.0),
        weights_after(pgd_at, batches() * 4, attack="fgsm", random_start=False),
        strict=True,
    ):
        assert torch.equal(p, q)


def test_misalignment_in_closed_form() -> None:
    """Gradients at an angle of 0, 90 and 180 degrees, at any length; a zero one counts in no mean."""
    a = torch.tensor([[1.0, 0.0], [1e-12, 0.0], [2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    found = gradalign.misalignment(a, b)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0]) * 5 / 3)
    assert found.mean() == pytest.approx(1.0)
    assert (gradalign.misalignment(torch.zeros(3, 2), b[:3]) == 0).all()


def test_the_penalty_of_a_linear_loss_is_zero_and_its_gradient_finite_without_any_direction() -> None:
    (x, y), weight = batches()[0], torch.ones(6, dtype=torch.float64, requires_grad=True)
    tools = Tools(rng=torch.Generator().manual_seed(0))

    def linear(_: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        return z @ weight

    objective = gradalign.aligned(linear, 1.0, sparring.Linf(0.1), tools)
    torch.testing.assert_close(objective(network(), x, (x, y)), x @ weight.detach(), rtol=0, atol=1e-12)

    def flat(_: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        return (z * 0 * weight).sum(1)

    loss = gradalign.aligned(flat, 1.0, sparring.Linf(0.1), tools)(network(), x, (x, y)).mean()
    assert torch.autograd.grad(loss, weight)[0].isfinite().all()


def test_eta_grows_with_eps() -> None:
    points = []

    def seen(_: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        points.append(z.detach())
        return z.square().sum(1) * weight

    (x, y), weight = batches()[0], torch.ones((), dtype=torch.float64, requires_grad=True)
    widest = []
    for value in (0.0, 0.5, 1.0):
        points.clear()
        tools = Tools(rng=torch.Generator().manual_seed(0), progress=Progress(value))
        gradalign.aligned(seen, 1.0, sparring.Linf(0.1), tools, eps_warmup=0.5)(network(), x, (x, y))
        widest.append((points[-1] - x).abs().max().item())
    assert widest[0] == pytest.approx(0.1 * widest[2])
    assert widest[1] == widest[2]
    assert 0.09 < widest[2] <= 0.1


def test_training_with_the_penalty_aligns_the_gradients() -> None:
    """What it is for: the same steps with and without, and the mean cosine afterwards."""
    cosines = {}
    (x, y), rng = batches((64,), 0.0, 1.0)[0], torch.Generator().manual_seed(0)
    nearby = sparring.Linf(0.3).sample(x, rng)
    for weight in (0.0, 2.0):
        model = network()
        for _ in play(made(gradalign, model, eps=0.3, weight=weight), [(x, y)] * 60):
            pass
        payoff = made(gradalign, model).payoff
        first, second = (
            gradalign.input_gradient(payoff, model, point, (x, y), differentiable=False) for point in (x, nearby)
        )
        cosines[weight] = 1 - gradalign.misalignment(first, second).mean().item()
    assert cosines[2.0] > cosines[0.0] + 0.02, cosines


def test_gradalign_works_under_bfloat16_and_a_weight_space_adversary() -> None:
    from sparring.engine.precision import Autocast

    (x, y), model = batches()[0], network().float()
    cast = Autocast(copy.deepcopy(model), lambda: torch.autocast("cpu", torch.bfloat16))
    plain = made(gradalign, model, weight=0.5, tools=Tools(rng=torch.Generator().manual_seed(0)))
    low = made(gradalign, cast, weight=0.5, tools=Tools(rng=torch.Generator().manual_seed(0)))
    for game in (plain, low):
        game.learner.update(x.float(), (x.float(), y))
    for p, q in zip(model.parameters(), cast.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0.1, atol=0.02)
    tools = Tools(rng=torch.Generator().manual_seed(0), perturbation=Perturbation("awp", 0.01))
    moved = made(gradalign, network(), weight=0.5, tools=tools)
    assert moved.learner.update(x, (x, y))["loss"].isfinite()


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [
        (free_at, "replays", 0),
        (free_at, "replays", 2.5),
        (free_at, "step_size", -1.0),
        (free_at, "threat", "l0"),
        (gradalign, "weight", -1.0),
        (gradalign, "weight", float("nan")),
        (gradalign, "through", "none"),
        (gradalign, "step_size", 0.0),
        (gradalign, "eps_warmup", 2.0),
    ],
)
def test_a_bad_field_names_itself_its_range_and_its_value(module: object, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        module.Config(**{field: value})
