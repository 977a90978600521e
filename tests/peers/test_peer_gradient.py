"""Gradient attacks beside their peers', on one trained model, at equal steps, step sizes and losses."""

import math
import sys
import types
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.apgd import apgd
from sparring.attacks.momentum import mi_fgsm
from sparring.attacks.targeted import targeted
from sparring.core.attack import Attack
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import Loss, cross_entropy, dlr, dlr_towards
from sparring.core.pgd import pgd
from sparring.core.threat import L1, L2, Linf

Ball = Linf | L2 | L1
NotWeaker = Callable[[Tensor, Tensor], None]
BALLS: list[Any] = [Linf(0.15), L2(0.7), L1(1.2)]
NAMES = {Linf: "Linf", L2: "L2", L1: "L1"}
LOSSES: dict[str, Loss] = {"ce": cross_entropy, "dlr": dlr}


@pytest.fixture
def right(digits_model: nn.Module, digits_test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The test images that the model gets right."""
    x, y = digits_test
    rows = digits_model(x).argmax(1) == y
    return x[rows], y[rows]


@pytest.fixture
def left(digits_model: nn.Module, right: tuple[Tensor, Tensor]) -> Callable[..., Tensor]:
    """`left(attack, threat, loss)`: which examples our attack leaves standing, after checking what it returns."""
    x, y = right

    def run(attack: Any, threat: Ball, loss: Loss) -> Tensor:
        gain = ClassifierGain(digits_model, y, loss, pull=dlr_towards)
        z = attack(gain, x, threat, rng=torch.Generator().manual_seed(0))
        assert threat.contains(z, x).all()
        stands = digits_model(z).argmax(1) == y
        assert 0.1 < stands.double().mean() < 0.9  # a comparison that either could lose
        return stands

    return run


def standing(model: nn.Module, z: Tensor, y: Tensor, x: Tensor, threat: Ball) -> Tensor:
    """Who stands at a peer's z, counted for the peer also where z is a rounding error outside."""
    assert (threat.distance(z, x) <= threat.eps * (1 + 1e-4)).all()
    return model(z.float()).argmax(1) == y


@pytest.mark.parametrize("name", ["ce", "dlr"])
@pytest.mark.parametrize("threat", BALLS, ids=lambda t: type(t).__name__)
def test_apgd_beside_pyautoattack(
    threat: Any, name: str, digits_model: nn.Module, right: Any, left: Any, not_weaker: NotWeaker
) -> None:
    peer = pytest.importorskip("pyautoattack.autopgd_base")
    x, y = right
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of single zero gradients
        theirs = peer.APGDAttack(
            digits_model, n_iter=40, norm=NAMES[type(threat)], eps=threat.eps, loss=name, seed=0, device="cpu",
            use_largereps=isinstance(threat, L1),
        ).perturb(x, y)  # fmt: skip
    ours = left(partial(apgd, steps=40, early_stop=True), threat, LOSSES[name])
    not_weaker(ours, standing(digits_model, theirs, y, x, threat))


@pytest.mark.parametrize("threat", BALLS, ids=lambda t: type(t).__name__)
def test_targeted_apgd_beside_pyautoattack(
    threat: Any, digits_model: nn.Module, right: Any, left: Any, not_weaker: NotWeaker
) -> None:
    peer = pytest.importorskip("pyautoattack.autopgd_base")
    x, y = right
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.APGDAttack_targeted(
            digits_model, n_iter=20, norm=NAMES[type(threat)], eps=threat.eps, seed=0, device="cpu",
            n_target_classes=5, use_largereps=isinstance(threat, L1),
        ).perturb(x, y)  # fmt: skip
    ours = left(targeted(partial(apgd, steps=20, early_stop=True), count=5), threat, cross_entropy)
    not_weaker(ours, standing(digits_model, theirs, y, x, threat))


@pytest.mark.parametrize("threat", BALLS[:2], ids=lambda t: type(t).__name__)
def test_gradient_attacks_beside_torchattacks(
    threat: Any, digits_model: nn.Module, right: Any, left: Any, not_weaker: NotWeaker
) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y = right
    torch.manual_seed(0)  # its random starts come from the global generator
    eps, step = threat.eps, threat.eps / 4
    fixed: Attack = partial(pgd, steps=20, step_size=step, early_stop=True)
    auto: Attack = partial(apgd, steps=20, early_stop=True)
    pairs: list[tuple[Any, Any]] = [(peer.APGD(digits_model, norm=NAMES[type(threat)], eps=eps, steps=20), auto)]
    if isinstance(threat, Linf):
        momentum = partial(mi_fgsm, steps=20, step_size=step, early_stop=True)
        pairs.append((peer.PGD(digits_model, eps=eps, alpha=step, steps=20), fixed))
        pairs.append((peer.MIFGSM(digits_model, eps=eps, alpha=step, steps=20), momentum))
    else:
        pairs.append((peer.PGDL2(digits_model, eps=eps, alpha=step, steps=20), fixed))
    for theirs, ours in pairs:
        not_weaker(left(ours, threat, cross_entropy), standing(digits_model, theirs(x, y), y, x, threat))


@pytest.mark.parametrize("threat", BALLS[:2], ids=lambda t: type(t).__name__)
def test_pgd_beside_foolbox(threat: Any, digits_model: nn.Module, right: Any, left: Any, not_weaker: NotWeaker) -> None:
    peer = pytest.importorskip("foolbox")
    x, y = right
    torch.manual_seed(0)
    kind = peer.attacks.LinfPGD if isinstance(threat, Linf) else peer.attacks.L2PGD
    model = peer.PyTorchModel(digits_model, bounds=(0, 1), device="cpu")
    _, z, _ = kind(rel_stepsize=0.1, steps=25)(model, x, y, epsilons=threat.eps)
    ours = left(partial(pgd, steps=25, step_size=0.1 * threat.eps, early_stop=True), threat, cross_entropy)
    not_weaker(ours, standing(digits_model, z, y, x, threat))


@pytest.fixture
def adv_lib(monkeypatch: pytest.MonkeyPatch) -> Any:
    """adv_lib's attacks; what it imports and apgd has no use for (plots, image networks) is an empty stand-in."""
    pytest.importorskip("scipy")

    class Stub(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    for name in ("visdom", "torchvision", "torchvision.models", "torchvision.transforms", "torchvision.utils"):
        try:
            __import__(name)
        except ImportError:
            monkeypatch.setitem(sys.modules, name, Stub(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("adv_lib.attacks.auto_pgd")


@pytest.mark.parametrize("threat", BALLS, ids=lambda t: type(t).__name__)
def test_apgd_beside_adversarial_library(
    threat: Any, adv_lib: Any, digits_model: nn.Module, right: Any, left: Any, not_weaker: NotWeaker
) -> None:
    x, y = right
    torch.manual_seed(0)
    norm = {Linf: math.inf, L2: 2, L1: 1}[type(threat)]
    z = adv_lib.apgd(
        digits_model, x, y, threat.eps, norm, n_iter=40, loss_function="dlr", use_large_reps=isinstance(threat, L1)
    )
    ours = left(partial(apgd, steps=40, early_stop=True), threat, dlr)
    not_weaker(ours, standing(digits_model, z, y, x, threat))
