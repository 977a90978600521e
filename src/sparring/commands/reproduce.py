"""`sparring reproduce NAME`: train a method and its baseline, and say whether the method keeps its promise."""

import importlib
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sparring.commands.answering import reproduced, write_claim
from sparring.commands.arms import Entrant, Judged, digest, judge
from sparring.commands.comparison import ARMS, CONTROL, Flags, Plan, announce, entrants_of, planned
from sparring.commands.flags import say
from sparring.commands.measures import LOWER_IS_BETTER
from sparring.engine import record
from sparring.evaluation.claim import Arm, Claim, Verdict, over_seeds, overfitting, paired, verdict
from sparring.evaluation.claim_table import text

CLAIMS = (
    ("ddos", "flow_claim"),
    ("nids-ensemble", "nids_claim"),
    ("text-at", "text_claim"),
    ("moderation", "moderation_claim"),
    ("prompt-injection", "injection_claim"),
)
"""Systems whose claims are put to the test by a module of their own."""


def run(arguments: Sequence[str]) -> int:
    """Reproduce, print, and return the exit code, 0 whatever the verdict."""
    if arguments and arguments[0] in dict(CLAIMS):
        code: int = importlib.import_module(f"sparring.commands.{dict(CLAIMS)[arguments[0]]}").run(arguments)
        return code
    return reproduced(arguments, Flags, reproduce, text)


def reproduce(flags: Flags, command: str) -> dict[str, Any]:
    """Train and judge what is not there yet; the answer `{verdict, effect, arms, seeds, command}`, which is also
    written to `RUN/NAME/claim-DATA-HASH.json`."""
    plan = planned(flags, command)
    entrants = entrants_of(plan)
    announce(plan, entrants)
    judged: dict[str, list[Judged]] = {name: [] for name in entrants}
    for seed in plan.seeds:
        for name, entrant in entrants.items():
            entrant.trained(seed, command)
            judged[name].append(judge(entrant.folder(seed), plan.trial, flags.data_root, command))
    answer = _answer(plan, entrants, judged)
    identity = [
        plan.label,
        asdict(plan.trial),
        [e.digest() for e in entrants.values()],
        plan.seeds,
        plan.promise.metric,
    ]
    file = flags.run / flags.name / f"claim-{Path(plan.settings.data).name}-{digest(identity)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_claim(file, answer)
    folders = [str(entrant.folder(plan.seeds[0])) for entrant in entrants.values()]
    say(f"the arms on one page: {shlex.join(['sparring', 'report', *folders])}")
    return answer


def _answer(plan: Plan, entrants: dict[str, Entrant], judged: dict[str, list[Judged]]) -> dict[str, Any]:
    p = plan.promise
    name_of = {"baseline": plan.held_against}
    name_of |= {arm: f"{plan.label}, {arm.replace('-', ' ')}" for arm in ARMS}
    name_of |= {f"{CONTROL}{label}": label for label in plan.controls}
    measured = {role: _arm(name_of[role], plan.seeds, found, p.metric) for role, found in judged.items()}

    def against(role: str, other: str) -> Verdict:
        first, second = measured[role], measured[other]
        return verdict(Claim(first.name, p.question, first, second, p.metric, p.direction, p.least_effect))

    arms, answers = [], {}
    other_of = {f"{CONTROL}{c.label}": f"{CONTROL}{c.against}" for c in p.controls if c.against}
    for role, entrant in entrants.items():
        row = {"name": name_of[role], "role": role, **_figures(entrant, plan.seeds, judged[role])}
        row["values"] = _values(judged[role], judged["baseline"] if role != "baseline" else None)
        if role != "baseline":
            other = other_of.get(role, "baseline")
            answers[role] = against(role, other if other in measured else "baseline")
            row |= {"verdict": answers[role].verdict, "effect": answers[role].effect}
            row["against"] = name_of.get(other, name_of["baseline"])
        if role.startswith(CONTROL):
            row["method_ahead"] = against(p.arm, role).effect
        arms.append(row)
    answer = answers[p.arm]
    trial = {"data": plan.settings.data, **asdict(plan.trial)}
    effect = {"method": plan.label, "arm": p.arm, "trial": trial, **answer.effect}
    credited = against(p.arm, f"{CONTROL}{p.decisive}") if p.decisive in plan.controls else None
    if credited is not None:
        effect["control"] = {"label": p.decisive, "verdict": credited.verdict, **credited.effect}
    return {
        "verdict": _credited(answer, credited),
        "effect": effect,
        "arms": arms,
        "seeds": list(plan.seeds),
        "command": plan.command,
    }


