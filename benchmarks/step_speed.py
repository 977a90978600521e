"""What one PGD-10 adversarial training step costs, ours against the peers', in interleaved repeats of one process.

    python benchmarks/step_speed.py [--models small-conv resnet18 preact-resnet18] [--repeats 7] [--threads 1]
        [--compile off|auto|on] [--json]

Every contender trains its own copy of the same network on the same batch: ten PGD steps of eps/4 from a random start,
then one SGD step on the adversarial inputs. `auto` is ours as a run computes it, `ours-32` ours in plain float32; the
overhead of the core is `ours-32` over `bare`, the same step written by hand. `standard` is one step without an attack,
which the multiples refer to. Time is processor time of this process, because the machine may be shared; the ratio of a
pair is taken within one repeat, the order rotating, and the median with the smallest and largest is printed.

torchattacks, foolbox and ART (`pip install sparring[peers]`) take part where they are installed. MAIR is no package:
its formula is written out (its attack sees train mode, and its steps are torchattacks').
"""

import argparse
import copy
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.game import play
from sparring.core.tools import Tools
from sparring.domains.image import models
from sparring.engine.fast import Choice, choose, dress
from sparring.systems import free_at, n_fgsm, pgd_at, standard

SHAPES = {"small-conv": ((1, 28, 28), 0.3, 128)}
USUAL = ((3, 32, 32), 8 / 255, 64)
STEPS = 10
LONG = 100_000
"""Rounds ahead, of a run that is long enough for a compilation to pay."""

Step = Callable[[], object]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def attack_by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    z = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(STEPS):
        z.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(z), y), z)
        z = torch.min(torch.max(z.detach() + eps / 4 * gradient.sign(), x - eps), x + eps).clamp(0, 1)
    return z.detach()


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, z: Tensor, y: Tensor) -> None:
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(z), y).backward()
    optimizer.step()


def bare(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Step:
    """By hand: eval-mode attack without weight gradients, float32."""
    optimizer = sgd(model)

    def step() -> None:
        model.eval().requires_grad_(False)
        z = attack_by_hand(model, x, y, eps)
        model.requires_grad_(True)
        descend(model, optimizer, z, y)

    return step


def mair(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Step:
    """MAIR's formula: the attack sees the model in train mode and with weight gradients switched on."""
    optimizer = sgd(model)

    def step() -> None:
        model.train()
        descend(model, optimizer, attack_by_hand(model, x, y, eps), y)

    return step


def torchattacks(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Step:
    import torchattacks as peer

    optimizer, attack = sgd(model), peer.PGD(model, eps=eps, alpha=eps / 4, steps=STEPS)

    def step() -> None:
        model.eval()
        descend(model, optimizer, attack(x, y), y)

    return step


def foolbox(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Step:
    import foolbox as peer

    optimizer, attack = sgd(model), peer.attacks.LinfPGD(rel_stepsize=0.25, steps=STEPS)

    def step() -> None:
        handle = peer.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
        _, z, _ = attack(handle, x, y, epsilons=eps)
        descend(model, optimizer, z, y)

    return step


def art(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Step:
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, sgd(model), clip_values=(0, 1))
    trainer = AdversarialTrainerMadryPGD(
        classifier, nb_epochs=1, batch_size=len(x), eps=eps, eps_step=eps / 4, max_iter=STEPS, num_random_init=1
    )
    inputs, labels = x.numpy(), F.one_hot(y, 10).numpy()
    return lambda: trainer.fit(inputs, labels)


def ours(system: object, choice: Choice, model: nn.Module, batch: tuple[Tensor, Tensor], **config: object) -> Step:
    played, view = dress(model, choice, batch[0])
    made = system.Config(**config)  # type: ignore[attr-defined]
    tools = Tools(rng=torch.Generator().manual_seed(0), view=view)
    game = system.game(made, model=played, optimizer=sgd(model), tools=tools)  # type: ignore[attr-defined]
    return lambda: list(play(game, [batch]))


def contenders(spec: str, compiling: Literal["off", "auto", "on"]) -> dict[str, Step]:
    shape, eps, size = SHAPES.get(spec, USUAL)
    torch.manual_seed(0)
    model = models.build(spec, shape, 10, (0.5,) * shape[0], (0.25,) * shape[0])
    x, y = torch.rand(size, *shape), torch.randint(0, 10, (size,))

    def fresh() -> nn.Module:
        return copy.deepcopy(model)

    found = choose(model, (x, y), precision="auto", compiling=compiling, rounds=LONG)
    print(f"{spec}: auto is attack '{found.attack}', learner '{found.learner}' {found.note}", flush=True)
    plain, batch = Choice(), (x, y)
    pgd = {"eps": eps, "steps": STEPS, "step_size": eps / 4}
    steps = {
        "auto": ours(pgd_at, found, fresh(), batch, **pgd),
        "ours-32": ours(pgd_at, plain, fresh(), batch, **pgd),
        "bare": bare(fresh(), x, y, eps),
        "standard": ours(standard, plain, fresh(), batch),
        "n-fgsm-32": ours(n_fgsm, plain, fresh(), batch, eps=eps),
        "free-32, a replay": ours(free_at, plain, fresh(), batch, eps=eps, replays=1),
        "mair": mair(fresh(), x, y, eps),
    }
    for make in (torchattacks, foolbox, art):
        try:
            steps[make.__name__] = make(fresh(), x, y, eps)
        except ImportError as error:
            print(f"{make.__name__} does not take part: {error}", flush=True)
    return steps


def measure(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each contender in every repeat, after one that is not counted."""
    names, times = list(steps), {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            begun = time.process_time()
            steps[name]()
            if repeat:
                times[name].append(time.process_time() - begun)
    return times


def ratio(above: list[float], below: list[float]) -> list[float]:
    """Median, smallest and largest of the pairs' ratios."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["small-conv", "resnet18", "preact-resnet18"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", choices=("off", "auto", "on"), default="off")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    results: dict[str, object] = {"threads": args.threads, "machine": platform.processor() or platform.machine()}
    for spec in args.models:
        times = measure(contenders(spec, args.compile), args.repeats)
        peers = [name for name in times if name in ("bare", "mair", "torchattacks", "foolbox", "art")]
        fastest = min(peers, key=lambda name: statistics.median(times[name]))
        table = {
            f"fastest peer ({fastest}) / auto": ratio(times[fastest], times["auto"]),
            "ours-32 / bare": ratio(times["ours-32"], times["bare"]),
            **{f"{name} / standard": ratio(times[name], times["standard"]) for name in times if name != "standard"},
        }
        results[spec] = table
        for name, (median, low, high) in table.items():
            print(f"  {name:<40}{median:7.2f}  ({low:.2f} to {high:.2f}, n = {args.repeats})", flush=True)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
