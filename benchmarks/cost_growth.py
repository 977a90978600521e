"""How the cost of an adversarial training step grows: with attack steps, width, images per step, and processes.

    python benchmarks/cost_growth.py [--repeats 5] [--devices] [--json]

One quantity is changed at a time around a wide ResNet of depth 10 and width 2 on 16 images of CIFAR's size, PGD-5,
float32. Each row is the processor time of a step relative to the smallest setting, median of interleaved repeats with
the smallest and largest ratio, and the exponent of a power law fitted to the medians by least squares in logarithms
(1 is proportional). `--devices` times runs on one and two processes of one thread each, by the clock: they need idle
cores to mean anything.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from sparring.core.game import play
from sparring.core.tools import Tools
from sparring.domains.image.models import wide_resnet
from sparring.systems import pgd_at

GRID: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("steps", (1, 2, 5, 10, 20)),
    ("width", (1, 2, 4)),
    ("images", (8, 16, 32, 64)),
)


def step(*, steps: int = 5, width: int = 2, images: int = 16) -> Callable[[], object]:
    """One round of PGD-AT at this setting."""
    torch.manual_seed(0)
    model = wide_resnet((3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3, depth=10, width=width)
    batch = torch.rand(images, 3, 32, 32), torch.randint(0, 10, (images,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tools = Tools(rng=torch.Generator().manual_seed(0))
    config = pgd_at.Config(eps=8 / 255, steps=steps)
    game = pgd_at.game(config, model=model, optimizer=optimizer, tools=tools)
    return lambda: list(play(game, [batch]))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x, y = statistics.mean(xs), statistics.mean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def grown(name: str, sizes: Sequence[int], repeats: int) -> dict[str, object]:
    """Cost at every size over the cost at the smallest."""
    steps = [step(**{name: size}) for size in sizes]
    for once in steps:
        once()
    ratios: list[list[float]] = [[] for _ in sizes]
    for _ in range(repeats):
        times = []
        for once in steps:
            begun = time.process_time()
            once()
            times.append(time.process_time() - begun)
        for each, taken in zip(ratios, times, strict=True):
            each.append(taken / times[0])
    medians = [statistics.median(each) for each in ratios]
    ranges = [[min(each), max(each)] for each in ratios]
    return {"sizes": list(sizes), "cost": medians, "range": ranges, "exponent": exponent(sizes, medians)}


def processes(counts: Sequence[int]) -> dict[str, object]:
    """Seconds of an epoch of one and the same run on so many processes, by the clock."""
    seconds = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            words = ["train", "pgd-at", "--data", "digits", "--model", "wrn-10-2", "--epochs", "2"]
            words += [
                "--batch-size",
                "128",
                "--precision",
                "32",
                "--compile",
                "off",
                "--devices",
                str(count),
                "--run",
                str(run),
            ]
            alone = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-m", "sparring", *words], check=True, capture_output=True, env=alone)
            seconds.append(min(epoch["seconds"] for epoch in json.loads((run / "record.json").read_text())["history"]))
    cost = [each / seconds[0] for each in seconds]
    return {"sizes": list(counts), "cost": cost, "exponent": exponent(counts, cost)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: grown(name, sizes, args.repeats) for name, sizes in GRID}
    if args.devices:
        found["processes"] = processes((1, 2))
    print(f"{platform.processor() or platform.machine()}, one thread, n = {args.repeats} repeats")
    for name, row in found.items():
        pairs = zip(row["sizes"], row["cost"], strict=True)  # type: ignore[call-overload]
        cells = ", ".join(f"{size}: {cost:.2f}" for size, cost in pairs)
        print(f"  {name:<10}{cells}; exponent {row['exponent']:.2f}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
