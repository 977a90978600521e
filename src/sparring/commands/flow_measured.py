"""Everything that `sparring evaluate` measures of a detector of flows, as a record keeps it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparring.commands import flow_checks as checks
from sparring.commands.flow_attacks import STEPS
from sparring.commands.flow_bench import Bench, Outcome, Told, gradient_of, worst
from sparring.commands.flow_rates import Severities, rates
from sparring.core.seeds import derive
from sparring.domains.flow.alarm import Alarm
from sparring.domains.flow.data import FlowData
from sparring.domains.flow.feasible import unconstrained
from sparring.domains.flow.schema import CHANGES, Schema
from sparring.evaluation.interval import accuracy

STAGES = 3 + 5 + len(checks.STEPS) + 1 - 2
"""Stages besides three for each radius, of which the first has two already: three that learn, five attacks, the steps
and the huge radius."""

BOUNDS = {
    "whole": "",
    "part": "The gradient tells only a part of how this detector changes, as where trees vote beside networks: what "
    "attacks find is an upper bound on what it detects.",
    "none": "This detector has no gradient to follow. It is attacked by flows made on a copy of it and by a search "
    "that only asks, so what they find is an upper bound on what it detects.",
}
"""How far the answer may be off, by what the gradient is worth."""

Fact = dict[str, Any]


def measured(
    data: FlowData,
    rows: Tensor,
    alarm: Alarm,
    found: Severities,
    radii: Sequence[float],
    queries: int,
    seed: int,
    told: Told,
) -> tuple[Fact, dict[str, Tensor]]:
    """The evaluation, and which of the attacked flows still raise an alarm, by attack.

    Args:
        data: the set.
        rows: malicious test rows to attack.
        alarm: the detector.
        found: what it says of flows as they came.
        radii: the first is that of the worst case.
        queries: of the black-box search.
        seed: of everything random.
        told: of every stage.
    """
    eps = radii[0]
    probe = data.test.x[rows[:200]]
    rng = torch.Generator().manual_seed(derive(seed, "gradient"))
    gradient = gradient_of(alarm, probe, unconstrained(data.preprocessing, eps), rng)
    bench = Bench(data, rows, alarm, gradient, queries, seed, told)
    attacks = dict(bench.attacks(eps))
    whole = worst(tuple(attacks.values()), {})
    whole = replace(whole, severity=torch.minimum(whole.severity, bench.clean))
    along = _along(bench, attacks, radii)
    loose = {each: bench.loose(each) for each in sorted(set(radii))}
    told_checks, step_rows = _checks(bench, attacks, [along[each] for each in sorted(along)], eps)
    bound = BOUNDS[gradient]
    results = {"clean": accuracy(bench.clean > 0)}
    results |= {name: _result(each, len(rows)) for name, each in attacks.items()}
    results["worst"] = accuracy(whole.stands)
    evaluation = {
        "n": len(rows),
        "threat": {**bench.feasible(eps).describe(), "fields": _fields(data.preprocessing.schema)},
        "suite": {"name": "flows", "sequential": False, "bound": bound},
        "results": results,
        "eps_grid": [{"eps": each, **_result(along[each], len(rows))} for each in sorted(along)],
        "unconstrained": [{"eps": each, **_result(loose[each], len(rows))} for each in sorted(loose)],
        "steps_grid": step_rows,
        "checks": told_checks,
        "others": [],
        "detector": {"gradient": gradient},
        **rates(replace(found, attacked=whole.severity), data, seed),
    }
    stands = {name: each.stands for name, each in attacks.items()}
    return evaluation, {"clean": bench.clean > 0, **stands, "worst": whole.stands}


def _along(bench: Bench, attacks: dict[str, Outcome], radii: Sequence[float]) -> dict[float, Outcome]:
    """The same attack at every radius; what was tried already is not tried again."""
    climbed = attacks["capgd" if bench.gradient == "whole" else "transfer"]
    facts = {"attack": "apgd and search", "steps": STEPS, "queries": bench.queries}
    return {radii[0]: worst((climbed, attacks["search"]), facts)} | {each: bench.main(each) for each in radii[1:]}


def _checks(
    bench: Bench, attacks: dict[str, Outcome], along: Sequence[Outcome], eps: float
) -> tuple[list[Fact], list[Fact]]:
    """The checks, and the table of steps where there is a gradient to follow."""
    outcomes = [*attacks.values(), *along]
    found = [checks.verified(outcomes, len(bench.rows)), checks.feasible(outcomes), checks.deterministic(bench)]
    found.append(checks.radius(along))
    if bench.gradient != "whole":
        return [*found, checks.queries(bench, eps, attacks["search"])], []
    stepped, verdict = checks.steps(bench, eps)
    found += [
        verdict,
        checks.white_box(attacks["capgd"], attacks["transfer"]),
        checks.black_box(attacks["capgd"], attacks["search"]),
        checks.huge_radius(bench),
    ]
    rows = [{"steps": s, **_result(each, len(bench.rows))} for s, each in zip(checks.STEPS, stepped, strict=True)]
    return found, rows


def _result(outcome: Outcome, n: int) -> Fact:
    return {
        **accuracy(outcome.stands),
        "parameters": outcome.parameters,
        "attempted": n,
        "refused": outcome.refused,
        "infeasible": outcome.infeasible,
        "moved": outcome.moved,
        "seconds": outcome.seconds,
    }


def _fields(schema: Schema) -> dict[str, list[str]]:
    """The columns by what an attacker may do to them."""
    return {change: [field.name for field in schema.fields if field.change == change] for change in CHANGES}
