"""GADoT's and IDSGAN's generators: their formulae on known critics, what they learn, and what they may not do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from made_flows import rows as made_rows
from torch import Tensor, nn

from sparring.core.compose import Masked, OfClass
from sparring.core.threat import Linf, for_classes
from sparring.domains.flow.feasible import Feasible
from sparring.domains.flow.generator import Generator, fit, gradient_penalty, mimic
from sparring.domains.flow.idsgan import IdsGan, fit_idsgan, idsgan, imitation
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.search import movable


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(n: int, seed: int) -> Tensor:
    """Two clouds in the unit square."""
    rng = seeded(seed)
    centre = torch.tensor([[0.25, 0.3], [0.7, 0.8]])[(torch.rand(n, generator=rng) < 0.6).long()]
    return (centre + 0.04 * torch.randn(n, 2, generator=rng)).clamp(0, 1)


class Bowl(nn.Module):
    """D(u) = a |u|^2, whose gradient is 2 a u."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, u: Tensor) -> Tensor:
        return self.a * (u * u).sum(1, keepdim=True)


def test_the_penalty_of_a_linear_critic_is_that_of_its_weights() -> None:
    critic = nn.Linear(3, 1).double()
    w = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    critic.weight.data.copy_(w)
    real, made = (torch.rand(6, 3, generator=seeded(k), dtype=torch.float64) for k in (0, 1))
    penalty = gradient_penalty(critic, real, made, seeded(2))
    torch.testing.assert_close(penalty, ((w.norm() - 1) ** 2).expand(6), rtol=0, atol=1e-12)
    penalty.sum().backward()
    assert critic.weight.grad is not None
    torch.testing.assert_close(critic.weight.grad, 6 * 2 * (w.norm() - 1) * w / w.norm(), rtol=0, atol=1e-12)


def test_the_penalty_is_taken_between_the_rows() -> None:
    critic, real, made = Bowl(0.5), torch.tensor([[3.0, 4.0]]).double(), torch.tensor([[6.0, 8.0]]).double()
    penalty = gradient_penalty(critic, real.expand(2000, 2), made.expand(2000, 2), seeded())
    norm = penalty.sqrt() + 1  # |grad| = |h|, which is uniform between 5 and 10
    assert norm.min() > 5
    assert norm.max() < 10
    assert abs(norm.mean() - 7.5) < 0.15
    assert norm.min() < 5.05
    assert norm.max() > 9.95


def test_a_generator_reaches_the_moments_of_a_mixture() -> None:
    real = mixture(2000, 0)
    told: list[float] = []
    generator = fit(real, seeded(1), steps=400, batch=64, noise=4, width=32, learning_rate=5e-3, progress=told.append)
    made = generator.draw(4000, seeded(1))
    before = Generator(2, noise=4, width=32, rng=seeded(1)).draw(4000, seeded(1)).detach()
    assert (before.mean(0) - real.mean(0)).abs().max() + (before.std(0) - real.std(0)).abs().max() > 0.1
    assert (made.mean(0) - real.mean(0)).abs().max() < 0.06
    assert (made.std(0) - real.std(0)).abs().max() < 0.06
    assert abs(torch.corrcoef(made.T)[0, 1] - torch.corrcoef(real.T)[0, 1]) < 0.1
    assert told == [(k + 1) / 400 for k in range(400)]


def test_the_loop_is_wgan_gp_written_out() -> None:
    """Bit for bit: both networks and every random number are made here in the order of algorithm 1."""
    real = mixture(50, 1).double()
    generator = fit(
        real, seeded(5), steps=3, batch=8, noise=2, width=4, critic_steps=2, penalty=7.0, learning_rate=0.01
    )

    rng = seeded(5)
    made = Generator(2, noise=2, width=4, rng=rng).double()
    critic = nn.Sequential(nn.Linear(2, 4), nn.LeakyReLU(0.2), nn.Linear(4, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1))
    for layer in critic[::2]:
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_normal_(layer.weight, a=0.2, generator=rng)
        nn.init.zeros_(layer.bias)
    critic.double()
    down = torch.optim.Adam(made.parameters(), lr=0.01, betas=(0.0, 0.9))
    up = torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.0, 0.9))
    for _ in range(3):
        for _ in range(2):
            b = real[torch.randint(50, (8,), generator=rng)]
            g = made(torch.randn(8, 2, generator=rng, dtype=torch.float64)).detach()
            t = torch.rand(8, 1, generator=rng, dtype=torch.float64)
            h = (t * b + (1 - t) * g).requires_grad_(True)
            slope = torch.autograd.grad(critic(h).sum(), h, create_graph=True)[0].pow(2).sum(1).sqrt()
            loss = critic(g).mean() - critic(b).mean() + 7.0 * ((slope - 1) ** 2).mean()
            up.zero_grad()
            loss.backward()
            up.step()
        down.zero_grad()
        (-critic(made(torch.randn(8, 2, generator=rng, dtype=torch.float64))).mean()).backward()
        down.step()
    for ours, written in zip(generator.parameters(), made.parameters(), strict=True):
        torch.testing.assert_close(ours, written, rtol=0, atol=1e-9)


