"""Transfer: the attack on the surrogate, exactly, and what it costs the model."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.transfer import transfer
from sparring.core.attack import Attack
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.pgd import pgd
from sparring.core.threat import Linf

Images = tuple[Tensor, Tensor]


@pytest.fixture
def surrogate(curved: nn.Module) -> nn.Module:
    """Another, linear model of the same images."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 5)).eval().requires_grad_(False)


def test_transfer_is_the_attack_on_the_surrogate(curved: nn.Module, surrogate: nn.Module, images: Images) -> None:
    x, y = images
    attack: Attack = partial(pgd, steps=5)
    meter = Meter.of(len(x))
    gain = Counted(ClassifierGain(curved, y, margin), meter)
    sent = transfer(attack, lambda gain: ClassifierGain(surrogate, y, margin))
    z = sent(gain, x, Linf(0.2), rng=torch.Generator().manual_seed(0))
    white = ClassifierGain(surrogate, y, margin)
    assert torch.equal(z, attack(white, x, Linf(0.2), rng=torch.Generator().manual_seed(0)))
    assert meter.forwards.sum() == meter.backwards.sum() == 0


def test_transfer_to_the_model_itself_is_the_attack(curved: nn.Module, images: Images) -> None:
    gain, x = ClassifierGain(curved, images[1], margin), images[0]
    same = transfer(partial(pgd, steps=5), lambda gain: replace(gain, model=curved))
    here, there = (a(gain, x, Linf(0.1), rng=torch.Generator().manual_seed(0)) for a in (partial(pgd, steps=5), same))
    assert torch.equal(here, there)


def test_transfer_follows_the_rows_of_the_gain_it_is_given(
    curved: nn.Module, surrogate: nn.Module, images: Images
) -> None:
    """Narrowed to some examples, the gain brings their labels along."""
    gain, x = ClassifierGain(curved, images[1], margin), images[0]
    sent = transfer(partial(pgd, steps=5, random_start=False), lambda gain: replace(gain, model=surrogate))
    rows = torch.tensor([5, 2, 11])
    assert torch.equal(sent(gain, x, Linf(0.1))[rows], sent(gain.take(rows), x[rows], Linf(0.1)))


def test_a_judged_transfer_pays_one_query_and_returns_x_where_it_failed(
    curved: nn.Module, surrogate: nn.Module, images: Images
) -> None:
    x, y = images
    attack = partial(pgd, steps=5, random_start=False)

    def replaced(gain: Any) -> ClassifierGain:
        return ClassifierGain(surrogate, y, margin)

    meter = Meter.of(len(x))
    gain = Counted(ClassifierGain(curved, y, margin), meter)
    z = transfer(attack, replaced, judge=True)(gain, x, Linf(0.05))
    assert (meter.forwards == 1).all()
    tried = transfer(attack, replaced)(gain, x, Linf(0.05))
    lost = gain.judge(tried)[1]
    assert lost.any()
    assert not lost.all()
    assert torch.equal(z[lost], tried[lost])
    assert torch.equal(z[~lost], x[~lost])
