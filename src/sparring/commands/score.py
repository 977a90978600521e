"""`sparring score MODEL FLOWS`: a verdict on every flow of a file of any size, in bounded memory."""

import io
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro

from sparring.commands.ahead import ahead
from sparring.commands.flags import parse, say
from sparring.commands.scored import Outputs, Waiting, Waking, stopping
from sparring.domains.flow.artefact import FILE, Detector, load
from sparring.domains.flow.lines import Part, parts, piped
from sparring.domains.flow.scoring import Answer, Scorer

PIPE = "-"


@dataclass(frozen=True)
class Flags:
    """Say of every flow of a file whether it is an attack, how sure that is, which layer said so and which columns did
    it. Rows that are malformed are counted and written aside with their line numbers and reasons; nothing stops it."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A detector's file, or the run folder that holds detector.safetensors."""
    flows: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FLOWS")]
    """CSV, ARFF or parquet, the first two also compressed by gzip; - reads CSV or ARFF from standard input."""
    out: str | None = None
    """Where the verdicts go, as CSV; by default scored.csv in the folder of --run. The file appears when it is whole;
    - writes to standard output as they are found."""
    refused: Path | None = None
    """Where the malformed rows go, as CSV; by default refused.csv in the folder of --run."""
    run: Path = Path()
    """Folder for files that have no place of their own; by default the current one."""
    chunk: int = 50_000
    """Flows in memory at once, from 1; a small number answers sooner, a large one more a second."""
    threads: int = 2
    """Threads to use, from 1. From 2 on, one of them reads what comes next in a file; more than 2 go into the layers of
    the detector, which helps large ones on idle cores only."""
    seed: int = 0
    """Taken by every command; nothing here is random."""
    json: bool = False
    """Print the summary as one JSON object."""

    def __post_init__(self) -> None:
        for name in ("chunk", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"The {name!r} parameter must be an int in the range [1, inf). Got {getattr(self, name)!r} instead."
                )
        if self.json and self.out == PIPE:
            raise ValueError("--json and --out - cannot both have standard output. Give --out a file.")


def run(arguments: Sequence[str]) -> int:
    """Score, and return the exit code."""
    flags = parse(Flags, arguments, prog="sparring score", description=Flags.__doc__ or "")
    detector = load(_located(flags.model))
    out = None if flags.out == PIPE else Path(flags.out) if flags.out else flags.run / "scored.csv"
    refused = flags.refused or flags.run / "refused.csv"
    _check_places(flags, out, refused)
    early = flags.threads > 1 and flags.flows != PIPE
    with _threads(max(1, flags.threads - 1)), ExitStack() as stack:
        if flags.flows == PIPE:
            source = cast("io.BufferedReader", stack.enter_context(io.BufferedReader(Waking())))
            read, size = piped(source, detector.preprocessing.schema, flags.chunk), 0
        else:
            path = Path(flags.flows)
            read, size = parts(path, detector.preprocessing.schema, flags.chunk), path.stat().st_size
        outputs = Outputs(out, refused)
        stack.enter_context(stopping(outputs))
        stack.enter_context(outputs)
        found = _encoded(read, detector)
        summary = _score(detector, stack.enter_context(ahead(found)) if early else found, outputs, size)
    summary |= {"model": str(flags.model), "flows": flags.flows, "out": flags.out if out is None else str(out)}
    summary |= {"refused_out": str(refused), "threshold": detector.threshold}
    _tell(summary, outputs)
    if flags.json:
        print(json.dumps(summary))
    elif out is not None:
        print(out)
    return 0


def _score(
    detector: Detector, found: Iterator[tuple[Part, torch.Tensor]], outputs: Outputs, size: int
) -> dict[str, Any]:
    scorer, began = Scorer(detector), time.monotonic()
    alarms, by_layer = 0, torch.zeros(1 + len(detector.layers), dtype=torch.int64)
    with Waiting(size) as waiting:
        for part, u in found:
            if len(u):
                answer = scorer(u)
                outputs.add(part.lines, answer, scorer)
                alarms += int(answer.attack.sum())
                by_layer += _caught(answer, len(by_layer))
            outputs.refuse(part.refused)
            waiting.at(outputs.rows, part.done)
    seconds = time.monotonic() - began
    return {
        "rows": outputs.rows,
        "alarms": alarms,
        "alarms_by_layer": dict(zip(scorer.layers, by_layer.tolist(), strict=True)),
        "refused": outputs.refused,
        "seconds": round(seconds, 3),
        "rows_per_second": round(outputs.rows / seconds),
    }


def _caught(answer: Answer, layers: int) -> torch.Tensor:
    return answer.layer[answer.attack].bincount(minlength=layers)


def _encoded(read: Iterator[Part], detector: Detector) -> Iterator[tuple[Part, torch.Tensor]]:
    """With each part its vectors."""
    for part in read:
        yield part, detector.preprocessing.encode(part.table)


def _located(model: Path) -> Path:
    """The detector's file."""
    if model.is_dir() and not (model / FILE).exists():
        raise ValueError(f"{model} must hold {FILE}: a finished run of `sparring train` on flows. It does not.")
    return model / FILE if model.is_dir() else model


def _check_places(flags: Flags, out: Path | None, refused: Path) -> None:
    """Raises ValueError where one file would be written over another that is needed."""
    places = {"MODEL": _located(flags.model), "--out": out, "--refused": refused}
    places["FLOWS"] = None if flags.flows == PIPE else Path(flags.flows)
    seen: dict[Path, str] = {}
    for name, place in places.items():
        if place is None:
            continue
        if (first := seen.setdefault(place.resolve(), name)) != name:
            raise ValueError(f"{first} and {name} must be different files. Got {place} for both.")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """This many threads in torch; the one that reads ahead is not among them. A detector's layers are small: on cores
    that others use too, a second one here made the whole five times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell(summary: dict[str, Any], outputs: Outputs) -> None:
    rows, alarms, refused = summary["rows"], summary["alarms"], summary["refused"]
    share = f" ({alarms / rows:.1%})" if rows else ""
    speed = f"{summary['seconds']:.1f} s ({summary['rows_per_second']:,} a second)"
    say(f"{rows:,} flows in {speed}, {alarms:,} alarms{share}")
    if refused:
        say(f"{refused:,} malformed rows are in {summary['refused_out']}. The first, {outputs.first_refused}")
