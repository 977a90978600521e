"""Each attack beside the peers' of the same name: processor time at equal steps in float32, on the same images.

    python benchmarks/attack_speed.py RUN [--images 64] [--repeats 5]

All run one right after the other, in an order that turns with every repeat; the ratio of each repeat is ours over the
peer's, so below 1 is faster. One thread. What each leaves standing (or its median norm) is printed beside it, because a
fast attack that finds nothing is no attack. Needs the extra `peers`, torchattacks and adv-lib.
"""

import argparse
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import sparring
from sparring import runs
from sparring.attacks.apgd import apgd
from sparring.attacks.carlini_wagner import carlini_wagner
from sparring.attacks.deepfool import deepfool
from sparring.attacks.fab import fab_targeted
from sparring.attacks.square import square
from sparring.core.attack import Attack
from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import Loss, cross_entropy, margin
from sparring.core.pgd import pgd
from sparring.core.threat import L2, Linf, Threat, norm
from sparring.engine import record

Run = Callable[[], Tensor]
Case = tuple[str, bool, list[tuple[str, Run]]]
"""Name, whether it is minimal-norm, and what runs: ours first."""


def stand_in() -> None:
    """adv-lib imports packages for its plots and data sets that its attacks do not need."""
    import torch._dynamo  # noqa: F401  looks at every module there is, so before there are stand-ins

    for name in ("visdom", "torchvision", "torchvision.models"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["visdom"].Visdom = object  # type: ignore[attr-defined]
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]  # type: ignore[attr-defined]


def cases(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> list[Case]:
    """Every comparison. Steps, step sizes and starts are the same on all sides."""
    stand_in()
    import adv_lib.attacks as adv_lib
    import foolbox
    import torchattacks
    from pyautoattack.autopgd_base import APGDAttack
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    fool = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    linf, l2 = Linf(eps), L2(2.0)

    def ours(attack: Attack, threat: Threat, loss: Loss) -> Run:
        return lambda: attack(ClassifierGain(model, y, loss), x, threat, rng=torch.Generator().manual_seed(0))

    def of_foolbox(attack: object, epsilon: float | None) -> Run:
        return lambda: attack(fool, x, y, epsilons=epsilon)[1]  # type: ignore[operator]

    steps, step = 20, 2.5 * eps / 20
    size = {"eps": eps, "norm": "Linf", "seed": 0, "device": "cpu", "verbose": False}
    pgd_foolbox = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / 20, steps=20)
    cw = {"steps": 50, "lr": 0.05}
    return [
        (
            "PGD 20",
            False,
            [
                ("sparring", ours(partial(pgd, steps=steps, step_size=step), linf, cross_entropy)),
                ("torchattacks", lambda: torchattacks.PGD(model, eps=eps, alpha=step, steps=steps)(x, y)),
                ("foolbox", of_foolbox(pgd_foolbox, eps)),
            ],
        ),
        (
            "APGD-CE 20",
            False,
            [
                ("sparring", ours(partial(apgd, steps=20), linf, cross_entropy)),
                ("pyautoattack", lambda: APGDAttack(model, n_iter=20, n_restarts=1, **size).perturb(x, y)),
                ("torchattacks", lambda: torchattacks.APGD(model, eps=eps, steps=20, norm="Linf")(x, y)),
                ("adv-lib", lambda: adv_lib.apgd(model, x, y, eps=eps, norm=float("inf"), n_iter=20, targeted=False)),
            ],
        ),
        (
            "CW L2 3 x 50",
            True,
            [
                (
                    "sparring",
                    ours(partial(carlini_wagner, search_steps=3, initial_constant=1.0, **cw), l2, margin),
                ),
                (
                    "adv-lib",
                    lambda: adv_lib.carlini_wagner_l2(
                        model, x, y, learning_rate=0.05, initial_const=1.0, binary_search_steps=3, max_iterations=50
                    ),
                ),
                (
                    "foolbox",
                    of_foolbox(
                        foolbox.attacks.L2CarliniWagnerAttack(
                            binary_search_steps=3, steps=50, stepsize=0.05, initial_const=1.0
                        ),
                        None,
                    ),
                ),
            ],
        ),
        (
            "DeepFool L2 50",
            True,
            [
                ("sparring", ours(partial(deepfool, steps=50), l2, margin)),
                ("adv-lib", lambda: adv_lib.df(model, x, y, steps=50, norm=2)),
                ("torchattacks", lambda: torchattacks.DeepFool(model, steps=50)(x, y)),
                ("foolbox", of_foolbox(foolbox.attacks.L2DeepFoolAttack(steps=50), None)),
            ],
        ),
        (
            "FAB-T Linf 20 x 3",
            True,
            [
                ("sparring", ours(partial(fab_targeted, steps=20, count=3), linf, margin)),
                (
                    "pyautoattack",
                    lambda: FABAttack_PT(
                        model, n_iter=20, n_restarts=1, targeted=True, n_target_classes=3, **size
                    ).perturb(x, y),
                ),
            ],
        ),
        (
            "Square Linf 300",
            False,
            [
                ("sparring", ours(partial(square, queries=300), linf, margin)),
                (
                    "pyautoattack",
                    lambda: SquareAttack(model, n_queries=300, p_init=0.8, n_restarts=1, **size).perturb(x, y),
                ),
                (
                    "torchattacks",
                    lambda: torchattacks.Square(model, eps=eps, n_queries=300, norm="Linf", seed=0)(x, y),
                ),
            ],
        ),
    ]


def timed(run: Run) -> tuple[Tensor, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun = time.process_time()
        z = run()
        return z.detach(), time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    facts = record.read(given.run)
    x, y = runs.load_data(facts, None).test.take(torch.arange(given.images))
    model = sparring.load(given.run)
    print("| attack | library | ratio of times, median (range) | standing or median norm |\n|---|---|--:|--:|")
    with frozen(model):
        right = model(x).argmax(1) == y
        x, y = x[right], y[right]
        for name, minimal, members in cases(model, x, y, facts["config"]["eps"]):
            seconds: dict[str, list[float]] = {who: [] for who, _ in members}
            found: dict[str, Tensor] = {}
            for repeat in range(given.repeats + 1):
                turn = repeat % len(members)
                for who, run in members[turn:] + members[:turn]:
                    found[who], taken = timed(run)
                    if repeat:  # the first warms up
                        seconds[who].append(taken)
            for who, _ in members:
                ratios = [own / peer for own, peer in zip(seconds["sparring"], seconds[who], strict=True)]
                z = found[who]
                lost = model(z).argmax(1) != y
                far = norm(z - x, float("inf") if "Linf" in name else 2)
                far = torch.where(lost, far, torch.inf)
                said = f"{far.median():.4f}" if minimal else f"{int((~lost).sum())} of {len(y)}"
                ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                print(f"| {name} | {who} | {'1' if who == 'sparring' else ratio} | {said} |", flush=True)


if __name__ == "__main__":
    main()
