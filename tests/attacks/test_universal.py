"""Universal perturbations: one delta for all, the exact maximum on a linear model, and what holds on any."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.universal import shared_perturbation, universal
from sparring.core.compose import Masked
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import cross_entropy, margin
from sparring.core.threat import L1, L2, Linf, norm

Images = tuple[Tensor, Tensor]
balls = pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(1.0)], ids=lambda t: type(t).__name__)


@pytest.mark.parametrize("batch_size", [6, 20, 128])
@pytest.mark.parametrize(("threat", "dual"), [(Linf(0.1), 1.0), (L2(0.3), 2.0), (L1(0.3, sparsity=1.0), math.inf)])
def test_the_shared_step_of_a_linear_model_is_the_best_of_each(
    linear: nn.Module, rng: torch.Generator, threat: Any, dual: float, batch_size: int
) -> None:
    """With one label for all, every margin has the same w: one delta raises each by eps ||w||_q, far from the box."""
    x = 0.4 + 0.2 * torch.rand((20, 12), generator=rng, dtype=torch.float64)
    linear.requires_grad_(False)
    gain = ClassifierGain(linear, torch.zeros(20, dtype=torch.long), margin)
    z = universal(gain, x, threat, batch_size=batch_size, ceiling=math.inf, rng=rng)
    best = gain(x) + threat.eps * norm((linear.weight[1] - linear.weight[0])[None], dual)
    torch.testing.assert_close(gain(z), best, rtol=0, atol=1e-9)


@balls
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_delta_is_shared_and_then_cut_to_the_box(
    threat: Any, dtype: torch.dtype, curved: nn.Module, images: Images
) -> None:
    curved = curved.to(dtype).requires_grad_(False)
    rng = torch.Generator().manual_seed(1)
    x = torch.where(torch.rand(images[0].shape, generator=rng) < 0.3, images[0].round(), images[0]).to(dtype)
    gain, before = ClassifierGain(curved, images[1], cross_entropy), x.clone()
    z, delta = (
        run(gain, x, threat, batch_size=10, rng=torch.Generator().manual_seed(0))
        for run in (universal, shared_perturbation)
    )
    assert delta.shape == (1, *x.shape[1:])
    assert z.dtype == delta.dtype == dtype
    assert threat.contains(z, x).all()
    assert replace(threat, low=-1.0, high=1.0).contains(delta, torch.zeros_like(delta)).all()
    torch.testing.assert_close(z, (x + delta).clamp(0, 1), rtol=0, atol=4 * torch.finfo(dtype).eps)
    assert (x + delta > 1).any()
    assert torch.equal(x, before)


@balls
def test_it_raises_the_mean_gain_and_a_shared_delta_is_no_better_than_each_ones_own(
    threat: Any, curved: nn.Module, images: Images, rng: torch.Generator
) -> None:
    gain, x = ClassifierGain(curved.requires_grad_(False), images[1], margin), images[0]
    together = gain(universal(gain, x, threat, epochs=20, ceiling=math.inf, rng=rng))
    alone = torch.cat([
        gain.take(i)(universal(gain.take(i), x[i], threat, epochs=20, ceiling=math.inf))
        for i in torch.arange(len(x)).split(1)
    ])  # fmt: skip
    assert together.mean() > gain(x).mean() + 0.02
    assert alone.mean() > together.mean()


def test_what_is_long_lost_decides_nothing(rng: torch.Generator) -> None:
    """Two examples pull delta one way and one, ten times as hard, the other: with a ceiling it is outvoted once it is
    lost, without one it wins."""
    pull = torch.tensor([[1.0], [1.0], [-10.0]], dtype=torch.float64)

    def gain(z: Tensor) -> Tensor:
        return (pull * (z - 0.5)).sum(1) + torch.tensor([-0.05, -0.05, 5.0])

    x = torch.full((3, 1), 0.5, dtype=torch.float64)
    free = universal(gain, x, Linf(0.1), ceiling=math.inf, rng=rng)
    held = universal(gain, x, Linf(0.1), ceiling=1.0, rng=rng)
    torch.testing.assert_close(free, x - 0.1)
    torch.testing.assert_close(held, x + 0.1)


def test_each_epoch_costs_two_passes_and_one_gradient(curved: nn.Module, images: Images, rng: torch.Generator) -> None:
    meter = Meter.of(24)
    gain = Counted(ClassifierGain(curved.requires_grad_(False), images[1], cross_entropy), meter)
    universal(gain, images[0], Linf(0.1), epochs=3, batch_size=7, rng=rng)
    assert (meter.forwards == 6).all()
    assert (meter.backwards == 3).all()


def test_of_the_epochs_the_best_is_kept(curved: nn.Module, images: Images) -> None:
    """A step far too large jumps about: more epochs still never lower the mean."""
    gain, x = ClassifierGain(curved.requires_grad_(False), images[1], cross_entropy), images[0].double()
    curved.double()
    means = []
    for epochs in range(1, 9):
        rng = torch.Generator().manual_seed(0)
        z = universal(gain, x, Linf(0.2), epochs=epochs, step_size=0.3, batch_size=5, rng=rng)
        means.append(gain(z).mean().item())
    assert means == sorted(means)
    assert len(set(means)) < len(means)  # some epochs were worse than one before


def test_the_same_seed_gives_the_same_delta(curved: nn.Module, images: Images) -> None:
    gain, x = ClassifierGain(curved.requires_grad_(False), images[1], cross_entropy), images[0]
    state = torch.get_rng_state()
    one, two, other = (
        shared_perturbation(gain, x, L2(0.5), epochs=2, batch_size=5, rng=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())


def test_bad_arguments_are_named(curved: nn.Module, images: Images) -> None:
    gain, (x, _) = ClassifierGain(curved, images[1], margin), images
    for bad in ({"epochs": 0}, {"batch_size": True}, {"step_size": -1.0}, {"ceiling": math.nan}):
        with pytest.raises(ValueError, match=f"The '{next(iter(bad))}' parameter must"):
            universal(gain, x, Linf(0.1), **bad)
    with pytest.raises(TypeError, match="needs a ball"):
        universal(gain, x, Masked(Linf(0.1), torch.ones(1, 1, 6, 6)))
    with pytest.raises(TypeError, match="needs a gain with 'judge'"):
        universal(lambda z: z.flatten(1).sum(1), x, Linf(0.1), batch_size=5)
    assert universal(gain, x[:0], Linf(0.1)).shape == x[:0].shape
