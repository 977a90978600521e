"""`sparring reproduce nids-ensemble`: is a second layer worth its false alarms, and does it survive who knows it?

Two defences are trained from each seed, without and with adversarial training. Every base learner, the stack, the
autoencoder and both layers together answer the same attacked test flows, at the same total rate of false alarms.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparring.commands.answering import reproduced, write_claim
from sparring.commands.arms import digest
from sparring.commands.flags import RUNS, say
from sparring.commands.flow_claim import kept
from sparring.commands.nids_answer import Found, answered, text
from sparring.commands.nids_battery import Trial, attacked
from sparring.commands.nids_train import Where, loaded, train_run
from sparring.domains.flow import artefact
from sparring.domains.flow.data import FlowData
from sparring.engine import record
from sparring.systems.nids_ensemble import Config


@dataclass(frozen=True)
class Flags:
    """Train a stack and an autoencoder, without and with adversarial training, attack the malicious test flows within
    what could be sent, and say at one total rate of false alarms whether (a) attacks cut what the stack detects, (b)
    the autoencoder adds to it, (c) adversarial training adds further, and (d) what an attack on both layers leaves of
    (b). Kept under runs/reproduce: interrupted, the same command goes on where it stopped.

      sparring reproduce nids-ensemble --quick
      sparring reproduce nids-ensemble --data unsw-nb15 --seeds 5
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """nids-ensemble."""
    quick: bool = False
    """A first answer within minutes: three seeds, small learners, 150 flows, few queries."""
    data: str = "nsl-kdd"
    """nsl-kdd, unsw-nb15, cic-ddos2019, or a path."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    kinds: tuple[str, ...] = ("all",)
    """Kinds of attack beside benign flows; all keeps all."""
    seeds: int | None = None
    """Runs of each defence, from --seed on; 5 by default."""
    n: int | None = None
    """Malicious test flows to attack, drawn by the seed; 1000 by default, 0 attacks all."""
    queries: int | None = None
    """Of the black-box searches, for each flow; 200 by default."""
    eps: float = 0.1
    """Radius that is trained against and that the verdicts are about, in scaled space."""
    run: Path = RUNS / "reproduce"
    """The folder that holds the runs and the answers."""
    seed: int = 0
    """The first seed."""
    json: bool = False
    """Print one JSON object on stdout: verdict, effect, arms, seeds, command."""


@dataclass(frozen=True)
class Sizes:
    """What is spent: runs of each defence, flows to attack, queries for each, and the size of the defence."""

    seeds: int
    n: int
    queries: int
    config: Config


def run(arguments: Sequence[str]) -> int:
    """Reproduce, print, and return the exit code, 0 whatever the verdict."""
    return reproduced(arguments, Flags, reproduce, text)


def reproduce(flags: Flags, command: str) -> dict[str, Any]:
    """Train and attack what is not there yet; the answer, also written to `RUN/nids-ensemble/claim-DATA-HASH.json`."""
    sizes = sizes_of(flags)
    data = loaded(Where(flags.data, flags.data_root, flags.kinds))
    seeds = range(flags.seed, flags.seed + sizes.seeds)
    say(f"2 defences, {len(seeds)} seeds; {len(data.train)} training flows, {int(data.test.y.sum())} attacks")
    trial = Trial(sizes.n, flags.eps, sizes.queries, sizes.config.gan_steps, flags.seed)
    found: Found = {}
    for seed in seeds:
        for name, config in (("plain", replace(sizes.config, rounds=0)), ("hardened", sizes.config)):
            folder = _trained(flags, data, name, config, seed, command)
            say(f"attacking {folder}")
            found.setdefault(name, {})[seed] = kept(folder, trial, partial(attacked, folder, data, trial, seed))
    answer = answered(found, data, trial, flags.data, command)
    asked = digest([asdict(trial), sizes.seeds, asdict(sizes.config), flags.kinds])
    write_claim(flags.run / "nids-ensemble" / f"claim-{Path(flags.data).name}-{asked}.json", answer)
    return answer


def sizes_of(flags: Flags) -> Sizes:
    """What the flags say, and where they say nothing the full or the quick setting. Raises ValueError for a bad one."""
    config = Config(eps=flags.eps)
    if flags.quick:
        config = replace(config, rounds=1, trees=20, folds=3, epochs=8, gan_steps=30)
    usual = Sizes(3, 150, 40, config) if flags.quick else Sizes(5, 1000, 200, config)
    given = {name: value for name in ("seeds", "n", "queries") if (value := getattr(flags, name)) is not None}
    for name, least in (("seeds", 1), ("n", 0), ("queries", 0)):
        if given.get(name, least) < least:
            raise ValueError(f"The {name!r} parameter must be an int >= {least}. Got {given[name]} instead.")
    return replace(usual, **given)


def _trained(flags: Flags, data: FlowData, name: str, config: Config, seed: int, command: str) -> Path:
    folder = flags.run / "nids-ensemble" / f"{name}-{digest([flags.data, flags.kinds, asdict(config)])}-{seed}"
    if not ((folder / artefact.FILE).exists() and record.read(folder)["status"] == "done"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        where = Where(flags.data, flags.data_root, flags.kinds, run=folder, seed=seed)
        train_run(config, where, data, command)
    return folder
