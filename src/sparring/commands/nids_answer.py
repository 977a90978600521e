"""The answer of the claim about nids-ensemble: figures of every arm, four questions, and how a terminal shows them."""

from dataclasses import asdict
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.commands.arms import from_bits
from sparring.commands.flow_attacks import drawn_rows
from sparring.commands.nids_battery import LAYERED, RATES, WHERE, Trial
from sparring.domains.flow.data import FlowData
from sparring.evaluation.claim import Arm, Claim, Verdict, over_seeds, verdict
from sparring.evaluation.claim_table import points, share

Found = dict[str, dict[int, dict[str, Any]]]
"""By defence and seed, what `nids_battery.attacked` found."""

BOTH, EVEN = LAYERED

STATED = f"held out, {RATES[0]:.0%}"
"""Thresholds at 1 % of benign flows held out from training, which is what can be had in service, and what the verdict
is about."""

EQUAL = f"{WHERE}, {RATES[0]:.0%}"
"""Thresholds at 1 % of the test's benign flows: there all arms really raise as many false alarms as each other. The
attacks on both layers are made against these."""

CUT = 0.01
"""By how much at least an attack has to cut detection to be said to: what is caught under attack is never more."""


def answered(found: Found, data: FlowData, trial: Trial, source: str, command: str) -> dict[str, Any]:
    """`{verdict, effect, arms, seeds, command}`; the verdict is that of (b), and the effect has the others."""
    seeds = sorted(found["plain"])
    ignoring = [f"{name} {trial.eps:g}" for name in ("FGSM", "APGD", "GAN")]
    first = found["plain"][seeds[0]]["judged"][STATED]["stack"]["caught"]
    feasible = [name for name in first if _feasible(name, trial.eps)]

    def caught(defence: str, arm: str, attacks: list[str], where: str, worst: bool = False) -> Arm:
        def of(seed: int) -> Tensor:
            judged = found[defence][seed]["judged"][where][arm]["caught"]
            each = torch.stack([from_bits(judged[name]) for name in attacks])
            return each.all(0) if worst else each[0] if len(each) == 1 else each.double().mean(0)

        doubts = ("infeasible",) if any(sum(found[defence][s]["infeasible"].values()) for s in seeds) else ()
        return Arm(f"{arm}, {defence}", {seed: {"detection": of(seed)} for seed in seeds}, doubts)

    def ask(question: str, pair: list[Arm], least: float = 0.0) -> Verdict:
        return verdict(Claim(pair[0].name, question, pair[0], pair[1], "detection", "higher", least))

    asked: dict[str, Verdict] = {}
    for attack in [*ignoring, f"FGSM {trial.eps:g}, any row", "search, stack"]:
        for where in (STATED, EQUAL):
            pair = [caught("plain", "stack", [name], where) for name in ("clean", attack)]
            name = f"(a) {attack} cuts what the stack detects, thresholds on {where}"
            asked[name] = ask("Does it cut detection?", pair, CUT)
    adds = "At one rate of false alarms, does the autoencoder add under attacks that ignore it?"
    for defence in found:
        for arm in LAYERED:
            for where in (STATED, EQUAL):
                pair = [caught(defence, name, ignoring, where) for name in (arm, "stack")]
                asked[f"(b) {arm} over stack, {defence}, thresholds on {where}"] = ask(adds, pair)
    for arm in ("stack", *LAYERED):
        for where in (STATED, EQUAL):
            pair = [caught(defence, arm, ignoring, where) for defence in ("hardened", "plain")]
            asked[f"(c) {arm}, hardened over plain, thresholds on {where}"] = ask("Does it help further?", pair)
    for defence in found:
        for arm in LAYERED:
            for where in (STATED, EQUAL):
                pair = [caught(defence, name, feasible, where, worst=True) for name in (arm, "stack")]
                name = f"(d) {arm} over stack, {defence}, adaptive, thresholds on {where}"
                asked[name] = ask("What is left under an attack on both?", pair)
    headline = asked[f"(b) {BOTH} over stack, plain, thresholds on {STATED}"]
    facts = {"eps": trial.eps, "data": source, "trial": asdict(trial), "attacks": ignoring, "adaptive": feasible}
    claims = {name: {"verdict": one.verdict, **one.effect} for name, one in asked.items()}
    return {
        "verdict": headline.verdict,
        "effect": {**headline.effect, **facts, "claims": claims},
        "arms": [_row(defence, arm, by_seed, data, trial, feasible)
                 for defence, by_seed in found.items() for arm in by_seed[seeds[0]]["judged"][STATED]],
        "seeds": seeds,
        "command": command,
    }  # fmt: skip


