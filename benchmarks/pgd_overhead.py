"""What `pgd` costs over a bare hand-written sign loop of the same steps. The bar: a median ratio of at most 1.05.

    python benchmarks/pgd_overhead.py [--pairs 21] [--steps 20 10] [--threads 1] [--json]

Both get the same frozen, eval-mode model and the same batch. The bare loop keeps its last iterate; `pgd` keeps each
example's best, which costs it one forward pass more (about 1/60 at 20 steps). The two run in interleaved pairs, the
order alternating, so that drift of the machine falls on both; each pair gives one ratio. Time is this process's CPU
time (`time.process_time`), because other processes share the machine; on an idle CPU it is threads x wall time.
"""

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.gain import ClassifierGain
from sparring.core.gradient import frozen
from sparring.core.payoff import cross_entropy
from sparring.core.pgd import pgd
from sparring.core.threat import Linf

EPS, BATCH, BAR = 0.3, 128, 1.05


class Block(nn.Module):
    """conv-bn-relu-conv-bn plus the input, or a strided 1x1 convolution of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def res_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Block(16, 16, 1), Block(16, 32, 2),
        Block(32, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


NETS: tuple[tuple[str, Callable[[], nn.Module]], ...] = (("conv 32-64", conv_net), ("resnet 16-32-64", res_net))


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """What a textbook writes."""
    z = x + (2 * torch.rand_like(x) - 1) * EPS
    z = z.clamp(0, 1)
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        loss = F.cross_entropy(model(z), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, z)
        z = z.detach() + 2.5 * EPS / steps * gradient.sign()
        z = torch.min(torch.max(z, x - EPS), x + EPS).clamp(0, 1)
    return z.detach()


def ours(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    return pgd(ClassifierGain(model, y, cross_entropy), x, Linf(EPS), steps=steps)


def cpu_time(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def interval(ratios: Tensor, draws: int = 10_000) -> tuple[float, float]:
    """The bootstrap percentile interval, 95 %, of the median."""
    rng = torch.Generator().manual_seed(0)
    picks = torch.randint(0, len(ratios), (draws, len(ratios)), generator=rng)
    low, high = ratios[picks].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
    return low, high


def measure(net: str, model: nn.Module, steps: int, pairs: int) -> dict[str, object]:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand((BATCH, 1, 28, 28), generator=rng)
    y = torch.randint(0, 10, (BATCH,), generator=rng)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    with frozen(model):
        calls = {"ours": partial(ours, model, x, y, steps), "bare": partial(bare, model, x, y, steps)}
        for call in calls.values():
            call()  # warm up
        for pair in range(pairs):
            for name in ("ours", "bare") if pair % 2 else ("bare", "ours"):
                times[name].append(cpu_time(calls[name]))
    seconds = {name: torch.tensor(values, dtype=torch.float64) for name, values in times.items()}
    ratios = seconds["ours"] / seconds["bare"]
    low, high = interval(ratios)
    ratio = ratios.quantile(0.5).item()
    return {
        "net": net, "steps": steps, "pairs": pairs, "bare_s": seconds["bare"].quantile(0.5).item(),
        "pgd_s": seconds["ours"].quantile(0.5).item(), "ratio": ratio, "low": low, "high": high, "met": ratio <= BAR,
    }  # fmt: skip


def cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21, help="interleaved pairs per line, at least 15")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 10], help="attack steps")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.pairs < 15:
        parser.error(f"--pairs must be at least 15. Got {args.pairs}.")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    context = {
        "hardware": cpu(), "torch": torch.__version__, "threads": args.threads, "batch": [BATCH, 1, 28, 28],
        "clock": "time.process_time", "bar": BAR, "command": shlex.join(["python", *sys.argv]),
    }  # fmt: skip
    rows = [measure(net, make(), steps, args.pairs) for net, make in NETS for steps in args.steps]
    if args.json:
        print(json.dumps({**context, "rows": rows}, indent=2))
        return
    for name, value in context.items():
        print(f"{name:>9}: {value}")
    print(f"\n{'net':<16} {'steps':>5} {'n':>3} {'bare s':>8} {'pgd s':>8} {'ratio':>6}  95 % interval  bar {BAR}")
    for row in rows:
        print(
            f"{row['net']:<16} {row['steps']:>5} {row['pairs']:>3} {row['bare_s']:>8.4f} {row['pgd_s']:>8.4f} "
            f"{row['ratio']:>6.3f}  [{row['low']:.3f}, {row['high']:.3f}]  {'met' if row['met'] else 'missed'}"
        )


if __name__ == "__main__":
    main()
