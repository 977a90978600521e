"""The practitioner's table: every method against PGD-AT on one data set, at equal epochs and at equal wall-clock.

    python benchmarks/methods.py OUT --data digits --quick --threads 1
    python benchmarks/methods.py OUT --data mnist --seeds 2 --n 1000 --budget 7200 mixed-at "pgd-at perturb=awp"

A method is the name of a system, and after it what differs in how it is trained, as `sparring reproduce --with` takes
it. One method after the other on the threads given; OUT, a folder outside the repository, keeps the runs (those of the
baseline are shared), so that the same command goes on where it was stopped. OUT/methods.jsonl gets a line for each
method that is done, as `sparring reproduce --json` prints it. Flags that are not listed go to `sparring reproduce`.
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from sparring.commands.comparison import Flags
from sparring.commands.flags import parse, say
from sparring.commands.reproduce import reproduce
from sparring.engine.job import DivergedError
from sparring.evaluation.claim_table import table
from sparring.systems import NAMES

ROOT = Path(__file__).resolve().parent.parent


def claim(method: str, arguments: list[str], out: Path) -> dict[str, Any]:
    """One method put to the test."""
    name, *changes = shlex.split(method)
    words = [name, *(["--with", *changes] if changes else []), *arguments, "--run", str(out / "runs")]
    flags = parse(Flags, words, prog="sparring reproduce", description="")
    return reproduce(flags, shlex.join(["sparring", "reproduce", *words]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder outside the repository")
    parser.add_argument("methods", nargs="*", help="by default every system but standard and pgd-at")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no method is begun")
    arguments, rest = parser.parse_known_intermixed_args()
    out = arguments.out.resolve()
    if out.is_relative_to(ROOT):
        parser.error(f"OUT must be a folder outside the repository. Got {out}.")
    torch.set_num_threads(arguments.threads)
    out.mkdir(parents=True, exist_ok=True)
    methods = arguments.methods or [name for name, _ in NAMES if name not in ("standard", "pgd-at")]
    begun, done, left = time.monotonic(), [], []
    for method in methods:
        if time.monotonic() - begun > arguments.budget:
            left.append(f"{method}: not begun, the budget is spent")
            continue
        try:
            done.append(claim(method, ["--data", arguments.data, *rest], out))
        except DivergedError as error:  # a method that diverges says so in the table's stead, and does not end it
            left.append(f"{method}: {error}")
            continue
        lines = (json.dumps(each, allow_nan=False) for each in done)
        (out / "methods.jsonl").write_text("".join(f"{line}\n" for line in lines))
        say(f"{method}: {done[-1]['verdict']}")
    print(f"command: python {shlex.join(sys.argv)}\n\n{table(done)}")
    print("\n".join(["", *left]))
    if done:
        print(f"hardware: {json.dumps(done[-1]['arms'][0]['hardware'])}")


if __name__ == "__main__":
    main()