def test_what_is_learned_depends_on_the_rng_alone_and_can_be_saved() -> None:
    real = mixture(100, 2)
    state = torch.get_rng_state()
    one, two, other = (fit(real, seeded(seed), steps=2, batch=8, noise=2, width=4) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)  # type: ignore[arg-type]
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.draw(5, seeded(3)), one.draw(5, seeded(3)))
    gans = [fit_idsgan(alarm, real, real, Linf(0.3), seeded(k), steps=2, batch=8, noise=2, width=4) for k in (1, 1)]
    assert all(torch.equal(a, b) for a, b in zip(*(gan.parameters() for gan in gans), strict=True))


def alarm(u: Tensor) -> Tensor:
    """A detector of rows whose first coordinate is high."""
    return u[:, 0] > 0.5


TABLE = made_rows(0, 200)
FITTED = Preprocessing.fit(TABLE)
X = FITTED.encode(TABLE)[2:42]
WEIGHT = torch.randn(FITTED.width, generator=seeded(1))


def gain(z: Tensor) -> Tensor:
    return (30 * z).sin() @ WEIGHT


def mimicking(x: Tensor, threat: Any, draws: int, seed: int) -> Tensor:
    return mimic(gain, x, threat, generator=Generator(FITTED.width, rng=seeded(7)), draws=draws, rng=seeded(seed))


def changing(x: Tensor, threat: Any, draws: int, seed: int) -> Tensor:
    return idsgan(gain, x, threat, gan=IdsGan(FITTED.width, rng=seeded(7)), draws=draws, rng=seeded(seed))


@pytest.mark.parametrize("attack", [mimicking, changing])
@pytest.mark.parametrize("eps", [0.05, 0.3, 1.0])
def test_a_made_row_stays_in_the_threat_and_never_lowers_the_gain(attack: Callable[..., Tensor], eps: float) -> None:
    threat = Feasible(FITTED, eps)
    few, many = (attack(X, threat, draws, 3) for draws in (1, 6))
    for z in (few, many):
        assert threat.contains(z, X).all()
        assert torch.equal(z[:, len(FITTED.numeric) :], X[:, len(FITTED.numeric) :])
        assert (gain(z) >= gain(X)).all()
    assert (gain(many) >= gain(few)).all()  # the first draw is the same
    assert 5 < (few == X).all(1).sum() < 35  # where the one draw was worse
    assert (gain(many) > gain(X)).sum() > 20
    assert (gain(many) > gain(few)).any()
    assert torch.equal(attack(X, threat, 6, 3), many)
    assert not torch.equal(attack(X, threat, 6, 4), many)


@pytest.mark.parametrize("attack", [mimicking, changing])
def test_rows_of_another_class_and_no_rows_stay(attack: Callable[..., Tensor]) -> None:
    y = torch.arange(len(X)) % 2
    z = attack(X, for_classes(OfClass(Feasible(FITTED, 0.3), 1), y), 4, 0)
    assert torch.equal(z[y == 0], X[y == 0])
    assert not torch.equal(z, X)
    assert attack(X[:0], Feasible(FITTED, 0.3), 4, 0).shape == (0, FITTED.width)


