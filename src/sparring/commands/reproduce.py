"""`sparring reproduce NAME`: train a method and its baseline, and say whether the method keeps its promise."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparring.commands.arms import Entrant, Judged, digest, judge
from sparring.commands.comparison import ARMS, Flags, Plan, announce, entrants_of, planned
from sparring.commands.flags import parse, say
from sparring.engine import checkpoint, record
from sparring.evaluation.claim import Arm, Claim, over_seeds, overfitting, verdict
from sparring.evaluation.claim_table import text


def run(arguments: Sequence[str]) -> int:
    """Reproduce, print, and return the exit code, 0 whatever the verdict."""
    flags = parse(Flags, arguments, prog="sparring reproduce", description=Flags.__doc__ or "")
    claim = reproduce(flags, shlex.join(["sparring", "reproduce", *arguments]))
    print(json.dumps(claim, allow_nan=False) if flags.json else text(claim))
    return 0


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
    checkpoint.write(file, json.dumps(answer, indent=1, allow_nan=False).encode())
    say(f"written to {file}")
    return answer


def _answer(plan: Plan, entrants: dict[str, Entrant], judged: dict[str, list[Judged]]) -> dict[str, Any]:
    name_of = {"baseline": plan.baseline.system.name, **{arm: f"{plan.label}, {arm.replace('-', ' ')}" for arm in ARMS}}
    measured = {role: _arm(name_of[role], plan.seeds, found, plan.promise.metric) for role, found in judged.items()}
    arms, answers = [], {}
    for role, entrant in entrants.items():
        row = {"name": name_of[role], "role": role, **_figures(entrant, plan.seeds, judged[role])}
        if role != "baseline":
            p = plan.promise
            claim = Claim(
                plan.label, p.question, measured[role], measured["baseline"], p.metric, p.direction, p.least_effect
            )
            answers[role] = verdict(claim)
            row |= {"verdict": answers[role].verdict, "effect": answers[role].effect}
        arms.append(row)
    answer = answers[plan.promise.arm]
    trial = {"data": plan.settings.data, **asdict(plan.trial)}
    effect = {"method": plan.label, "arm": plan.promise.arm, "trial": trial, **answer.effect}
    return {
        "verdict": answer.verdict,
        "effect": effect,
        "arms": arms,
        "seeds": list(plan.seeds),
        "command": plan.command,
    }


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
    """What an arm's runs were and came to, over seeds; the curve is clean and robust validation accuracy along seconds
    of training."""
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
        points.append(
            {"epoch": entry["epoch"], "seconds": seconds, "clean": accuracy["clean"], "robust": accuracy["robust"]}
        )
    return points
