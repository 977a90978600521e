"""Gains and layers that attack what a plain gradient cannot: TRADES' divergence, randomised models, quantisation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks.apgd import apgd
from sparring.attacks.bpda import Bpda
from sparring.attacks.divergence import KLGain
from sparring.attacks.eot import Averaged
from sparring.attacks.momentum import mi_fgsm
from sparring.attacks.targeted import targeted
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain, JudgingGain, RivalGain
from sparring.core.gradient import value_and_gradient
from sparring.core.payoff import cross_entropy, margin
from sparring.core.pgd import fgsm, pgd
from sparring.core.standing import DeadStartError
from sparring.core.threat import L2, Linf

# The divergence from the clean answer


def test_the_divergence_is_the_sum_over_classes(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    gain = KLGain.at(curved, x, y)
    assert isinstance(gain, JudgingGain)
    z = (x + 0.1).clamp(0, 1)
    p, q = F.softmax(curved(x).double(), 1), F.softmax(curved(z).double(), 1)
    torch.testing.assert_close(gain(z).double(), (p * (p / q).log()).sum(1), rtol=1e-4, atol=1e-6)
    value, lost = gain.judge(z)
    torch.testing.assert_close(value, gain(z))
    assert torch.equal(lost, curved(z).argmax(1) != y)
    rows = torch.tensor([3, 1])
    torch.testing.assert_close(gain.take(rows).judge(z[rows])[0], value[rows])
    assert torch.equal(gain.take(rows).judge(z[rows])[1], lost[rows])


def test_no_gradient_reaches_the_reference(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    assert not KLGain.at(curved, x, y).reference.requires_grad
    reference = curved(x).detach().requires_grad_(True)
    z = x.clone().requires_grad_(True)
    gradients = torch.autograd.grad(KLGain(curved, y, reference)(z).sum(), (z, reference), allow_unused=True)
    assert gradients[1] is None


def test_the_divergence_has_to_be_attacked_from_elsewhere(
    curved: nn.Module, images: tuple[Tensor, Tensor], seeded: Callable[..., torch.Generator], rng: torch.Generator
) -> None:
    x, y = images
    gain = KLGain.at(curved, x, y)
    for attack in (pgd, mi_fgsm):
        for early_stop in (False, True):
            with pytest.raises(DeadStartError, match="random_start=True"):
                attack(gain, x, Linf(0.05), random_start=False, early_stop=early_stop)
    for attack in (pgd, apgd, partial(mi_fgsm, random_start=True)):
        z = attack(gain, x, Linf(0.05), rng=seeded(1))
        assert (gain(z) > 4 * gain(Linf(0.05).sample(x, rng))).double().mean() > 0.9
        stopped = attack(gain, x, Linf(0.05), early_stop=True, rng=seeded(1))
        assert (gain.judge(stopped)[1] >= gain.judge(z)[1]).all()
        assert gain.judge(stopped)[1].any()


# The mean over draws


class Noisy(nn.Module):
    """A model of inputs with Gaussian noise of standard deviation sigma, from its own generator."""

    def __init__(self, model: nn.Module, sigma: float, seed: int = 0) -> None:
        super().__init__()
        self.model, self.sigma = model, sigma
        self.rng = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + self.sigma * torch.randn(x.shape, generator=self.rng, dtype=x.dtype))


def test_the_error_of_value_and_gradient_falls_like_one_over_the_root_of_the_draws(linear: nn.Module) -> None:
    """The mean of softplus(margin) over the noise is known by quadrature on a linear model: the error has order 1/2."""
    linear.requires_grad_(False)
    sigma, y = 1.0, torch.zeros(200, dtype=torch.long)
    z = torch.full((200, 12), 0.5, dtype=torch.float64)
    w = linear.weight[1] - linear.weight[0]
    m = (linear(z)[:, 1] - linear(z)[:, 0])[0]
    t = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi) * (t[1] - t[0])
    spread = sigma * w.norm()
    value = (density * F.softplus(m + spread * t)).sum()
    slope = (density * torch.sigmoid(m + spread * t)).sum() * w
    errors = []
    for draws in (4, 64, 256):
        noisy = ClassifierGain(Noisy(linear, sigma), y, cross_entropy)
        mean, gradient = value_and_gradient(Averaged(noisy, draws), z)
        errors.append(((mean - value).square().mean().sqrt(), (gradient - slope).square().mean().sqrt()))
    for few, many in ((zip(errors[0], errors[1], strict=True), zip(errors[0], errors[2], strict=True)),):
        for a, b in few:
            assert 3.0 < a / b < 5.3  # sqrt(16) = 4
        for a, b in many:
            assert 6.0 < a / b < 10.7  # sqrt(64) = 8


def test_the_gradient_is_that_of_the_plain_mean(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """Draw by draw or all at once, also under weights per example, also judged."""
    x, y = images[0].double(), images[1]
    weight = torch.linspace(-1, 2, len(x), dtype=torch.float64)

    def gradient_of(value: Any) -> tuple[Tensor, Tensor]:
        z = x.clone().requires_grad_(True)
        v = value(z)
        return v.detach(), torch.autograd.grad((weight * v).sum(), z)[0]

    def fresh() -> ClassifierGain:
        return ClassifierGain(Noisy(curved.double(), 0.3, seed=7), y, cross_entropy)

    plain = fresh()
    expected = gradient_of(lambda z: torch.stack([plain(z) for _ in range(5)]).mean(0))
    for value in (Averaged(fresh(), 5), lambda z: Averaged(fresh(), 5).judge(z)[0]):
        got = gradient_of(value)
        torch.testing.assert_close(got, expected)
    assert all(p.grad is None for p in curved.parameters())
    with torch.no_grad():
        torch.testing.assert_close(Averaged(fresh(), 5)(x), expected[0])


def test_one_graph_is_alive_at_a_time(linear: nn.Module) -> None:
    """Each draw's backward pass comes before the next draw's forward pass."""
    order = []

    class Traced(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            order.append("forward")
            out = linear(z)
            if out.requires_grad:
                out.register_hook(lambda _: order.append("backward"))
            return out

    z = torch.rand(3, 12, dtype=torch.float64)
    value_and_gradient(Averaged(ClassifierGain(Traced(), torch.zeros(3, dtype=torch.long), margin), 3), z)
    assert order == ["forward", "backward"] * 3


def test_more_than_half_of_the_draws_decide(linear: nn.Module) -> None:
    linear.requires_grad_(False)

    class Flipping(nn.Module):
        """Wrong in the given draws."""

        def __init__(self, *wrong: bool) -> None:
            super().__init__()
            self.wrong = list(wrong)

        def forward(self, z: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0] if self.wrong.pop(0) else [1.0, 0.0]]) * torch.ones(len(z), 1)

    y = torch.zeros(2, dtype=torch.long)
    for wrong, verdict in (((True, False), False), ((True, True, False), True), ((False, True, False), False)):
        gain = ClassifierGain(Flipping(*wrong), y, margin)
        value, lost = Averaged(gain, len(wrong)).judge(torch.rand(2, 12))
        assert lost.tolist() == [verdict] * 2
        torch.testing.assert_close(value, torch.full((2,), 2 * sum(wrong) / len(wrong) - 1))


def test_it_narrows_aims_and_counts_as_what_is_inside_does(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    meter = Meter.of(len(x))
    gain = Averaged(Counted(ClassifierGain(curved, y, margin), meter), 4)
    assert isinstance(gain, RivalGain)
    torch.testing.assert_close(gain.rivals(x), gain.gain.rivals(x))
    assert (meter.forwards == 5).all()
    rows, rival = torch.tensor([2, 0]), torch.tensor([3, 4])
    aimed = gain.take(rows).towards(rival)
    value_and_gradient(aimed, x[rows])
    assert meter.forwards[rows].tolist() == [9, 9]
    assert meter.backwards[rows].tolist() == [4, 4]
    torch.testing.assert_close(aimed(x[rows]), ClassifierGain(curved, y[rows], margin, target=rival)(x[rows]))
    z = targeted(partial(apgd, steps=3, early_stop=True), count=2)(gain, x, Linf(0.05))
    assert Linf(0.05).contains(z, x).all()
    with pytest.raises(ValueError, match="'draws' parameter must be an int"):
        Averaged(gain.gain, 0)


def test_averaging_finds_more_than_one_draw_does(curved: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    clear = ClassifierGain(curved, y, margin)
    noisy = ClassifierGain(Noisy(curved, 0.5), y, margin)
    threat = L2(0.6)
    once, often = (fgsm(gain, x, threat) for gain in (noisy, Averaged(noisy, 50)))
    assert clear(often).mean() > clear(once).mean()


# Through a layer without a gradient


def eight_levels(x: Tensor) -> Tensor:
    return (x * 7).round() / 7


def quantised() -> tuple[nn.Linear, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    model = nn.Linear(20, 2).double().requires_grad_(False)
    model.weight.copy_(torch.randn((2, 20), generator=rng))
    x = torch.rand((10, 20), generator=rng, dtype=torch.float64)
    return model, x, torch.randint(0, 2, (10,), generator=rng)


@pytest.mark.parametrize("attack", [partial(pgd, steps=40), partial(apgd, steps=40)])
def test_through_the_stand_in_an_attack_reaches_the_maximum_behind_quantisation(attack: Any) -> None:
    """Rounding is monotone, so the maximum of w^T q(z) over the box is at its corners: q(x + eps sign w)."""
    model, x, y = quantised()
    w = model.weight[1 - y] - model.weight[y]
    corner = (x + 0.2 * w.sign()).clamp(0, 1)
    best = ClassifierGain(nn.Sequential(Bpda(eight_levels), model), y, margin)(corner)
    rng = torch.Generator().manual_seed(0)
    through = ClassifierGain(nn.Sequential(Bpda(eight_levels), model), y, margin)
    torch.testing.assert_close(through(attack(through, x, Linf(0.2), rng=rng)), best)

    class Rounds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(eight_levels(x))

    with pytest.raises(DeadStartError):
        attack(ClassifierGain(Rounds(), y, margin), x, Linf(0.2), rng=rng)


def test_forward_is_exact_bit_for_bit_and_backward_is_the_stand_ins() -> None:
    x = torch.rand((5, 3), generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    layer = Bpda(eight_levels, lambda x: 1000 * x.sin())  # far off, where a difference would round
    assert torch.equal(layer(x), eight_levels(x))
    weight = torch.randn(5, 3)
    (gradient,) = torch.autograd.grad((weight * layer(x)).sum(), x)
    torch.testing.assert_close(gradient, weight * 1000 * x.cos())
    (gradient,) = torch.autograd.grad((weight * Bpda(eight_levels)(x)).sum(), x)
    assert torch.equal(gradient, weight)
    assert not layer(x.detach()).requires_grad


def test_the_exact_function_may_change_the_dtype_or_be_the_input_itself() -> None:
    x = torch.rand(4, 2, requires_grad=True)
    out = Bpda(lambda x: x.to(torch.float64))(x)
    assert out.dtype == torch.float64
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.dtype == x.dtype
    same = Bpda(lambda x: x)(x)
    same.data.add_(1)  # what comes out is not the input's own memory
    assert (x <= 1).all()


def test_a_stand_in_of_another_shape_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'stand_in' parameter must give the shape of 'exact', \(4, 2\). Got \(4, 1\)"
    ):
        Bpda(eight_levels, lambda x: x[:, :1])(torch.rand(4, 2))
