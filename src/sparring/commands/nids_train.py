"""`sparring train nids-ensemble`: play the rounds, fix both thresholds on rows held out, keep one detector.

A run is a function of its identity: what the rounds have collected is on the disk after each of them, and a killed run
goes on from there and ends with the same detector.
"""

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from safetensors.torch import load as load_tensors

from sparring.commands.flags import new_folder, parse, say
from sparring.commands.flow_train import described
from sparring.commands.nids_thresholds import chosen
from sparring.core.game import play
from sparring.core.seeds import derive
from sparring.core.tools import Tools
from sparring.domains.flow import stack
from sparring.domains.flow.artefact import FILE, Layer, to_bytes
from sparring.domains.flow.data import MALICIOUS, FlowData, load
from sparring.domains.flow.declared import declared
from sparring.domains.flow.feasible import Feasible
from sparring.engine import checkpoint, record
from sparring.engine.stream import hold_out
from sparring.evaluation.layered import Layered
from sparring.systems import nids_ensemble
from sparring.systems.nids_ensemble import Config, Defence, Forgers, Refit

ROUNDS = "rounds.safetensors"
"""What the adversary has answered so far."""


@dataclass(frozen=True)
class Where:
    """What is trained, on what, and where it goes."""

    data: str = "nsl-kdd"
    """nsl-kdd, unsw-nb15, cic-ddos2019, or a path of CSV, ARFF or parquet."""
    data_root: Path | None = None
    """Folder that the named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    kinds: tuple[str, ...] = ("all",)
    """Kinds of attack to keep beside benign flows: dos, probe, r2l, u2r on NSL-KDD, labels elsewhere; all keeps all."""
    schema: Path | None = None
    """A TOML file that says what the columns of --data are, which of them an attacker may change, and what holds
    between them (docs/flows.md); for tables that are not of a published set."""
    false_positives: float = 0.01
    """Share of held-out benign flows that may raise an alarm, of either layer: fixes both thresholds."""
    validation: float = 0.2
    """Share of the training flows held out: thresholds, and how the false alarms are split between the layers."""
    run: Path | None = None
    """The run folder; by default a new one under runs/."""
    seed: int = 0
    """Of everything random in the run."""

    def __post_init__(self) -> None:
        for name in ("false_positives", "validation"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"The {name!r} parameter must be a number in the range (0, 1). Got {getattr(self, name)!r} instead."
                )


def run(arguments: Sequence[str]) -> int:
    """Train, and return the exit code."""
    omit = tyro.conf.OmitArgPrefixes
    flags = make_dataclass(
        "Flags",
        [
            ("where", Annotated[Where, omit], field(default_factory=Where)),
            ("config", Annotated[Config, omit], field(default_factory=Config)),
        ],
        frozen=True,
    )
    card = re.sub(r"\n(?=\S)", "\n\n", nids_ensemble.SYSTEM.card)
    asked: Any = parse(flags, arguments[1:], prog=f"sparring train {arguments[0]}", description=card)
    data = loaded(asked.where)
    print(train_run(asked.config, asked.where, data, shlex.join(["sparring", "train", *arguments])))
    return 0


def loaded(where: Where) -> FlowData:
    """The data that a command line names."""
    schema = None if where.schema is None else declared(where.schema)
    return load(where.data, where.data_root, kinds=where.kinds, schema=schema)


def train_run(config: Config, where: Where, data: FlowData, command: str) -> Path:
    """Train one run, or go on with it, and return its folder, with the detector as one artefact in it."""
    folder = where.run or new_folder(f"nids-ensemble-{data.name}")
    identity = {
        "system": nids_ensemble.SYSTEM.name,
        "config": asdict(config),
        "training": {"validation": where.validation},
        "data": described(data),
        "model": {"spec": stack.SPEC, "false_positives": where.false_positives},
        "seed": where.seed,
    }
    source = where.data if where.schema is None and not Path(where.data).exists() else str(Path(where.data).resolve())
    root = None if where.data_root is None else str(where.data_root.resolve())
    facts = record.opened(folder, identity, command, {"data_root": root, "source": source})
    if facts["status"] == "done":
        return folder
    say(
        f"nids-ensemble on {data.name} ({len(data.train)} flows of {data.preprocessing.width} numbers), folder {folder}"
    )
    facts |= record.environment(torch.device("cpu"))
    facts["versions"]["lightgbm"] = metadata.version("lightgbm")
    rows, held_out = hold_out(data.train.y, where.validation, where.seed)
    rng = torch.Generator().manual_seed(derive(where.seed, "game"))
    game = nids_ensemble.game(config, threat=Feasible(data.preprocessing, config.eps), tools=Tools(rng=rng))
    learner, adversary = game.learner, game.adversary
    assert isinstance(learner, Refit)
    assert isinstance(adversary, Forgers)
    batch = data.train.take(rows)
    if (folder / ROUNDS).exists():
        learner.load_state_dict(load_tensors((folder / ROUNDS).read_bytes()))
        learner.fit(batch)
    facts["history"] = facts["history"][: learner.rounds]
    began = time.monotonic()
    rng.manual_seed(derive(where.seed, "round", learner.rounds))
    for metrics in play(game, [batch] * (1 + config.rounds - learner.rounds)):
        checkpoint.save_weights(folder / ROUNDS, learner.state_dict())
        told = {name: value.item() for name, value in metrics.items()}
        facts["history"].append({"epoch": learner.rounds, "seconds": time.monotonic() - began, "metrics": told})
        record.write(folder, facts)
        say(
            f"round {learner.rounds}/{1 + config.rounds}  loss {told['loss']:.4f} of what it was attacked with, "
            f"{told['collected']:.0f} adversarial rows in its data now  {facts['history'][-1]['seconds']:.1f} s"
        )
        began = time.monotonic()
        rng.manual_seed(derive(where.seed, "round", learner.rounds))
    say("fixing thresholds on flows held out, and how the layers share the false alarms by attacks left out")
    at = chosen(learner, adversary, data, rows, held_out, where.false_positives, where.seed)
    _keep(folder, learner.model, data, where, at)
    facts["thresholds"] = {"classifier": at.first, "autoencoder": at.second, "share of the classifier": at.share}
    facts["timing"] = {"seconds": sum(each["seconds"] for each in facts["history"])}
    facts["status"] = "done"
    record.write(folder, facts)
    say(
        f"of {where.false_positives:.2%} false alarms on held-out benign flows {at.share:.0%} are the stack's: its "
        f"threshold is {at.first:.4g}, the autoencoder's {at.second:.4g}"
    )
    return folder


def _keep(folder: Path, defence: Defence, data: FlowData, where: Where, at: Layered) -> None:
    assert defence.stack is not None
    assert defence.autoencoder is not None
    artefact = to_bytes(
        defence.stack,
        spec=stack.SPEC,
        preprocessing=data.preprocessing,
        threshold=at.first,
        false_positives=where.false_positives,
        reference=data.train.x[data.train.y != MALICIOUS].mean(0),
        layers=(Layer("autoencoder", defence.autoencoder, at.second),),
    )
    checkpoint.write(folder / FILE, artefact)
