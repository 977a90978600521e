"""The evaluation of one classifier: accuracy, worst case under each threat model and their union, grids, calibration,
and the checks that say whether it can be believed."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.game import Batch
from sparring.core.payoff import cross_entropy
from sparring.core.seeds import derive
from sparring.core.threat import Linf, Threat
from sparring.evaluation import probes, sanity
from sparring.evaluation.calibration import calibration
from sparring.evaluation.certified import certify as certificates
from sparring.evaluation.certified import check as certifiable
from sparring.evaluation.ensemble import Outcome, run
from sparring.evaluation.exploit import Exploit, Ledger, Tick
from sparring.evaluation.grids import EPS_FACTORS, STEPS, Bench
from sparring.evaluation.identity import Named, fingerprint
from sparring.evaluation.interval import accuracy
from sparring.evaluation.subject import Subject, Team, subject
from sparring.evaluation.suite import Suite, quick
from sparring.evaluation.table import table

Advance = Callable[[str, float, float], None]
"""`advance(stage, done, total)`: called as the evaluation moves on."""

PROBES = 5
"""Stages beside the suite and the grids: those of `_checks` that attack."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        n: examples.
        suite: the name of the suite, and `bound`: how far it may be from the standard one.
        threat: the threat model, as `Threat.describe` gives it.
        results: `clean`, every attack by name, and `worst`, the worst case per example over all of them; each has
            `accuracy, low, high, n` with a 95 % Wilson interval, attacks also `parameters`, how many examples they were
            tried on (`attempted`) and won first (`broke`), `refused`, and what they cost. Where it was asked for and
            the ball is Linf also `certified`, the share that no input in the ball can break.
        eps_grid: accuracy under PGD-20 with the margin loss along eps, from the same random draws.
        steps_grid: the same along steps of eps / 4 from the same starts, so that a longer run contains a shorter.
        calibration: `clean` and `attacked`, see `sparring.evaluation.calibration`.
        checks: see `sparring.evaluation.sanity`.
        seconds: wall time.
        examples: a few inputs drawn at random, each with its worst verified z, as tensors.
        z: for each example its worst verified input `[N, ...]`.
        outcomes: which examples are right when clean, and stand after each attack, `[N]` bool by name.
        others: the same against every further threat model.
        union: accuracy when the adversary may choose among all threat models; None where there is one.
    """

    n: int
    suite: dict[str, Any]
    threat: dict[str, Any]
    results: dict[str, dict[str, Any]]
    eps_grid: list[dict[str, Any]]
    steps_grid: list[dict[str, Any]]
    calibration: dict[str, dict[str, Any]]
    checks: list[dict[str, Any]]
    seconds: float
    examples: dict[str, Tensor]
    z: Tensor
    outcomes: dict[str, Tensor]
    others: "tuple[Evaluation, ...]" = ()
    union: dict[str, Any] | None = field(default=None)

    def __str__(self) -> str:
        """The table that a terminal shows."""
        return table(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON types."""
        plain = {name: value for name, value in vars(self).items() if name not in ("examples", "z", "outcomes")}
        return {**plain, "others": [other.as_dict() for other in self.others]}


