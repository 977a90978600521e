"""`sparring evaluate RUN` of a detector of flows: what it detects, of flows as they came and as they could be sent."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors.torch import save
from torch import Tensor

from sparring import systems
from sparring.commands.answering import evaluated, one_folder
from sparring.commands.evaluate import OUTCOMES
from sparring.commands.flags import say
from sparring.commands.flow_attacks import EPS, drawn_rows
from sparring.commands.flow_measured import STAGES, measured
from sparring.commands.flow_rates import Severities
from sparring.commands.flow_train import left_out_benign
from sparring.commands.progress import progress
from sparring.domains.flow import artefact
from sparring.domains.flow.alarm import Alarm
from sparring.domains.flow.data import MALICIOUS, FlowData, load
from sparring.domains.flow.layout import DataError
from sparring.domains.flow.published import LAYOUTS
from sparring.engine import checkpoint, record
from sparring.evaluation.detection_table import table


@dataclass(frozen=True)
class Flags:
    """Measure what a detector of flows detects on its test set, as the flows came and as an attacker would send them,
    and write the result into the record of its run. Every flow that an attack makes is held to a check of what could
    be sent that shares no code with it."""

    folder: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = None
    """The run folder, with a detector.safetensors in it."""
    examples: int = 1000
    """Malicious test flows to attack, drawn by the seed; 0 attacks all."""
    eps: tuple[float, ...] = ()
    """Radii in scaled space. The first is that of the worst case, the others are measured beside it; by default the one
    trained against, then 0.05, 0.1, 0.2 and 0.3."""
    queries: int = 200
    """Questions that the black-box search may ask about each flow, from 2."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default where training found them, or SPARRING_DATA."""
    run: Path | None = None
    """The run folder, as a flag."""
    seed: int = 0
    """Of everything random."""
    json: bool = False
    """Print one JSON object on stdout instead of the table."""
    fail_on_check: bool = False
    """Exit with 1 when a check fails."""

    def __post_init__(self) -> None:
        for name, least in (("examples", 0), ("queries", 2)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"The {name!r} parameter must be an int in the range [{least}, inf). "
                    f"Got {getattr(self, name)} instead."
                )
        for eps in self.eps:
            if not 0 < eps <= 1:
                raise ValueError(f"The 'eps' parameter must be a number in the range (0, 1]. Got {eps!r} instead.")


def run(arguments: Sequence[str]) -> int:
    """Evaluate, and return the exit code."""
    return evaluated(arguments, Flags, evaluate, table)


def evaluate(flags: Flags, command: str) -> record.Record:
    """Evaluate, and write the evaluation into the run's record.

    Raises:
        RecordError, ArtefactError, DataError, ValueError: where the folder holds no run with a detector, or the data is
            not what the run saw.
    """
    folder, start = one_folder(flags.folder, flags.run), time.perf_counter()
    facts = record.read(folder)
    detector = artefact.load(folder / artefact.FILE)
    data = data_of(facts, detector, flags.data_root)
    radii = tuple(dict.fromkeys(flags.eps or (facts["config"].get("eps", EPS[1]), *EPS)))
    rows = drawn_rows(data, flags.examples, flags.seed)
    say(f"evaluating a detector on {data.name}: {len(rows)} of {int(data.test.y.sum())} malicious test flows attacked")
    alarm = Alarm.of(detector)
    found = clean_severities(alarm, data, facts, rows)
    with progress("evaluating", after=2.0) as advance:
        done = 0

        def told(stage: str, part: float) -> None:
            nonlocal done
            done += part == 0
            advance(stage, done - 1 + part, STAGES + 3 * len(radii))

        evaluation, outcomes = measured(data, rows, alarm, found, radii, flags.queries, flags.seed, told)
    evaluation |= {
        "domain": "flow",
        "detector": {
            "spec": detector.spec,
            "layers": [layer.name for layer in detector.layers],
            "threshold": detector.threshold,
            "false_positives": detector.false_positives,
            "held_out": len(found.held_out),
            **evaluation["detector"],
        },
        "split": "test",
        "seed": flags.seed,
        "weights": artefact.FILE,
        "seconds": time.perf_counter() - start,
        "command": command,
    }
    checkpoint.write(folder / OUTCOMES, save({"rows": rows, **outcomes}))
    facts = record.read(folder)
    facts["evaluation"] = evaluation
    system = systems.find(facts["system"])
    facts["method"] = {"card": system.card, "citation": system.citation}  # a report reads files, and no systems
    record.write(folder, facts)
    return evaluation


def data_of(facts: record.Record, detector: artefact.Detector, root: Path | None) -> FlowData:
    """The data of a run, as it was. Raises DataError where it is not to be found, or another."""
    told = facts["data"]
    source = facts.get("source", told["name"])
    schema = None if told["schema"] in LAYOUTS else detector.preprocessing.schema
    data = load(source, root or facts.get("data_root"), kinds=tuple(told["kinds"]), schema=schema)
    if data.fingerprint != told["fingerprint"]:
        raise DataError(
            f"The flows of {source} must be what the run saw (fingerprint {told['fingerprint'][:12]}). "
            f"Found {data.fingerprint[:12]}."
        )
    return data


def clean_severities(alarm: Alarm, data: FlowData, facts: record.Record, rows: Tensor) -> Severities:
    """What the detector says of the flows as they came; `attacked` is still the same."""
    held_out = left_out_benign(data, facts["training"]["validation"], facts["seed"])
    severity, malicious = alarm.severity(data.test.x), data.test.y == MALICIOUS
    place = torch.cumsum(malicious.long(), 0) - 1
    return Severities(
        held_out=alarm.severity(held_out),
        benign=severity[~malicious],
        malicious=severity[malicious],
        attacked=severity[rows],
        rows=place[rows],
    )
