"""Robust accuracy that a reader can make again: the digits and the MNIST bars, by the command line a user has.

    python benchmarks/robustness.py digits            # three seeds of every system, about six minutes
    python benchmarks/robustness.py mnist             # one run, five minutes of training; needs SPARRING_DATA

Prints one row per run (worst case per example with 95 % Wilson intervals: on the digits over FGSM, PGD-20, and PGD-100
with two restarts on cross-entropy and on margin, on MNIST under the standard ensemble) and the mean and standard error
over seeds.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from sparring.cli import main as sparring

DIGITS: tuple[str, ...] = ()
MNIST = (
    *("--data", "mnist", "--eps", "0.3", "--steps", "5", "--step-size", "0.1", "--eps-warmup", "0.3"),
    *("--epochs", "8", "--batch-size", "64", "--learning-rate", "4e-3", "--ema", "0.998"),
    *("--precision", "bf16", "--compile", "off", "--validation", "0.02", "--validation-steps", "20"),
)
MIXED = ("mixed-at --mixing sum", "mixed-at --mixing batch")
SETS = {
    "digits": (("standard", "pgd-at", *MIXED), DIGITS, "foundation"),
    "mnist": (("pgd-at",), MNIST, "standard"),
}


def measure(folder: Path, system: str, flags: tuple[str, ...], suite: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one run (a finished one is not trained again), and return its record."""
    assert sparring(["train", *system.split(), *flags, "--seed", str(seed), "--run", str(folder)]) == 0
    assert sparring(["evaluate", str(folder), "--suite", suite]) == 0
    return dict(json.loads((folder / "record.json").read_text()))


def percent(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f} % ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.1f} % (standard error {100 * error:.1f}, n = {len(values)} seeds)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--seeds", type=int, default=None, help="runs of each system (digits 3, mnist 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"))
    arguments = parser.parse_args()
    systems, flags, suite = SETS[arguments.set]
    seeds = arguments.seeds or (3 if arguments.set == "digits" else 1)
    print(f"command: python {shlex.join(sys.argv)}")
    print("| system | seed | clean | worst case | n | train s | evaluate s | times a standard step |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    totals = []
    for system in systems:
        rows = []
        for seed in range(seeds):
            folder = arguments.out / f"{arguments.set}-{system.replace(' --mixing ', '-')}-{seed}"
            record = measure(folder, system, flags, suite, seed)
            results = record["evaluation"]["results"]
            rows.append(results)
            train, evaluate = record["timing"]["seconds"], record["evaluation"]["seconds"]
            cells = [system, seed, percent(results["clean"]), percent(results["worst"]), record["evaluation"]["n"]]
            print(
                "|",
                " | ".join(
                    map(str, [*cells, f"{train:.0f}", f"{evaluate:.0f}", f"{record['timing']['step_ratio']:.1f}"])
                ),
                "|",
                flush=True,
            )
        clean, worst = ([row[name]["accuracy"] for row in rows] for name in ("clean", "worst"))
        totals.append(f"{system}: clean {mean(clean)}, worst case {mean(worst)}")
    print("\n".join(totals))
    print(f"hardware: {json.dumps(record['hardware'])}; versions: {json.dumps(record['versions'])}")


if __name__ == "__main__":
    main()