def evaluate(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Iterable[Batch],
    *,
    threat: Threat | Sequence[Threat],
    suite: Suite | Callable[[Threat, int], Suite] = quick,
    seed: int = 0,
    batch_size: int = 256,
    low: float = 0.0,
    high: float = 1.0,
    abstain: int | None = None,
    surrogate: nn.Module | None = None,
    view: Callable[[Subject], nn.Module | None] | None = None,
    ledger: Ledger | None = None,
    advance: Advance | None = None,
    certify: bool = False,
    team: Team | None = None,
) -> Evaluation:
    """Measure how robust a classifier is.

    Args:
        model: `[B, ...] -> [B, K]` logits in any floating dtype, or one logit per example (two classes); it is
            evaluated in eval mode on the device its parameters are on, and left as it was found.
        data: test examples, `(x [N, ...], y [N])` or an iterable of such batches.
        threat: what the adversary may do; several threat models also give the accuracy under their union.
        suite: the attacks, or what makes them from a threat model and the number of classes: `quick`, `standard`,
            `plus`, `rand` or `foundation` of `sparring.evaluation.suite`.
        seed: of every random start and resampling.
        batch_size: examples at a time; halved where memory is too small.
        low, high: bounds that x must be inside.
        abstain: the index of the output by which the model refuses to answer, if it has one: a refusal counts as wrong
            on a clean input and as no success for the adversary.
        surrogate: another model of the same task, for the check that nothing transfers from it.
        view: makes a faster copy of the model for the attacks (`sparring.evaluation.fast`); what they find is verified
            on the model itself.
        ledger: where finished parts are kept, to go on after an interruption.
        advance: told of every stage.
        certify: also bound the model over each Linf ball; see `sparring.evaluation.certified`.
        team: the processes that evaluate together, each with the same arguments and the model on its own device; every
            one returns the same as one process alone.

    Raises:
        ValueError: where x, y, the model's output or a parameter is not what it has to be; with `certify`, where there
            is no Linf threat or the model holds an operation that cannot be bounded.
        ContradictionError: an attack breaks what is certified.
    """
    threats = tuple(threat) if isinstance(threat, Sequence) else (threat,)
    if not threats:
        raise ValueError("The 'threat' parameter must hold at least one threat model. Got none.")
    made = subject(model, data, low=low, high=high, abstain=abstain, batch_size=batch_size, team=team)
    boxes = [one for one in threats if isinstance(one, Linf)] if certify else []
    if certify and not boxes:
        raise ValueError("'certify' needs a Linf threat, the only one that is bounded. Got none.")
    for ball in boxes:
        certifiable(made, ball)
    faster = None if view is None else view(made)
    suites = [suite if isinstance(suite, Suite) else suite(one, made.classes) for one in threats]
    total = sum(len(s.challenges) + len(EPS_FACTORS) + len(STEPS) + PROBES for s in suites)
    stages = _Stages(advance, total)
    identity = "" if ledger is None else fingerprint(made, threats, suites, seed, str(type(faster)))
    found = []
    for i, (one, attacks) in enumerate(zip(threats, suites, strict=True)):
        kept = None if ledger is None else Named(ledger, f"{identity}-{i}")
        measured = _against(made, one, attacks, seed, low, high, surrogate, faster, kept, stages)
        if certify and isinstance(one, Linf):
            measured = _certified(measured, made, one, stages)
        found.append(measured)
    first, *others = found
    if not others:
        return first
    right = torch.stack([e.outcomes["worst"] for e in found]).all(0)
    return replace(first, others=tuple(others), union=accuracy(right), outcomes={**first.outcomes, "union": right})


def _against(
    made: Subject,
    threat: Threat,
    suite: Suite,
    seed: int,
    low: float,
    high: float,
    surrogate: nn.Module | None,
    view: nn.Module | None,
    ledger: Ledger | None,
    stages: "_Stages",
) -> Evaluation:
    start = time.perf_counter()
    outcome = run(made, threat, suite, seed=seed, watch=stages.begin, view=view, ledger=ledger)
    bench = Bench(made, threat, seed, min(len(made.y), suite.grid), stages.begin, ledger)
    eps_rows, eps_rights = bench.along_eps()
    step_rows, step_rights = bench.along_steps()
    checks = [
        sanity.eps_monotone(eps_rights),
        sanity.steps_monotone(step_rights),
        *_checks(bench, suite, outcome, low, high, surrogate),
    ]
    attacked = made.predict(outcome.z)
    rng = torch.Generator().manual_seed(derive(seed, "bootstrap"))
    calibrations = {"clean": calibration(made.logits, made.y, rng), "attacked": calibration(attacked, made.y, rng)}
    rights = {name: found.right for name, found in outcome.exploits.items()}
    outcomes = {"clean": made.clean_right, **rights, "worst": outcome.right}
    return Evaluation(
        n=len(made.y),
        suite={"name": suite.name, "sequential": suite.sequential, "bound": suite.bound},
        threat=threat.describe(),
        results=outcome.results,
        eps_grid=eps_rows,
        steps_grid=step_rows,
        calibration=calibrations,
        checks=checks,
        seconds=time.perf_counter() - start,
        examples=_examples(made, outcome.z, attacked, rng),
        z=outcome.z,
        outcomes={name: right.cpu() for name, right in outcomes.items()},
    )


