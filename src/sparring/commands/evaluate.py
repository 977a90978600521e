"""`sparring evaluate RUN`: measure how robust a trained run is, on the test set, and write it into its record."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors.torch import save

from sparring import runs, systems, trust
from sparring.commands.flags import parse, say
from sparring.core.seeds import derive
from sparring.core.threat import ball
from sparring.engine import checkpoint, record
from sparring.engine.device import resolve
from sparring.evaluation.evaluate import Advance, Evaluation, evaluate

EXAMPLES = "examples.safetensors"


@dataclass(frozen=True)
class Flags:
    """Measure a trained run on its test set and write the result into its record."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The run folder."""
    run: Path | None = None
    """The run folder, as a flag."""
    examples: int = 1000
    """Test images to use, drawn by the seed; 0 uses all."""
    threat: Literal["linf", "l2", "l1"] | None = None
    """Norm of the ball; by default the one the run trained against."""
    eps: float | None = None
    """Radius in input units; by default the one the run trained against."""
    weights: Literal["best", "last"] = "best"
    """The checkpoint with the best robust validation accuracy, or the last."""
    model: str | None = None
    """package.module:factory of the run's own model, where you have not used it on this machine before."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default where training found them, or SPARRING_DATA."""
    batch_size: int = 256
    """Images at a time; changes memory, not results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes a GPU where there is one."""
    seed: int = 0
    """Of every random start."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""
    fail_on_check: bool = False
    """Exit with 1 when a check fails."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    flags = parse(Flags, arguments, prog="sparring evaluate", description=Flags.__doc__ or "")
    folder = flags.folder or flags.run
    if folder is None or (flags.folder and flags.run and flags.folder != flags.run):
        raise ValueError("evaluate needs one run folder: sparring evaluate RUN, or --run RUN.")
    result = evaluate_run(folder, flags, shlex.join(["sparring", "evaluate", *arguments]))
    if flags.json:
        print(json.dumps(result.as_dict(), allow_nan=False))
    else:
        print(result)
    failed = [check["name"] for check in result.checks if check["verdict"] == "fail"]
    return 1 if flags.fail_on_check and failed else 0


def evaluate_run(folder: Path, flags: Flags, command: str) -> Evaluation:
    """Evaluate a run folder and write the evaluation into its record."""
    facts = record.read(folder)
    if flags.examples < 0:
        raise ValueError(
            f"The 'examples' parameter must be an int in the range [0, inf). Got {flags.examples} instead."
        )
    system = systems.find(facts["system"])
    try:
        config = system.config(**facts["config"])
    except TypeError as error:
        raise record.RecordError(
            f"{folder / record.FILE} has a config that {system.name} does not take: {error}."
        ) from error
    if flags.model is not None:
        trust.remember(flags.model)
    device = resolve(flags.device)
    model = runs.load(folder, model=flags.model, weights=flags.weights).to(device)
    data = runs.load_data(facts, flags.data_root)
    trained = system.threat(config).describe()
    threat = ball(flags.threat or trained["norm"], trained["eps"] if flags.eps is None else flags.eps)
    x, y = data.test.take(_drawn(len(data.test), flags.examples, flags.seed))
    say(f"evaluating {len(y)} test images of {data.name} on {device}")
    with _progress() as advance:
        result = evaluate(
            model,
            (x.to(device), y.to(device)),
            threat=threat,
            seed=flags.seed,
            batch_size=flags.batch_size,
            advance=advance,
        )
    checkpoint.write(folder / EXAMPLES, save(result.examples))
    facts = record.read(folder)
    facts["evaluation"] = {
        **result.as_dict(),
        "split": "test",
        "seed": flags.seed,
        "weights": flags.weights,
        "command": command,
    }
    record.write(folder, facts)
    return result


def _drawn(total: int, count: int, seed: int) -> torch.Tensor:
    """Rows of the test set in their order: the first ones would be one class in a folder sorted by class."""
    if not 0 < count < total:
        return torch.arange(total)
    chance = torch.Generator().manual_seed(derive(seed, "test images"))
    return torch.randperm(total, generator=chance)[:count].sort().values


@contextmanager
def _progress() -> Iterator[Advance]:
    """A bar on stderr, where it is a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("evaluating"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=None)

    def advance(stage: str, done: int, total: int) -> None:
        bar.update(task, completed=done, total=total, description=stage)

    with bar:
        yield advance
