"""Each system at the limits where it must be another one, and against the formula written out."""

import copy

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.game import play
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Curriculum
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.systems import mixed_at, pgd_at, standard


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).double()


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(12, 6, generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (12,), generator=rng)


def weights_after(make: object, config: object, rounds: int = 5) -> list[Tensor]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    game = make(config, model=model, optimizer=optimizer, tools=Tools(rng=torch.Generator().manual_seed(3)))
    for _ in play(game, [batch()] * rounds):
        pass
    return [p.detach().clone() for p in model.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_sum_with_weight_zero_is_standard_training() -> None:
    assert equal(
        weights_after(mixed_at.game, mixed_at.Config(mixing="sum", weight=0.0)),
        weights_after(standard.game, standard.Config()),
    )


def test_batch_with_share_zero_is_standard_training() -> None:
    assert equal(
        weights_after(mixed_at.game, mixed_at.Config(mixing="batch", share=0.0)),
        weights_after(standard.game, standard.Config()),
    )


def test_batch_with_share_one_is_pgd_at() -> None:
    """Without random starts: the two draw their randomness in another order."""
    mixed = weights_after(mixed_at.game, mixed_at.Config(mixing="batch", share=1.0, random_start=False))
    pure = weights_after(pgd_at.game, pgd_at.Config(random_start=False))
    for a, b in zip(mixed, pure, strict=True):
        torch.testing.assert_close(a, b)


def test_a_vanishing_eps_is_standard_training() -> None:
    near = weights_after(pgd_at.game, pgd_at.Config(eps=1e-12))
    for a, b in zip(near, weights_after(standard.game, standard.Config()), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_sum_is_the_formula(weight: float) -> None:
    """One SGD step equals theta - lr * d/dtheta mean(L(f(x), y) + weight L(f(z), y)), z found on the same model."""
    config = mixed_at.Config(mixing="sum", weight=weight, random_start=False)
    (x, y), model = batch(), network()
    attacked = copy.deepcopy(model)
    z = sparring.pgd(lambda z: cross_entropy(attacked(z), y), x, sparring.Linf(0.15), steps=10, random_start=False)
    loss = (cross_entropy(model(x), y) + weight * cross_entropy(model(z), y)).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    expected = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    for got, wanted in zip(weights_after(mixed_at.game, config, rounds=1), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_the_share_of_a_batch_is_exact_and_the_rest_is_clean() -> None:
    config = mixed_at.Config(mixing="batch", share=0.25)
    model, (x, y) = network(), batch()
    game = mixed_at.game(config, model=model, tools=Tools(rng=torch.Generator().manual_seed(0)))
    z = game.adversary.respond(model, (x, y))
    assert (z != x).any(1).sum() == 3


def test_fgsm_is_one_step_and_its_curriculum_grows() -> None:
    progress = Progress(0.0)
    config = pgd_at.Config(attack="fgsm", random_start=False, eps=0.2, eps_warmup=0.5)
    model, (x, y) = network(), batch()
    x = 0.3 + 0.4 * x  # away from the box, so that the step is not cut
    game = pgd_at.game(config, model=model, tools=Tools(progress=progress))
    assert isinstance(game.adversary, Curriculum)
    for value, eps in ((0.0, 0.02), (0.25, 0.11), (0.5, 0.2), (1.0, 0.2)):
        progress.value = value
        move = game.adversary.respond(model, (x, y))
        torch.testing.assert_close((move - x).abs().amax(1), torch.full((12,), eps, dtype=torch.float64))


def test_the_steps_of_a_curriculum_grow_from_one_to_all() -> None:
    progress, calls = Progress(0.0), []

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, z: Tensor) -> Tensor:
            calls.append(1)
            return self.inner(z)

    model = Counted()
    game = pgd_at.game(pgd_at.Config(steps=8, steps_warmup=1.0), model=model, tools=Tools(progress=progress))
    counts = []
    for value in (0.0, 0.5, 1.0):
        progress.value = value
        calls.clear()
        game.adversary.respond(model, batch())
        counts.append(len(calls))  # the last iterate is played: no forward pass values it
    assert counts == [1, 4, 8]


def test_a_threat_of_ones_own_takes_the_place_of_the_configured_ball() -> None:
    union = sparring.Union(sparring.Linf(0.05), sparring.L2(0.2))
    model = network()
    game = pgd_at.game(pgd_at.Config(), model=model, threat=union, tools=Tools(rng=torch.Generator().manual_seed(0)))
    x, y = batch()
    assert union.contains(game.adversary.respond(model, (x, y)), x).all()


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [
        (pgd_at, "steps", 0),
        (pgd_at, "steps", 2.5),
        (pgd_at, "step_size", -0.1),
        (pgd_at, "attack", "cw"),
        (pgd_at, "threat", "l3"),
        (pgd_at, "eps_warmup", 1.5),
        (mixed_at, "weight", -1.0),
        (mixed_at, "share", 1.2),
        (mixed_at, "mixing", "both"),
        (standard, "threat", "l0"),
    ],
)
def test_a_bad_field_names_itself_its_range_and_its_value(module: object, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        module.Config(**{field: value})


def test_the_reported_payoff_is_the_cross_entropy() -> None:
    model, (x, y) = network(), batch()
    for module in (standard, pgd_at, mixed_at):
        payoff = module.game(module.Config(), model=model).payoff(model, x, (x, y))
        torch.testing.assert_close(payoff, of_model(cross_entropy)(model, x, (x, y)))
