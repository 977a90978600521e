"""`sparring reproduce ddos`: detectors against an attacker who sends only feasible flows, at equal false alarms.

Every arm is trained from the same seeds, its threshold fixed on benign training flows that no weight has seen, and
attacked on the same malicious test flows. What an attack returns is held to the independent check of feasibility.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from sparring import systems
from sparring.commands.answering import reproduced, write_claim
from sparring.commands.arms import digest, from_bits
from sparring.commands.flags import RUNS, say
from sparring.commands.flow_battery import Trial, attacked, forest
from sparring.commands.flow_train import Where, generator, train_run
from sparring.domains.flow import artefact
from sparring.domains.flow.data import load
from sparring.engine import checkpoint, record
from sparring.evaluation.claim import Arm, Claim, over_seeds, verdict
from sparring.evaluation.claim_table import points, share

ARMS: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = (
    ("standard", (("adversary", "none"),)),
    ("capgd", ()),
    ("gadot", (("adversary", "gadot"),)),
    ("unconstrained", (("adversary", "pgd"),)),
)
"""Torch arms: the baseline, the method, and the control whose training adversary ignores what is feasible."""


@dataclass(frozen=True)
class Flags:
    """Train detectors of denial of service, with and without a feasible adversary, fix each threshold on held-out
    benign flows, attack the malicious test flows within what could be sent, and say whether training against the
    attacker wins detection back at the same rate of false alarms. Kept under runs/reproduce: interrupted, the same
    command goes on where it stopped.

      sparring reproduce ddos --quick
      sparring reproduce ddos --seeds 5 --eps 0.1
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """ddos."""
    quick: bool = False
    """A first answer within minutes: three seeds, few epochs, 500 flows."""
    data: str = "nsl-kdd"
    """nsl-kdd, unsw-nb15, cic-ddos2019, or a path."""
    data_root: Path | None = None
    """Folder that named data sets are looked for in; by default the environment variable SPARRING_DATA."""
    kinds: tuple[str, ...] = ("dos",)
    """Kinds of attack beside benign flows; all keeps all."""
    model: str = "mlp"
    """mlp or cnn."""
    seeds: int | None = None
    """Runs of each arm, from --seed on; 5 by default."""
    epochs: int | None = None
    """Of every arm; 20 by default."""
    n: int | None = None
    """Malicious test flows to attack, drawn by the seed; 2000 by default, 0 attacks all."""
    eps: float = 0.1
    """Radius that the arms train against and the verdict is about, in scaled space."""
    false_positives: float = 0.01
    """Share of held-out benign flows that may raise an alarm."""
    run: Path = RUNS / "reproduce"
    """The folder that holds the runs and the answers."""
    seed: int = 0
    """The first seed."""
    json: bool = False
    """Print one JSON object on stdout: verdict, effect, arms, seeds, command."""


def run(arguments: Sequence[str]) -> int:
    """Reproduce, print, and return the exit code, 0 whatever the verdict."""
    return reproduced(arguments, Flags, reproduce, text)


def reproduce(flags: Flags, command: str) -> dict[str, Any]:
    """Train and attack what is not there yet; the answer, which is also written to `RUN/ddos/claim-DATA-HASH.json`."""
    sizes = sizes_of(flags)
    data = load(flags.data, flags.data_root, kinds=flags.kinds)
    seeds = range(flags.seed, flags.seed + sizes.seeds)
    say(f"{len(ARMS) + 1} arms, {len(seeds)} seeds; {len(data.train)} training flows, {int(data.test.y.sum())} attacks")
    other = generator(data, -1 - flags.seed)
    trial = Trial(sizes.n, flags.eps, flags.false_positives, flags.seed)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in seeds:
        for name, changes in ARMS:
            folder = _trained(flags, sizes.epochs, name, changes, seed, command)
            make = partial(attacked, folder, data, trial, seed, other)
            found.setdefault(name, {})[seed] = kept(folder, trial, make)
        folder = _folder(flags, sizes.epochs, "standard", ARMS[0][1], seed)
        make = partial(forest, folder, data, trial, seed)
        found.setdefault("trees", {})[seed] = kept(folder, trial, make, stem="trees")
    answer = _answer(found, flags, command)
    asked = digest([asdict(trial), asdict(sizes), flags.kinds, flags.model])
    write_claim(flags.run / "ddos" / f"claim-{Path(flags.data).name}-{asked}.json", answer)
    return answer


@dataclass(frozen=True)
class Sizes:
    """What is spent: runs of each arm, their epochs, and malicious test flows."""

    seeds: int
    epochs: int
    n: int


def sizes_of(flags: Flags) -> Sizes:
    """What the flags say, and where they say nothing the full or the quick setting. Raises ValueError for a bad one."""
    usual = Sizes(3, 6, 500) if flags.quick else Sizes(5, 20, 2000)
    given = {name: value for name in ("seeds", "epochs", "n") if (value := getattr(flags, name)) is not None}
    for name, least in (("seeds", 1), ("epochs", 1), ("n", 0)):
        if given.get(name, least) < least:
            raise ValueError(f"The {name!r} parameter must be an int >= {least}. Got {given[name]} instead.")
    return replace(usual, **given)