def test_a_mimic_takes_over_what_may_change_and_keeps_the_rest() -> None:
    x, generator = torch.rand(5, 4, generator=seeded(1)), Generator(4, noise=3, rng=seeded())
    mask = torch.tensor([[1.0, 0, 1, 0]])
    made = generator.draw(5, seeded(2)).detach()
    z = mimic(
        lambda z: -(z - made).abs().sum(1), x, Masked(Linf(1.0), mask), generator=generator, draws=1, rng=seeded(2)
    )
    torch.testing.assert_close(z, torch.where(mask > 0, made, x), rtol=0, atol=0)


def test_the_discriminator_ascends_flagged_less_passed() -> None:
    score = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    flags = torch.tensor([True, False, False, True, False])
    mean = (1 + 8) / 2 - (2 + 4 + 16) / 3
    torch.testing.assert_close(imitation(score, flags).mean().item(), mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(imitation(score, flags | True).mean().item(), 31 / 5, rtol=0, atol=1e-6)
    torch.testing.assert_close(imitation(score, flags & False).mean().item(), -31 / 5, rtol=0, atol=1e-6)


def test_the_gradient_passes_the_projection_and_stops_at_what_may_not_change() -> None:
    x = X[:6].double()
    threat = Feasible(FITTED, 0.2)
    may = movable(threat, x)
    gan = IdsGan(FITTED.width, noise=2, width=4, rng=seeded()).double()
    z = gan.made(x, threat, may, seeded(1))
    assert threat.contains(z.detach(), x).all()
    weight = torch.randn(FITTED.width, generator=seeded(2), dtype=torch.float64)
    last = gan.generator[-1]
    assert isinstance(last, nn.Linear)
    (z @ weight).sum().backward()
    change = gan(x, seeded(1)).detach()
    slope = (0.2 * (1 - change**2) * may * weight).sum(0)  # of eps tanh(a) w, coordinates that may change only
    torch.testing.assert_close(last.bias.grad, slope, rtol=0, atol=1e-9)
    assert (slope[~may.any(0)] == 0).all()


def test_idsgan_learns_to_evade_a_detector_that_only_says_yes_or_no() -> None:
    rng = seeded(3)
    malicious = torch.rand(200, 3, generator=rng) * 0.2 + torch.tensor([0.6, 0.4, 0.4])
    benign = torch.rand(200, 3, generator=rng) * 0.3 + torch.tensor([0.1, 0.4, 0.4])
    asked = [0]

    def detector(u: Tensor) -> Tensor:
        asked[0] += len(u)
        return alarm(u)

    threat = Linf(0.4)
    gan = fit_idsgan(
        detector, malicious, benign, threat, seeded(), steps=60, batch=32, noise=2, width=16, critic_steps=3,
        clip=0.1, learning_rate=2e-3,
    )  # fmt: skip
    assert asked[0] == 200 + 60 * 3 * 32
    assert all(float(p.abs().max()) <= 0.1 + 1e-6 for p in gan.discriminator.parameters())

    def evaded(network: IdsGan) -> float:
        made = network.made(malicious, threat, movable(threat, malicious), seeded(4))
        return float((~alarm(made)).float().mean())

    assert evaded(gan) > 0.95
    assert evaded(IdsGan(3, noise=2, width=16, rng=seeded())) < 0.6
    fixed = Masked(threat, torch.tensor([[0.0, 1, 1]]))
    z = idsgan(lambda z: -z[:, 0], malicious, fixed, gan=gan, rng=seeded())
    assert torch.equal(z, malicious)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit(torch.zeros(0, 3)), r"'benign' parameter must have shape \[N, d\], N >= 1. Got \(0, 3\)"),
        (lambda: fit(X, steps=0), r"'steps' parameter must be an int in the range \[1, inf\). Got 0"),
        (lambda: fit(X, penalty=0.0), "'penalty'"),
        (lambda: mimicking(X, Linf(0.1), 0, 0), "'draws'"),
        (lambda: changing(X, Linf(0.1), 0, 0), "'draws'"),
        (lambda: fit_idsgan(alarm, X, X, Linf(0.1), clip=-1.0), "'clip'"),
        (lambda: fit_idsgan(alarm, X, X[:, 1:], Linf(0.1)), f"'benign' parameter must have {FITTED.width} columns"),
        (
            lambda: fit_idsgan(lambda u: u[:, 0], X, X, Linf(0.1)),
            r"must answer with bool \[40\]. Got torch.float32 \[40\]",
        ),
    ],
)
def test_wrong_parameters_are_named(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
