"""The weight-space adversary against the formulae of AWP, SAM and ASAM, written out."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from sparring.core.game import Batch
from sparring.core.payoff import cross_entropy, of_model
from sparring.core.players import Descent
from sparring.core.weights import Perturbation, still_statistics

PAYOFF = of_model(cross_entropy)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(10, 5, generator=rng, dtype=torch.float64), torch.randint(0, 3, (10,), generator=rng)


def gradients(model: nn.Module) -> list[Tensor]:
    x, y = batch()
    return list(torch.autograd.grad(cross_entropy(model.train()(x), y).mean(), list(model.parameters())))


def stepped(perturbation: Perturbation | None, lr: float = 0.1) -> nn.Module:
    model, (x, y) = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    Descent(model, optimizer, PAYOFF, perturbation=perturbation).update(x, (x, y))
    return model


def written_out(offset: object) -> list[Tensor]:
    """theta - lr * grad L(theta + v), with v from the gradient at theta."""
    model = network()
    at = copy.deepcopy(model)
    vs = offset(list(at.parameters()), gradients(at))
    with torch.no_grad():
        for p, v in zip(at.parameters(), vs, strict=True):
            p.add_(v)
    return [p.detach() - 0.1 * g for p, g in zip(model.parameters(), gradients(at), strict=True)]


def awp(weights: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Wu et al. 2020: gamma ||w|| g / ||g|| per layer, nothing for vectors (biases, BatchNorm)."""
    return [
        0.02 * w.norm() * g / g.norm() if w.dim() > 1 else torch.zeros_like(w)
        for w, g in zip(weights, grads, strict=True)
    ]


def sam(weights: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Foret et al. 2021: rho g / ||g|| over all parameters together."""
    norm = torch.cat([g.flatten() for g in grads]).norm()
    return [0.02 * g / norm for g in grads]


def asam(weights: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Kwon et al. 2021: rho T^2 g / ||T g|| with T = |w|."""
    norm = torch.cat([(w.abs() * g).flatten() for w, g in zip(weights, grads, strict=True)]).norm()
    return [0.02 * w.square() * g / norm for w, g in zip(weights, grads, strict=True)]


@pytest.mark.parametrize(("kind", "offset"), [("awp", awp), ("sam", sam), ("asam", asam)])
def test_the_step_is_the_formula(kind: str, offset: object) -> None:
    model = stepped(Perturbation(kind, 0.02))
    for got, wanted in zip(model.parameters(), written_out(offset), strict=True):
        torch.testing.assert_close(got.detach(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["awp", "sam", "asam"])
def test_size_zero_and_not_yet_started_are_plain_descent(kind: str) -> None:
    plain = stepped(None).state_dict()
    for perturbation in (Perturbation(kind, 0.0), Perturbation(kind, 0.5, start=lambda: False)):
        assert all(torch.equal(plain[name], value) for name, value in stepped(perturbation).state_dict().items())


@pytest.mark.parametrize("kind", ["awp", "sam", "asam"])
def test_the_weights_come_back_bit_for_bit(kind: str) -> None:
    before = network().state_dict()
    after = stepped(Perturbation(kind, 0.3), lr=0.0).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" not in name and "num" not in name)


@pytest.mark.parametrize("kind", ["awp", "sam"])
def test_the_weights_come_back_when_the_second_pass_fails(kind: str) -> None:
    model, (x, y), calls = network(), batch(), itertools.count()
    before = copy.deepcopy(model.state_dict())

    def differentiate() -> Tensor:
        if next(calls):
            raise FloatingPointError
        loss = cross_entropy(model(x), y).mean()
        loss.backward()
        return loss

    with pytest.raises(FloatingPointError):
        Perturbation(kind, 0.3)(model.eval(), differentiate)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["awp", "sam"])
def test_the_statistics_of_batch_norm_follow_one_pass(kind: str) -> None:
    model = stepped(Perturbation(kind, 0.3))
    assert model[1].num_batches_tracked == 1
    moved, (x, _) = network(), batch()
    if kind == "awp":  # the pass at the moved weights
        offsets = awp(list(moved.parameters()), gradients(network()))
        with torch.no_grad():
            for p, v in zip(moved.parameters(), offsets, strict=True):
                p.add_(v / 0.02 * 0.3)
    expected = 0.1 * moved[0](x).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected.detach())


def test_the_move_raises_the_loss() -> None:
    for kind in ("awp", "sam"):
        model, (x, y) = network(), batch()
        metrics = Descent(
            model, torch.optim.SGD(model.parameters(), lr=0.0), PAYOFF, perturbation=Perturbation(kind, 0.05)
        ).update(x, (x, y))
        assert metrics["loss"] > PAYOFF(network().train(), x, (x, y)).mean()


def test_an_adversarial_batch_is_made_once() -> None:
    """The move is an argument of the update: however often the loss is differentiated, the attack ran before."""
    model, (x, y) = network(), batch()
    seen: list[Tensor] = []

    def objective(m: nn.Module, z: Tensor, b: Batch) -> Tensor:
        seen.append(z)
        return PAYOFF(m, z, b)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Descent(model, optimizer, objective, perturbation=Perturbation("awp", 0.01)).update(x, (x, y))
    assert len(seen) == 2
    assert seen[0] is seen[1] is x


def test_still_statistics_restores_every_buffer() -> None:
    model, (x, _) = network(), batch()
    before = copy.deepcopy(model.state_dict())
    with still_statistics(model):
        model.train()(x)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "value"), [("kind", "swa"), ("size", -0.1), ("size", float("nan"))])
def test_a_bad_perturbation_names_itself(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' parameter .* Got {value!r}"):
        Perturbation(**{"kind": "awp", "size": 0.1, name: value})