def _folder(flags: Flags, epochs: int, arm: str, changes: tuple[tuple[str, Any], ...], seed: int) -> Path:
    same = [flags.data, flags.kinds, flags.model, epochs, flags.eps, flags.false_positives, changes]
    return flags.run / "ddos" / f"{arm}-{digest(same)}-{seed}"


def _trained(
    flags: Flags, epochs: int, arm: str, changes: tuple[tuple[str, Any], ...], seed: int, command: str
) -> Path:
    folder = _folder(flags, epochs, arm, changes, seed)
    if not ((folder / artefact.FILE).exists() and record.read(folder)["status"] == "done"):
        system = systems.find("ddos")
        config = replace(system.config(), eps=flags.eps, **dict(changes))
        training = replace(system.training, epochs=epochs, precision="32", compile="off")
        where = Where(flags.data, flags.data_root, flags.kinds, flags.model, flags.false_positives, folder, seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        train_run(system, config, training, where, command)
    return folder


def kept(folder: Path, trial: Any, make: Callable[[], dict[str, Any]], stem: str = "attacked") -> dict[str, Any]:
    """What was found before in the same trial, a dataclass, or is found now."""
    file = folder / f"{stem}-{digest(asdict(trial))}.json"
    if not file.exists():
        checkpoint.write(file, json.dumps(make(), allow_nan=False).encode())
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _answer(found: dict[str, dict[int, dict[str, Any]]], flags: Flags, command: str) -> dict[str, Any]:
    decisive = f"feasible {flags.eps:g}"
    seeds = sorted(found["standard"])
    arms: dict[str, Arm] = {}
    rows = []
    for name, by_seed in found.items():
        results = {seed: {decisive: from_bits(one["caught"][decisive])} for seed, one in by_seed.items()}
        doubts = ("infeasible",) if any(one["infeasible"] for one in by_seed.values()) else ()
        arms[name] = Arm(name, results, doubts)
        figures = {key: [from_bits(one["caught"][key]).double().mean().item() for one in by_seed.values()]
                   for key in by_seed[seeds[0]]["caught"]}  # fmt: skip
        single = [key for key, value in by_seed[seeds[0]].items() if isinstance(value, float)]
        figures |= {key: [one[key] for one in by_seed.values()] for key in single}
        rows.append({
            "name": name,
            "figures": {key: {**over_seeds(each), "by_seed": each} for key, each in figures.items()},
            "infeasible": sum(one["infeasible"] for one in by_seed.values()),
        })  # fmt: skip
    question = "At the same rate of false alarms, does it detect more flows of a feasible attacker?"

    def against(first: str, second: str) -> Any:
        return verdict(Claim(first, question, arms[first], arms[second], decisive))

    answer = against("capgd", "standard")
    for row in rows[1:]:
        one = against(str(row["name"]), "standard")
        row |= {"verdict": one.verdict, "effect": one.effect}
    facts = {"eps": flags.eps, "data": flags.data, "false positives": flags.false_positives, "model": flags.model}
    effect = {**answer.effect, **facts, "against the unconstrained control": against("capgd", "unconstrained").effect}
    return {"verdict": answer.verdict, "effect": effect, "arms": rows, "seeds": seeds, "command": command}


def text(answer: dict[str, Any]) -> str:
    """The answer as a terminal shows it: shares in percent, means over seeds with their standard errors."""
    effect = answer["effect"]
    keys = list(dict.fromkeys(key for arm in answer["arms"] for key in arm["figures"] if key != "threshold"))
    width = max(map(len, keys))
    names = [arm["name"] for arm in answer["arms"]]
    lines = [
        effect["question"],
        f"{effect['data']}, eps {effect['eps']:g} in scaled space, thresholds at {effect['false positives']:.2%} false "
        f"alarms on benign flows held out; {effect['n']} malicious test flows, "
        f"seeds {', '.join(map(str, answer['seeds']))}; % (standard error over seeds)",
        "",
        "  " + " " * width + "  " + "  ".join(name.rjust(14) for name in names),
    ]
    for key in keys:
        cells = [share(arm["figures"][key]) if key in arm["figures"] else "" for arm in answer["arms"]]
        lines.append("  " + key.ljust(width) + "  " + "  ".join(cell.rjust(14) for cell in cells))
    infeasible = ", ".join(f"{arm['name']} {arm['infeasible']}" for arm in answer["arms"])
    control = effect["against the unconstrained control"]
    return "\n".join(
        [*lines, "", f"  infeasible adversarial rows (must be 0): {infeasible}",
         f"  capgd minus standard under attack: {points(effect)} points",
         f"  capgd minus training against infeasible rows: {points(control)} points",
         "", f"verdict: {answer['verdict']}"]
    )  # fmt: skip
