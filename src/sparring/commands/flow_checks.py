"""Checks that the evaluation of a detector can be believed, each with a verdict, its figure and what to do.

The sanity ladder: what a larger radius, more steps or queries, and knowing the detector may never make weaker.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.commands.flow_bench import Bench, Outcome
from sparring.evaluation.sanity import SLACK, Check, check, eps_monotone, outdone, steps_monotone, surely

STEPS = (4, 10, 20, 50)
"""Of the PGD whose strength may not fall with them: steps of eps / 4, so four can cross the radius."""

FEW = 20
"""Queries of the search that may not be stronger than the whole one."""


def verified(outcomes: Sequence[Outcome], n: int) -> Check:
    """Every row that an attack returned was finite and inside the threat model."""
    refused = sum(each.refused for each in outcomes)
    return check(
        "verified",
        refused == 0,
        f"{refused} of {n * len(outcomes)} adversarial flows refused",
        "An attack left the threat model or returned NaN; such a flow counts as it came. Look at the detector for NaN "
        "and at the projection.",
    )


def feasible(outcomes: Sequence[Outcome]) -> Check:
    """The check that shares no code with the attacks finds every changed row possible."""
    wrong, moved = sum(each.infeasible for each in outcomes), sum(each.moved + each.infeasible for each in outcomes)
    return check(
        "feasible",
        wrong == 0,
        f"{wrong} of {moved} changed flows could not have been sent",
        "The projection and the independent check disagree about the schema: one of its relations is understood in two "
        "ways. Such a flow counts as it came.",
    )


def deterministic(bench: Bench) -> Check:
    """The same flow gets the same severity twice."""
    x = bench.x[:200]
    apart = float((bench.alarm.severity(x) - bench.alarm.severity(x)).abs().max())
    return check(
        "deterministic",
        apart < 1e-6,
        f"severities of the same flow differ by {apart:.2g}",
        "The detector answers at random, so one answer says little and attacks climb noise.",
    )


def radius(along: Sequence[Outcome]) -> Check:
    """A larger radius is never weaker; outcomes with the radius rising."""
    return {**eps_monotone([each.stands for each in along]), "name": "eps-monotone"}


def steps(bench: Bench, eps: float) -> tuple[list[Outcome], Check]:
    """More steps are never weaker, from the same start with the same step size."""
    along = [bench.stepped(eps, many) for many in STEPS]
    return along, steps_monotone([each.stands for each in along])


def queries(bench: Bench, eps: float, whole: Outcome) -> Check:
    """More queries are never weaker: the search of a few is how the search of all begins."""
    many = min(FEW, bench.queries)
    few = bench.searched(eps, many)
    fall, finding = outdone(whole.stands, few.stands, SLACK)
    return check(
        "queries-monotone",
        not finding,
        f"{many} queries find {max(0.0, fall):.1%} of the flows more than {bench.queries}",
        "The search forgets what it found: the detector answers at random.",
    )


def white_box(white: Outcome, transfer: Outcome) -> Check:
    """Knowing the detector is worth at least as much as having copied it."""
    fall, finding = outdone(white.stands, transfer.stands, SLACK)
    return check(
        "white-box",
        not finding,
        f"flows made on a copy of the detector evade it {max(0.0, fall):.1%} more often than those made on itself",
        "The gradient of the detector misleads: it is masked. The worst case counts what the copy found.",
    )


def black_box(white: Outcome, search: Outcome) -> Check:
    """Following the gradient finds at least as much as asking."""
    fall, finding = outdone(white.stands, search.stands, SLACK)
    return check(
        "black-box",
        not finding,
        f"a search without gradients evades it {max(0.0, fall):.1%} more often than the attack with them",
        "The gradient of the detector misleads: it is masked. The worst case counts what the search found; raise "
        "--queries.",
    )


def huge_radius(bench: Bench) -> Check:
    """Where every number may become anything, a flow can be passed off as a benign one that has the same words and
    raises no alarm, and an attack has to find a way."""
    able = _has_a_double(bench) & (bench.clean > 0)
    stands = bench.loose(1.0).stands[able]
    return check(
        "large-eps",
        not surely(int(stands.sum()), max(1, len(stands)), 0.05),
        f"{int(stands.sum())} of {len(stands)} flows still raise an alarm though every number may become that of a "
        "benign flow that raises none",
        "With so large a radius every alarm can be avoided; an attack that cannot is broken by this detector.",
    )


def _has_a_double(bench: Bench) -> Tensor:
    """Which flows have the words of some benign test flow that raises no alarm, bool `[n]`."""
    test, first = bench.data.test, len(bench.data.preprocessing.numeric)
    passes = (test.y == 0) & (bench.alarm.severity(test.x) <= 0)
    known = set(map(tuple, test.x[passes][:, first:].tolist()))
    return torch.tensor([tuple(words) in known for words in bench.x[:, first:].tolist()], dtype=torch.bool)