def _feasible(attack: str, eps: float) -> bool:
    """Whether an attack stays among the rows that could be sent within eps."""
    if attack == "clean" or attack.startswith(("GAN", "search", "climb", "kappa")):
        return True
    radius = attack.split(" ", 1)[1]
    return "any row" not in radius and float(radius) <= eps


def _row(
    defence: str, arm: str, by_seed: dict[int, dict[str, Any]], data: FlowData, trial: Trial, feasible: list[str]
) -> dict[str, Any]:
    """An arm's figures over seeds: by thresholds, each attack, the worst of the feasible ones, and each kind."""
    of_kind = data.test.kinds[drawn_rows(data, trial.n, trial.seed).numpy()]
    figures: dict[str, list[float]] = {}
    for one in by_seed.values():
        for name, value in _figures(one, arm, of_kind, feasible).items():
            figures.setdefault(name, []).append(value)
    infeasible = sum(sum(one["infeasible"].values()) for one in by_seed.values())
    over = {name: {**over_seeds(each), "by_seed": each} for name, each in figures.items()}
    return {"name": f"{arm}, {defence}", "figures": over, "infeasible": infeasible}


def _figures(one: dict[str, Any], arm: str, of_kind: NDArray[Any], feasible: list[str]) -> dict[str, float]:
    """The same of one seed."""
    found: dict[str, float] = {}
    for where, arms in one["judged"].items():
        judged = arms[arm]
        caught = {attack: from_bits(bits) for attack, bits in judged["caught"].items()}
        caught["adaptive"] = torch.stack([caught[name] for name in feasible]).all(0)
        found |= {f"{where}: {attack}": _mean(bits) for attack, bits in caught.items()}
        for kind in sorted(set(of_kind.tolist())):
            found[f"{where}: adaptive, {kind}"] = _mean(caught["adaptive"][torch.from_numpy(of_kind == kind)])
        found |= {f"{where}: {name}": judged[name] for name in ("detection", "false positives", "F1")}
        found |= {f"{where}: detection, {kind}": value for kind, value in judged["by kind"].items()}
    found["AUROC"] = one["AUROC"][arm]
    if arm == BOTH:
        found["share of the false alarms that the stack may raise"] = one["share"]
    if arm == "stack":
        found |= {f"transfer of {attack}": rate for attack, rate in one["transfer"].items() if rate is not None}
    return found


def _mean(bits: Tensor) -> float:
    return bits.double().mean().item()


def text(answer: dict[str, Any]) -> str:
    """The answer as a terminal shows it: shares in percent, means over seeds with their standard errors."""
    effect, eps = answer["effect"], f"{answer['effect']['eps']:g}"
    keys = ["detection", "false positives", "clean", f"FGSM {eps}, any row", *effect["attacks"], "adaptive",
            "detection, unseen types"]  # fmt: skip
    width = max(len(arm["name"]) for arm in answer["arms"])
    lines = [
        effect["question"],
        f"{effect['data']}, eps {eps} in scaled space; {effect['n']} malicious test flows attacked, detection and "
        "false alarms over the whole test",
        f"seeds {', '.join(map(str, answer['seeds']))}; % (standard error over seeds)",
    ]
    for where in (STATED, EQUAL):
        lines += [
            "",
            f"thresholds on benign flows, {where}",
            " " * (width + 4) + " ".join(key.rjust(23) for key in keys),
        ]
        for arm in answer["arms"]:
            cells = [arm["figures"].get(f"{where}: {key}") for key in keys]
            shown = ["" if cell is None else share(cell) for cell in cells]
            lines.append(f"  {arm['name'].ljust(width)}  " + " ".join(cell.rjust(23) for cell in shown))
    lines += ["", f"infeasible adversarial rows (must be 0): {sum(arm['infeasible'] for arm in answer['arms'])}", ""]
    lines += [f"{name}: {points(one)} points, {one['verdict']}" for name, one in effect["claims"].items()]
    return "\n".join([*lines, "", f"verdict: {answer['verdict']}"])
