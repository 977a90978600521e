"""`sparring reproduce ddos`: detectors against an attacker who sends only feasible flows, at equal false alarms.

Every arm is trained from the same seeds, its threshold fixed on benign training flows that no weight has seen, and
attacked on the same malicious test flows. What an attack returns is held to the independent check of feasibility.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from sparring import systems
from sparring.attacks.apgd import apgd
from sparring.commands.arms import digest
from sparring.commands.flags import RUNS, parse, say
from sparring.commands.flow_train import DETECTOR, Where, held_out_benign, scores, train_run
from sparring.commands.flow_trees import trees
from sparring.core.gradient import frozen
from sparring.core.payoff import margin
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.flow import artefact
from sparring.domains.flow.check import violations
from sparring.domains.flow.data import MALICIOUS, FlowData, load
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.search import search
from sparring.engine import checkpoint, record
from sparring.evaluation.claim import Arm, Claim, over_seeds, verdict
from sparring.evaluation.detection import auroc, threshold_at

EPS = (0.05, 0.1, 0.2, 0.3)
"""Radii of the attacked detection rates."""
ARMS: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = (
    ("standard", (("adversary", "none"),)),
    ("capgd", ()),
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
    flags = parse(Flags, arguments, prog="sparring reproduce", description=Flags.__doc__ or "")
    answer = reproduce(_settled(flags), shlex.join(["sparring", "reproduce", *arguments]))
    print(json.dumps(answer, allow_nan=False) if flags.json else text(answer))
    return 0


def reproduce(flags: Flags, command: str) -> dict[str, Any]:
    """Train and attack what is not there yet; the answer, which is also written to `RUN/ddos/claim-DATA-HASH.json`."""
    data = load(flags.data, flags.data_root, kinds=() if flags.kinds == ("all",) else flags.kinds)
    seeds = range(flags.seed, flags.seed + int(flags.seeds or 5))
    say(f"{len(ARMS) + 1} arms, {len(seeds)} seeds; {len(data.train)} training flows, {int(data.test.y.sum())} attacks")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in seeds:
        for name, changes in ARMS:
            folder = _trained(flags, name, changes, seed, command)
            found.setdefault(name, {})[seed] = _kept(
                folder, flags, lambda f=folder, s=seed: _attacked(f, data, flags, s)
            )
        folder = _folder(flags, "standard", ARMS[0][1], seed)
        make = partial(_forest, folder, data, flags, seed)
        found.setdefault("trees", {})[seed] = _kept(folder, flags, make, stem="trees")
    answer = _answer(found, flags, command)
    file = flags.run / "ddos" / f"claim-{Path(flags.data).name}-{digest(_identity(flags))}.json"
    checkpoint.write(file, json.dumps(answer, indent=1, allow_nan=False).encode())
    say(f"written to {file}")
    return answer


def _settled(flags: Flags) -> Flags:
    seeds, epochs, n = (3, 6, 500) if flags.quick else (5, 20, 2000)
    for name, least in (("seeds", 1), ("epochs", 1), ("n", 0)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise ValueError(f"The {name!r} parameter must be an int >= {least}. Got {value} instead.")
    chosen = (("seeds", seeds), ("epochs", epochs), ("n", n))
    return replace(flags, **{name: value for name, value in chosen if getattr(flags, name) is None})


def _identity(flags: Flags) -> list[Any]:
    circumstance = ("run", "json", "quick", "data_root")
    return [{name: value for name, value in asdict(flags).items() if name not in circumstance}]


def _folder(flags: Flags, arm: str, changes: tuple[tuple[str, Any], ...], seed: int) -> Path:
    same = [flags.data, flags.kinds, flags.model, flags.epochs, flags.eps, flags.false_positives, changes]
    return flags.run / "ddos" / f"{arm}-{digest(same)}-{seed}"


def _trained(flags: Flags, arm: str, changes: tuple[tuple[str, Any], ...], seed: int, command: str) -> Path:
    folder = _folder(flags, arm, changes, seed)
    if not ((folder / DETECTOR).exists() and record.read(folder)["status"] == "done"):
        system = systems.find("ddos")
        config = replace(system.config(), eps=flags.eps, **dict(changes))
        training = replace(system.training, epochs=flags.epochs, precision="32", compile="off")
        where = Where(flags.data, flags.data_root, flags.kinds, flags.model, flags.false_positives, folder, seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        train_run(system, config, training, where, command)
    return folder


def _kept(folder: Path, flags: Flags, make: Callable[[], dict[str, Any]], stem: str = "attacked") -> dict[str, Any]:
    """What was found before in the same trial, or is found now."""
    file = folder / f"{stem}-{digest([flags.n, flags.eps, flags.false_positives])}.json"
    if not file.exists():
        checkpoint.write(file, json.dumps(make(), allow_nan=False).encode())
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _drawn(data: FlowData, flags: Flags) -> Tensor:
    """Malicious test rows, the same for every arm and seed."""
    rows = (data.test.y == MALICIOUS).nonzero().squeeze(1)
    if not flags.n or flags.n >= len(rows):
        return rows
    chance = torch.Generator().manual_seed(derive(flags.seed, "flows"))
    return rows[torch.randperm(len(rows), generator=chance)[: flags.n].sort().values]


def _attacked(folder: Path, data: FlowData, flags: Flags, seed: int) -> dict[str, Any]:
    """Everything about one detector: clean rates, and detection under each attack."""
    detector = artefact.load(folder / DETECTOR)
    model, threshold = detector.model, detector.threshold
    rows = _drawn(data, flags)
    x = data.test.x[rows]
    caught = {"clean": scores(model, x) > threshold}
    infeasible = 0
    for eps in EPS:
        z = _strongest(model, x, Feasible(data.preprocessing, eps), seed)
        infeasible += _infeasible(data, rows, x, z)
        caught[f"feasible {eps:g}"] = caught["clean"] & (scores(model, z) > threshold)
    loose = _strongest(model, x, unconstrained(data.preprocessing, flags.eps), seed)
    caught[f"unconstrained {flags.eps:g}"] = caught["clean"] & (scores(model, loose) > threshold)
    return _facts(data, rows, caught, scores(model, data.test.x), threshold, infeasible)


def _strongest(model: nn.Module, x: Tensor, threat: Threat, seed: int) -> Tensor:
    """Auto-PGD on the margin, 50 steps from two random starts: of each row the z with the highest one."""
    parts = []
    with frozen(model) as seen:
        for k, part in enumerate(x.split(1000)):
            rng = torch.Generator().manual_seed(derive(seed, "attack", k))
            y = torch.full((len(part),), MALICIOUS)
            gain = lambda z, /, y=y: margin(seen(z), y)  # noqa: E731
            parts.append(apgd(gain, part, threat, steps=50, restarts=2, rng=rng))
    return torch.cat(parts)


def _infeasible(data: FlowData, rows: Tensor, x: Tensor, z: Tensor) -> int:
    """How many of the changed rows the independent check refuses, beyond what the originals break already."""
    original = data.test.table.take(rows.numpy())
    sound = violations(original, original).feasible
    moved = (z != x).any(1).numpy()
    changed = data.preprocessing.to_table(z, original)
    return int((~violations(original, changed).feasible & sound & moved).sum())


def _forest(folder: Path, data: FlowData, flags: Flags, seed: int) -> dict[str, Any]:
    """Gradient-boosted trees: attacked by what broke the standard network, and by a black-box search."""
    model = trees(data, systems.find("ddos").training.validation, seed)
    benign = held_out_benign(data, systems.find("ddos").training, seed)
    threshold = threshold_at(model(benign), flags.false_positives)
    rows = _drawn(data, flags)
    x = data.test.x[rows]
    caught = {"clean": model(x) > threshold}
    substitute, infeasible = artefact.load(folder / DETECTOR).model, 0
    for eps in EPS:
        threat = Feasible(data.preprocessing, eps)
        moved = _strongest(substitute, x, threat, seed)
        caught[f"feasible {eps:g}"] = caught["clean"] & (model(moved) > threshold)
        if eps == flags.eps:
            rng = torch.Generator().manual_seed(derive(seed, "search"))
            found = search(lambda z, /: -model(z), x, threat, queries=200, rng=rng)
            infeasible += _infeasible(data, rows, x, found)
            caught[f"search {eps:g}"] = caught["clean"] & (model(found) > threshold)
            caught[f"feasible {eps:g}"] &= caught[f"search {eps:g}"]
        infeasible += _infeasible(data, rows, x, moved)
    return _facts(data, rows, caught, model(data.test.x), threshold, infeasible)


def _facts(
    data: FlowData, rows: Tensor, caught: dict[str, Tensor], every: Tensor, threshold: float, infeasible: int
) -> dict[str, Any]:
    malicious = data.test.y == MALICIOUS
    unseen = torch.from_numpy(data.unseen)
    called = every > threshold
    at_test = threshold_at(every[~malicious], 0.01)
    return {
        "caught": {name: "".join("1" if bit else "0" for bit in each.tolist()) for name, each in caught.items()},
        "unseen rows": "".join("1" if bit else "0" for bit in unseen[rows].tolist()),
        "detection": called[malicious].double().mean().item(),
        "detection, seen types": called[malicious & ~unseen].double().mean().item(),
        "detection, unseen types": called[malicious & unseen].double().mean().item() if unseen.any() else None,
        "false positives": called[~malicious].double().mean().item(),
        "detection at 1 % false positives on the test": (every[malicious] > at_test).double().mean().item(),
        "AUROC": auroc(every, malicious),
        "threshold": threshold,
        "infeasible": infeasible,
    }


def _answer(found: dict[str, dict[int, dict[str, Any]]], flags: Flags, command: str) -> dict[str, Any]:
    decisive = f"feasible {flags.eps:g}"
    seeds = sorted(found["standard"])
    arms: dict[str, Arm] = {}
    rows = []
    for name, by_seed in found.items():
        results = {seed: {decisive: _bits(one["caught"][decisive])} for seed, one in by_seed.items()}
        doubts = ("infeasible",) if any(one["infeasible"] for one in by_seed.values()) else ()
        arms[name] = Arm(name, results, doubts)
        figures = {key: [_bits(one["caught"][key]).double().mean().item() for one in by_seed.values()]
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


def _bits(text: str) -> Tensor:
    return torch.tensor([bit == "1" for bit in text])


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
        cells = [_cell(arm["figures"].get(key)) for arm in answer["arms"]]
        lines.append("  " + key.ljust(width) + "  " + "  ".join(cell.rjust(14) for cell in cells))
    infeasible = ", ".join(f"{arm['name']} {arm['infeasible']}" for arm in answer["arms"])
    ends = _ends(effect)
    control = effect["against the unconstrained control"]
    return "\n".join(
        [*lines, "", f"  infeasible adversarial rows (must be 0): {infeasible}",
         f"  capgd minus standard under attack: {ends} points",
         f"  capgd minus training against infeasible rows: {_ends(control)} points",
         "", f"verdict: {answer['verdict']}"]
    )  # fmt: skip


def _ends(effect: dict[str, Any]) -> str:
    if effect["low"] is None:
        return f"{100 * effect['difference']:+.1f}"
    return f"{100 * effect['difference']:+.1f} ({100 * effect['low']:+.1f} to {100 * effect['high']:+.1f})"


def _cell(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    error = figures["standard_error"]
    return f"{100 * figures['mean']:.1f}" + ("" if error is None else f" ({100 * error:.1f})")
