"""DeepFool and FAB beside their peers', on one trained model: whose lost points are nearer?"""

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.deepfool import deepfool
from sparring.attacks.fab import fab, fab_targeted
from sparring.attacks.minimal import within
from sparring.core.attack import Attack
from sparring.core.counting import Counted, Meter
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.threat import L1, L2, Linf

Ball = Linf | L2 | L1
NAMES = {Linf: "Linf", L2: "L2", L1: "L1"}
UNIT: list[Any] = [Linf(1.0), L2(1.0), L1(1.0)]


@pytest.fixture
def right(digits_model: nn.Module, digits_test: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The first hundred test images that the model gets right."""
    x, y = digits_test
    rows = (digits_model(x).argmax(1) == y).nonzero().squeeze(1)[:100]
    return x[rows], y[rows]


@pytest.fixture
def adv_lib_deepfool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """adv_lib's DeepFool; what its package imports on the way and no attack here needs is a stand-in."""
    for name in ("visdom", "torchvision", "torchvision.models"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["visdom"].Visdom = object  # type: ignore[attr-defined]
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]  # type: ignore[attr-defined]
    before = set(sys.modules)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pytest.importorskip("adv_lib.attacks.deepfool").df
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("adv_lib"):
                del sys.modules[name]


def sizes(model: nn.Module, z: Tensor, x: Tensor, y: Tensor, threat: Ball) -> Tensor:
    """The distance of each lost point, inf where the point stands."""
    assert ((z >= 0) & (z <= 1)).all()
    return torch.where(model(z).argmax(1) != y, threat.distance(z, x), torch.inf)


def ours(attack: Attack, model: nn.Module, x: Tensor, y: Tensor, threat: Ball) -> Tensor:
    gain = ClassifierGain(model, y, margin)
    return sizes(model, attack(gain, x, threat, rng=torch.Generator().manual_seed(0)), x, y, threat)


def assert_no_larger(mine: Tensor, theirs: Tensor) -> None:
    """The medians, and the paired relative difference within two of its standard errors."""
    assert mine.isfinite().sum() >= theirs.isfinite().sum()
    assert mine.median() <= theirs.median() * 1.002, (mine.median(), theirs.median())
    both = mine.isfinite() & theirs.isfinite()
    change = (mine[both] / theirs[both]).log()
    error = change.std() / len(change) ** 0.5
    assert change.mean() <= 2 * error, (change.mean(), error)


@pytest.mark.parametrize("threat", UNIT[:2], ids=["Linf", "L2"])
def test_deepfool_is_no_farther_than_that_of_adv_lib(
    threat: Ball, adv_lib_deepfool: Any, digits_model: nn.Module, right: tuple[Tensor, Tensor]
) -> None:
    x, y = right
    norm = float("inf") if isinstance(threat, Linf) else 2
    z = adv_lib_deepfool(digits_model, x, y, steps=50, norm=norm)
    assert_no_larger(ours(deepfool, digits_model, x, y, threat), sizes(digits_model, z, x, y, threat))


def test_deepfool_is_no_farther_than_that_of_torchattacks(
    digits_model: nn.Module, right: tuple[Tensor, Tensor]
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    x, y = right[0][:30], right[1][:30]
    z = torchattacks.DeepFool(digits_model, steps=50, overshoot=0.02)(x, y)
    assert_no_larger(ours(deepfool, digits_model, x, y, L2(1.0)), sizes(digits_model, z, x, y, L2(1.0)))


@pytest.mark.parametrize("threat", UNIT[:2], ids=["Linf", "L2"])
def test_deepfool_is_no_farther_than_that_of_foolbox(
    threat: Ball, digits_model: nn.Module, right: tuple[Tensor, Tensor]
) -> None:
    foolbox = pytest.importorskip("foolbox")
    x, y = right
    attack = {Linf: foolbox.attacks.LinfDeepFoolAttack, L2: foolbox.attacks.L2DeepFoolAttack}[type(threat)]()
    _, z, _ = attack(foolbox.PyTorchModel(digits_model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)
    assert_no_larger(ours(deepfool, digits_model, x, y, threat), sizes(digits_model, z, x, y, threat))


@pytest.mark.parametrize("threat", UNIT, ids=NAMES.values())
@pytest.mark.parametrize("aimed", [False, True], ids=["fab", "fab_targeted"])
def test_fab_is_no_farther_than_that_of_its_authors(
    threat: Ball, aimed: bool, digits_model: nn.Module, right: tuple[Tensor, Tensor]
) -> None:
    """Theirs keeps the first target that comes within eps, so it is asked for one target only."""
    peer = pytest.importorskip("pyautoattack.fab_pt")
    x, y = right
    name = NAMES[type(threat)]
    steps = 50 if aimed else 20
    theirs = peer.FABAttack_PT(
        digits_model, norm=name, n_iter=steps, eps=1e6, targeted=aimed, n_target_classes=1, device="cpu"
    )
    z = theirs.perturb(x, y)
    mine: Attack = partial(fab_targeted, steps=steps, count=1) if aimed else partial(fab, steps=steps)
    assert_no_larger(ours(mine, digits_model, x, y, threat), sizes(digits_model, z, x, y, threat))


@pytest.mark.parametrize("threat", [Linf(0.15), L2(0.7), L1(1.2)], ids=NAMES.values())
def test_fab_within_eps_leaves_no_more_standing_than_that_of_its_authors(
    threat: Ball,
    digits_model: nn.Module,
    right: tuple[Tensor, Tensor],
    not_weaker: Callable[[Tensor, Tensor], None],
) -> None:
    peer = pytest.importorskip("pyautoattack.fab_pt")
    x, y = right[0][:60], right[1][:60]
    theirs = peer.FABAttack_PT(
        digits_model, norm=NAMES[type(threat)], n_iter=25, eps=threat.eps, targeted=True, device="cpu"
    )
    far = sizes(digits_model, theirs.perturb(x, y), x, y, threat)
    meter = Meter.of(len(x))
    gain = Counted(ClassifierGain(digits_model, y, margin), meter)
    z = within(partial(fab_targeted, steps=25, early_stop=True))(gain, x, threat)
    assert threat.contains(z, x).all()
    stands = digits_model(z).argmax(1) == y
    assert 0.1 < stands.double().mean() < 0.9
    not_weaker(stands, far > threat.eps)
    assert (meter.backwards <= 9 * 25).all()
    assert meter.forwards[stands].double().mean() < 1.2 * 9 * 25  # theirs: two for every step