def _credited(answer: Verdict, against_control: Verdict | None) -> str:
    """A gain over the baseline is the method's own only where it beats the decisive control as well."""
    if answer.verdict != "supported" or against_control is None:
        return answer.verdict
    return against_control.verdict


def _values(found: Sequence[Judged], baseline: Sequence[Judged] | None) -> dict[str, Any]:
    """What else was measured: over seeds, and how much more than the baseline with the interval of `claim.paired` where
    there is a value for every image, else of the differences over seeds. Runs that an earlier version judged may lack a
    value; what not all have is left out."""
    rows = {}
    for name in _shared(found):
        each = [one.values[name] for one in found]
        row: dict[str, Any] = {**over_seeds([one.nanmean().item() for one in each]), "better": _better(name)}
        if baseline is not None and name in _shared(baseline):
            others = [one.values[name] for one in baseline]
            if each[0].dim() == 0:
                row["difference"] = over_seeds([(a - b).item() for a, b in zip(each, others, strict=True)])
            else:
                there = ~torch.stack(each + others).isnan().any(0)
                apart = paired(torch.stack(each)[:, there], torch.stack(others)[:, there])
                row["difference"] = {"mean": apart["difference"], "low": apart["low"], "high": apart["high"]}
        rows[name] = row
    return rows


def _shared(found: Sequence[Judged]) -> list[str]:
    return [name for name in found[0].values if all(name in one.values for one in found)]


def _better(name: str) -> str:
    return "lower" if name in LOWER_IS_BETTER else "higher"


def _arm(name: str, seeds: Sequence[int], found: Sequence[Judged], metric: str) -> Arm:
    results = {
        seed: {
            "robust accuracy": one.robust,
            "clean accuracy": one.clean,
            "overfitting gap": overfitting(one.robust, one.robust_last),
        }
        for seed, one in zip(seeds, found, strict=True)
    }
    doubts = sorted({doubt for one in found for doubt in one.doubts})
    return Arm(name, results, () if metric == "clean accuracy" else tuple(doubts))


def _figures(entrant: Entrant, seeds: Sequence[int], found: Sequence[Judged]) -> dict[str, Any]:
    """What an arm's runs were and came to, over seeds; the curve is clean and robust validation accuracy, and
    what the learner told of itself, along seconds of training."""
    facts = [record.read(entrant.folder(seed)) for seed in seeds]
    values = {
        "clean": [one.clean.double().mean().item() for one in found],
        "robust": [one.robust.double().mean().item() for one in found],
        "clean_last": [one.clean_last.double().mean().item() for one in found],
        "robust_last": [one.robust_last.double().mean().item() for one in found],
        "gap": [overfitting(one.robust, one.robust_last).mean().item() for one in found],
        "seconds": [one["timing"]["seconds"] for one in facts],
        "step_ratio": [one["timing"]["step_ratio"] for one in facts],
    }
    return {
        "system": entrant.system.name,
        "config": asdict(entrant.config),
        "training": asdict(entrant.training),
        "epochs": entrant.training.epochs,
        **{name: {**over_seeds(each), "by_seed": each} for name, each in values.items()},
        "best_epoch": [one["best"]["epoch"] for one in facts],
        "doubts": sorted({doubt for one in found for doubt in one.doubts}),
        "curve": [_curve(one["history"]) for one in facts],
        "runs": [str(entrant.folder(seed)) for seed in seeds],
        "hardware": facts[-1]["hardware"],
    }


def _curve(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    points, seconds = [], 0.0
    for entry in history:
        seconds += entry["seconds"]
        accuracy = entry["validation"]
        reached = {"clean": accuracy["clean"], "robust": accuracy["robust"], **entry.get("metrics", {})}
        points.append({"epoch": entry["epoch"], "seconds": seconds, **reached})
    return points
