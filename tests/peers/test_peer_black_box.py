"""Score-based black-box attacks beside those of released packages, at equal queries: ours leave no more standing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks.natural_evolution import nes, spsa
from sparring.attacks.square import square
from sparring.core.attack import Attack
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.threat import L1, L2, Linf, Threat

Set = tuple[Tensor, Tensor]
Check = Callable[[Tensor, Tensor], None]
QUERIES = 250


class Tally(nn.Module):
    """The model, and how many rows and calls it has answered."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows, self.calls = model, 0, 0

    def forward(self, z: Tensor) -> Tensor:
        self.rows += len(z)
        self.calls += 1
        answer: Tensor = self.model(z)
        return answer


def standing(model: nn.Module, z: Tensor, y: Tensor, x: Tensor, threat: Threat) -> Tensor:
    assert threat.contains(z, x).all()
    with torch.no_grad():
        return model(z).argmax(1) == y


def ours(attack: Attack, model: nn.Module, data: Set, threat: Threat, queries: int) -> Tensor:
    x, y = data
    meter = Meter.of(len(x))
    z = attack(Counted(ClassifierGain(model, y, margin), meter), x, threat, rng=torch.Generator().manual_seed(0))
    assert meter.forwards.max() <= queries
    return standing(model, z, y, x, threat)


def bound(attack: Any, **parameters: Any) -> Attack:
    return lambda gain, x, threat, /, *, rng=None: attack(gain, x, threat, rng=rng, **parameters)


@pytest.mark.parametrize(
    ("name", "threat"), [("Linf", Linf(0.12)), ("L2", L2(0.6)), ("L1", L1(3.0))], ids=["Linf", "L2", "L1"]
)
def test_square_beside_pyautoattack(
    name: str, threat: Threat, digits_model: nn.Module, digits_test: Set, not_weaker: Check
) -> None:
    peer = pytest.importorskip("pyautoattack.square")
    x, y = digits_test
    tally = Tally(digits_model)
    with torch.random.fork_rng(), torch.no_grad():  # x, its start, and then its queries; one more to verify
        attack = peer.SquareAttack(tally, norm=name, eps=threat.eps, n_queries=QUERIES - 2, seed=0)
        z = attack.perturb(x, y)
    assert tally.calls == QUERIES + 1
    theirs = standing(digits_model, threat.project(z, x), y, x, threat)
    mine = ours(bound(square, queries=QUERIES), digits_model, digits_test, threat, QUERIES)
    assert 0.1 < theirs.double().mean() < 0.9
    not_weaker(mine, theirs)


@pytest.mark.parametrize(("name", "threat"), [("Linf", Linf(0.12)), ("L2", L2(0.6))], ids=["Linf", "L2"])
def test_square_beside_torchattacks(
    name: str, threat: Threat, digits_model: nn.Module, digits_test: Set, not_weaker: Check
) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y = digits_test
    tally = Tally(digits_model).eval()
    with torch.random.fork_rng():
        attack = peer.Square(tally, norm=name, eps=threat.eps, n_queries=QUERIES - 2, seed=0)
        tally.calls = 0
        z = attack(x, y)
    assert tally.calls >= QUERIES
    theirs = standing(digits_model, threat.project(z, x), y, x, threat)
    mine = ours(bound(square, queries=QUERIES), digits_model, digits_test, threat, QUERIES)
    not_weaker(mine, theirs)


def test_square_beside_art(digits_model: nn.Module, digits_test: Set, not_weaker: Check) -> None:
    """In the maximum norm only: ART 1.20.1 divides its L2 bumps by the length that they should get."""
    evasion = pytest.importorskip("art.attacks.evasion")
    classification = pytest.importorskip("art.estimators.classification")
    (x, y), threat = digits_test, Linf(0.12)
    tally = Tally(digits_model).eval()
    classifier = classification.PyTorchClassifier(
        tally, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    state = np.random.get_state()
    np.random.seed(0)
    attack = evasion.SquareAttack(
        classifier, norm=np.inf, eps=threat.eps, max_iter=QUERIES // 2, batch_size=len(x), verbose=False
    )
    z = torch.from_numpy(attack.generate(x.numpy(), F.one_hot(y, 10).numpy()))
    np.random.set_state(state)
    assert tally.calls >= QUERIES  # it asks about every square more than once
    theirs = standing(digits_model, threat.project(z, x), y, x, threat)
    mine = ours(bound(square, queries=QUERIES // 2), digits_model, digits_test, threat, QUERIES // 2)
    not_weaker(mine, theirs)


def test_estimated_gradients_beside_torchattacks(digits_model: nn.Module, digits_test: Set, not_weaker: Check) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y = digits_test
    threat = Linf(0.12)
    tally = Tally(digits_model).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = peer.SPSA(tally, eps=0.12, delta=0.01, lr=0.04, nb_iter=10, nb_sample=32, max_batch_size=64)(x, y)
    theirs = standing(digits_model, threat.project(z, x), y, x, threat)
    queries = tally.rows // len(x)
    for attack in (nes, spsa):
        not_weaker(ours(bound(attack, queries=queries), digits_model, digits_test, threat, queries), theirs)