def _certified(measured: Evaluation, made: Subject, threat: Linf, stages: "_Stages") -> Evaluation:
    """The evaluation with certified beside empirical accuracy; no example may be certified and broken."""
    start = time.perf_counter()
    stages.begin("certificates")
    found = certificates(made, threat, broken=~measured.outcomes["worst"].to(made.y.device))
    right = found.pop("right")
    return replace(
        measured,
        results={**measured.results, "certified": found},
        outcomes={**measured.outcomes, "certified": right},
        seconds=measured.seconds + time.perf_counter() - start,
    )


def _checks(
    bench: Bench, suite: Suite, outcome: Outcome, low: float, high: float, surrogate: nn.Module | None
) -> list[sanity.Check]:
    """Every check but those of the grids."""
    made, exploits = bench.subject, outcome.exploits
    single = probes.single(bench)
    grey, eps = bench.at_grey(low, high)
    checks = [
        sanity.verified(exploits),
        sanity.crosses(suite.challenges, bench.threat),
        sanity.loss_rose(cross_entropy(made.logits, made.y), made.clean_right, exploits),
        sanity.large_eps(grey, eps, made.classes),
        probes.logits(made),
        probes.deterministic(made, random_suite=suite.random),
        probes.gradient_alive(made, exploits),
        probes.finite_differences(bench, low, high),
        probes.random_noise(bench, outcome.right),
        probes.restarts(bench, single),
        probes.attacks_agree(bench, single, outcome.right),
        probes.losses(bench),
        probes.labels(made, outcome.z, outcome.right),
    ]
    white, black = _by_gradient(suite, outcome)
    if white is not None:
        checks.append(probes.black_box(bench, white, black))
    if surrogate is not None:
        checks.append(probes.transfer(bench, outcome.right, surrogate))
    return checks


def _by_gradient(suite: Suite, outcome: Outcome) -> tuple[Tensor | None, Exploit | None]:
    """Which examples stand after the attacks with gradients that a black-box attack is to be compared with, None where
    there are none; and what the suite's own black-box attack achieved, if it has one."""
    named = list(zip(suite.challenges, outcome.exploits.values(), strict=True))
    black = next((exploit for challenge, exploit in named if "queries" in challenge.parameters), None)
    gradient = [exploit.right for _, exploit in named if exploit is not black]
    if suite.sequential:  # those after it never saw what it won
        gradient = [exploit.right for _, exploit in takewhile(lambda pair: pair[1] is not black, named)]
    return (torch.stack(gradient).all(0) if gradient else None), black


@dataclass
class _Stages:
    """Counts stages for whoever watches."""

    advance: Advance | None
    total: int
    done: int = 0

    def begin(self, stage: str) -> Tick:
        """The next stage; gives what to tell how much of it is done."""
        before = self.done
        self.done += 1

        def tick(share: float) -> None:
            if self.advance is not None:
                self.advance(stage, before + share, max(self.total, self.done))

        tick(0.0)
        return tick


def _examples(made: Subject, z: Tensor, attacked: Tensor, rng: torch.Generator, count: int = 24) -> dict[str, Tensor]:
    """Examples drawn at random, whatever became of them."""
    rows = torch.randperm(len(made.y), generator=rng)[:count].to(made.y.device)
    before, after = made.logits[rows].softmax(1).max(1), attacked[rows].softmax(1).max(1)
    chosen = {
        "x": made.x[rows],
        "z": z[rows],
        "y": made.y[rows],
        "clean_prediction": before.indices,
        "adversarial_prediction": after.indices,
        "clean_confidence": before.values,
        "adversarial_confidence": after.values,
    }
    return {name: value.cpu().contiguous() for name, value in chosen.items()}
