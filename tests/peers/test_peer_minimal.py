"""Minimal-norm attacks beside released ones of the same name, at equal steps: whose adversarial points are nearer?"""

import math
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks.carlini_wagner import carlini_wagner
from sparring.attacks.ddn import ddn
from sparring.attacks.ead import ead
from sparring.attacks.fmn import fmn
from sparring.attacks.nearest import all_rivals
from sparring.core.gain import ClassifierGain
from sparring.core.payoff import margin
from sparring.core.sparse import L0
from sparring.core.threat import L1, L2, Linf

Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]
NEARLY = 1.01
"""Medians of the same algorithm differ by this much through its tie-breaking and the end of its schedule."""


@contextmanager
def quiet(*absent: str) -> Iterator[None]:
    """Releases warn of their own dependencies; what they import and these attacks have no use for is stood in for."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in absent:
            try:
                __import__(name)
            except ImportError:
                module = types.ModuleType(name)
                module.models = module.Visdom = None  # type: ignore[attr-defined]
                patch.setitem(sys.modules, name, module)
        yield


def of_adv_lib(name: str, **options: Any) -> Peer:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        import torch._dynamo  # noqa: F401  looks at every module there is, so before there are stand-ins

        with quiet("visdom", "torchvision"):
            attacks = pytest.importorskip("adv_lib.attacks")
            return getattr(attacks, name)(model, x, y, **options)

    return run


def of_foolbox(name: str, **options: Any) -> Peer:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with quiet():
            foolbox = pytest.importorskip("foolbox")
            attack = getattr(foolbox.attacks, name)(**options)
            z = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[1]
            black = (z == 0).flatten(1).all(1)  # what some of its attacks return where they found nothing
            return torch.where(black[:, None, None, None], x, z)

    return run


def of_torchattacks(name: str, **options: Any) -> Peer:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with quiet():
            return getattr(pytest.importorskip("torchattacks"), name)(model, **options)(x, y)

    return run


CW = {"steps": 60, "search_steps": 4, "initial_constant": 1.0, "lr": 0.05}
EAD = {"steps": 40, "search_steps": 5, "initial_constant": 0.1, "beta": 1e-2}
PAIRS: dict[str, tuple[Any, Any, Peer]] = {
    "ddn, adv_lib": (ddn, L2(1.0), of_adv_lib("ddn", levels=None)),
    "ddn, foolbox": (ddn, L2(1.0), of_foolbox("DDNAttack", steps=100)),
    "fmn l0, adv_lib": (fmn, L0(1), of_adv_lib("fmn", norm=0, steps=100)),
    "fmn l1, adv_lib": (fmn, L1(1.0), of_adv_lib("fmn", norm=1, steps=100)),
    "fmn linf, adv_lib": (fmn, Linf(0.1), of_adv_lib("fmn", norm=math.inf, steps=100)),
    "fmn l2, foolbox": (fmn, L2(1.0), of_foolbox("L2FMNAttack", steps=100)),
    "fmn l2, ddn of adv_lib": (partial(fmn, lead=all_rivals), L2(1.0), of_adv_lib("ddn", levels=None)),
    "fmn l0, foolbox": (fmn, L0(1), of_foolbox("L0FMNAttack", steps=100)),
    "fmn linf, foolbox": (fmn, Linf(0.1), of_foolbox("LInfFMNAttack", steps=100)),
    "cw, adv_lib": (
        partial(carlini_wagner, **CW),
        L2(1.0),
        of_adv_lib(
            "carlini_wagner_l2", max_iterations=60, binary_search_steps=4, initial_const=1.0, learning_rate=0.05
        ),
    ),
    "cw, foolbox": (
        partial(carlini_wagner, **CW),
        L2(1.0),
        of_foolbox("L2CarliniWagnerAttack", steps=60, binary_search_steps=4, initial_const=1.0, stepsize=0.05),
    ),
    "cw, torchattacks": (
        partial(carlini_wagner, steps=100, search_steps=1, initial_constant=5.0),
        L2(1.0),
        of_torchattacks("CW", c=5, steps=100),
    ),
    "ead, foolbox": (
        partial(ead, **EAD),
        L1(1.0),
        of_foolbox(
            "EADAttack", steps=40, binary_search_steps=5, initial_const=0.1, regularization=1e-2, decision_rule="L1"
        ),
    ),
    "ead, torchattacks": (
        partial(ead, **EAD),
        L1(1.0),
        of_torchattacks("EADL1", max_iterations=40, binary_search_steps=5, initial_const=0.1, beta=1e-2),
    ),
    "ead, elastic rule, foolbox": (
        partial(ead, **EAD, elastic_rule=True),
        L2(1.0),
        of_foolbox(
            "EADAttack", steps=40, binary_search_steps=5, initial_const=0.1, regularization=1e-2, decision_rule="EN"
        ),
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_the_median_distance_is_no_larger(
    pair: str,
    digits_model: nn.Module,
    digits_test: tuple[Tensor, Tensor],
    not_weaker: Callable[[Tensor, Tensor], None],
) -> None:
    """An example that was not lost counts as infinitely far, so success is in the median; it is also compared alone."""
    ours, threat, theirs = PAIRS[pair]
    x, y = digits_test[0][:100], digits_test[1][:100]
    gain = ClassifierGain(digits_model, y, margin)
    points = [ours(gain, x, threat), theirs(digits_model, x, y).detach()]
    stands = [~gain.judge(z)[1] for z in points]
    distances = [threat.distance(z.double(), x.double()) for z in points]
    if "elastic" in pair:
        d = [(z - x).flatten(1).double() for z in points]
        distances = [1e-2 * v.abs().sum(1) + v.square().sum(1) for v in d]
    our, their = (torch.where(s, math.inf, d).median() for s, d in zip(stands, distances, strict=True))
    assert our.isfinite()
    assert our <= their * NEARLY, f"{pair}: ours {our:.5f}, theirs {their:.5f}"
    not_weaker(*stands)
