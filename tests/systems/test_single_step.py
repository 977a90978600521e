"""FGSM-RS and N-FGSM against the authors' formulas written out, and at the limits where they are another system."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import sparring
from sparring.core.game import Game, play
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.systems import fgsm_rs, n_fgsm, pgd_at

LR = 0.1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def batch(low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = low + (high - low) * torch.rand(12, 6, generator=rng, dtype=torch.float64)
    return x, torch.randint(0, 4, (12,), generator=rng)


def made(module: object, model: nn.Module, seed: int = 3, threat: object = None, **config: object) -> Game:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    tools = Tools(rng=torch.Generator().manual_seed(seed))
    return module.game(module.Config(**config), model=model, optimizer=optimizer, threat=threat, tools=tools)


def weights_after(module: object, rounds: int = 5, **config: object) -> list[Tensor]:
    model = network()
    for _ in play(made(module, model, **config), [batch()] * rounds):
        pass
    return [p.detach().clone() for p in model.parameters()]


def noise(x: Tensor, radius: float, seed: int = 3) -> Tensor:
    """U(-radius, radius), drawn as the threat model draws it."""
    return (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) - 1) * radius


def sign_of_gradient(model: nn.Module, z: Tensor, y: Tensor) -> Tensor:
    z = z.clone().requires_grad_(True)
    return torch.autograd.grad(nn.functional.cross_entropy(model(z), y), z)[0].sign()


def descended(model: nn.Module, z: Tensor, y: Tensor) -> list[Tensor]:
    """theta - lr grad_theta mean CE(f(z), y)."""
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(z), y), list(model.parameters()))
    return [p.detach() - LR * g for p, g in zip(model.parameters(), gradients, strict=True)]


def close(a: list[Tensor], b: list[Tensor]) -> None:
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_fgsm_rs_is_the_formula() -> None:
    """delta in U(-eps, eps), cut to the box; delta <- clip(delta + 1.25 eps sign(grad), -eps, eps), cut again."""
    (x, y), model, eps = batch(), network(), 0.15
    delta = torch.clamp(noise(x, eps), 0 - x, 1 - x)
    delta = torch.clamp(delta + 1.25 * eps * sign_of_gradient(model, x + delta, y), -eps, eps)
    delta = torch.clamp(delta, 0 - x, 1 - x)
    torch.testing.assert_close(made(fgsm_rs, model, eps=eps).adversary.respond(model, (x, y)), x + delta)
    close(weights_after(fgsm_rs, rounds=1, eps=eps), descended(model, x + delta, y))


def test_fgsm_rs_is_pgd_at_with_the_fgsm_attack() -> None:
    for p, q in zip(weights_after(fgsm_rs), weights_after(pgd_at, attack="fgsm"), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("k", "alpha"), [(2.0, 1.0), (0.5, 1.25), (0.0, 1.5)])
def test_n_fgsm_is_the_formula(k: float, alpha: float) -> None:
    """eta in U(-k eps, k eps), cut to the box; delta = eta + alpha sign(grad), cut to the box, not to the ball."""
    (x, y), model, eps = batch(), network(), 0.15
    eta = torch.clamp(noise(x, k * eps), 0 - x, 1 - x)
    delta = torch.clamp(eta + alpha * eps * sign_of_gradient(model, x + eta, y), 0 - x, 1 - x)
    config = {"eps": eps, "noise": k, "step_size": alpha * eps}
    torch.testing.assert_close(made(n_fgsm, model, **config).adversary.respond(model, (x, y)), x + delta)
    close(weights_after(n_fgsm, rounds=1, **config), descended(model, x + delta, y))


def test_without_noise_n_fgsm_is_fgsm() -> None:
    """A step of eps from x never leaves the ball, so clipping to it or not is the same."""
    for p, q in zip(
        weights_after(n_fgsm, noise=0.0), weights_after(pgd_at, attack="fgsm", random_start=False), strict=True
    ):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_without_noise_and_with_a_long_step_n_fgsm_is_fgsm_without_clipping() -> None:
    x, y = batch(0.4, 0.6)
    model, eps = network(), 0.1
    z = made(n_fgsm, model, eps=eps, noise=0.0, step_size=0.3).adversary.respond(model, (x, y))
    torch.testing.assert_close((z - x).abs(), torch.full_like(x, 0.3))
    clipped = sparring.fgsm(
        lambda z: nn.functional.cross_entropy(model(z), y, reduction="none"), x, sparring.Linf(eps), step_size=0.3
    )
    torch.testing.assert_close((clipped - x).abs(), torch.full_like(x, eps))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("k", "step_size"), [(2.0, None), (0.0, 0.4), (3.0, 0.01)])
def test_the_move_of_n_fgsm_stays_in_its_reach_and_leaves_the_ball(
    norm: str, k: float, step_size: float | None
) -> None:
    config = n_fgsm.Config(threat=norm, eps=0.2, noise=k, step_size=step_size)
    reach, (x, y), model = n_fgsm.reach(config), batch(), network()
    assert reach.eps == pytest.approx(k * 0.2 + (0.2 if step_size is None else step_size))
    z = n_fgsm.game(config, model=model, tools=Tools(rng=torch.Generator().manual_seed(0))).adversary.respond(
        model, (x, y)
    )
    assert reach.contains(z, x).all()
    assert not n_fgsm.threat(config).contains(z, x).all()


def test_the_reach_cuts_nothing_but_the_box() -> None:
    """Noise and step in one direction reach k eps + alpha exactly, which a tighter ball would have cut."""
    x = torch.full((1, 1), 0.5, dtype=torch.float64)

    def gain(z: Tensor) -> Tensor:
        return z.sum(1)

    for seed in range(20):
        z = n_fgsm.noisy_fgsm(gain, x, sparring.Linf(0.1), noise=2.0, rng=torch.Generator().manual_seed(seed))
        expected = x + noise(x, 0.2, seed) + 0.1
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("module", [fgsm_rs, n_fgsm])
def test_eps_grows_over_its_share_of_training(module: object) -> None:
    progress, model, (x, y) = Progress(0.0), network(), batch(0.45, 0.55)
    widest = {}
    for value in (0.0, 0.25, 0.5, 1.0):
        progress.value = value
        tools = Tools(rng=torch.Generator().manual_seed(0), progress=progress)
        z = module.game(module.Config(eps=0.1, eps_warmup=0.5), model=model, tools=tools).adversary.respond(
            model, (x, y)
        )
        widest[value] = (z - x).abs().amax().item()
    assert widest[0.0] == pytest.approx(0.1 * widest[1.0])
    assert widest[0.25] == pytest.approx(0.55 * widest[1.0])
    assert widest[0.5] == widest[1.0]


def test_a_threat_of_ones_own_takes_the_place_of_the_configured_ball() -> None:
    union = sparring.Union(sparring.Linf(0.05), sparring.L2(0.1))
    (x, y), model = batch(), network()
    assert union.contains(made(fgsm_rs, model, threat=union).adversary.respond(model, (x, y)), x).all()
    wide = made(n_fgsm, model, threat=sparring.Linf(0.01)).adversary.respond(model, (x, y))
    assert sparring.Linf(0.03).contains(wide, x).all()


def test_soft_labels_of_one_class_are_that_class() -> None:
    x, y = batch()
    soft = nn.functional.one_hot(y, 4).double()
    for module in (fgsm_rs, n_fgsm):
        models = [network(), network()]
        for model, labels in zip(models, (y, soft), strict=True):
            for _ in play(made(module, model), [(x, labels)]):
                pass
        close([p.detach() for p in models[0].parameters()], [p.detach() for p in models[1].parameters()])


def test_the_attack_sees_the_view_and_the_learner_the_model() -> None:
    (x, y), model = batch(), network()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight.neg_()

    @contextmanager
    def view(_: nn.Module) -> Iterator[nn.Module]:
        yield other

    for module in (fgsm_rs, n_fgsm):
        tools = Tools(rng=torch.Generator().manual_seed(3), view=view)
        z = module.game(module.Config(), model=model, tools=tools).adversary.respond(model, (x, y))
        torch.testing.assert_close(z, made(module, other).adversary.respond(other, (x, y)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [
        (fgsm_rs, "step_size", 0.0),
        (fgsm_rs, "threat", "l0"),
        (fgsm_rs, "eps_warmup", -0.1),
        (n_fgsm, "noise", -1.0),
        (n_fgsm, "noise", float("inf")),
        (n_fgsm, "noise", True),
        (n_fgsm, "step_size", -0.1),
        (n_fgsm, "threat", "l3"),
        (n_fgsm, "eps_warmup", 1.5),
    ],
)
def test_a_bad_field_names_itself_its_range_and_its_value(module: object, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"'{field}' parameter .* Got {value!r}"):
        module.Config(**{field: value})
