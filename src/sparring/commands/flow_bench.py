"""A detector under attack: malicious test flows, what each attack makes of them, and which still raise an alarm."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.commands.flow_attacks import BATCH, RESTARTS, STEPS, climbed, in_parts, infeasible, strongest
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.domains.flow.alarm import Alarm
from sparring.domains.flow.data import MALICIOUS, FlowData
from sparring.domains.flow.feasible import Feasible, unconstrained
from sparring.domains.flow.generator import fit, mimic
from sparring.domains.flow.idsgan import fit_idsgan, idsgan
from sparring.domains.flow.search import search
from sparring.domains.flow.substitute import fit_substitute

DRAWS = 50
"""Generated flows that each malicious one chooses from."""

GENERATOR_STEPS, IDSGAN_STEPS = 500, 200

Gradient = Literal["whole", "part", "none"]
"""Whether following the gradient of a detector is an attack on it: of a tree's answer it says nothing."""

Told = Callable[[str, float], None]
"""Told what is being done, and the share of it that is."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack made of the flows.

    Args:
        severity: of the flows as they were sent, float64 `[n]`; the original's where the attack's is not allowed.
        stands: which raise an alarm as they came and as they were sent, bool `[n]`.
        refused: how many returned rows were not finite or outside the threat model.
        infeasible: how many the independent check refused.
        moved: how many rows were changed.
        parameters: of the attack, as a record keeps them.
        seconds: it took.
    """

    severity: Tensor
    stands: Tensor
    refused: int
    infeasible: int
    moved: int
    parameters: dict[str, Any]
    seconds: float


@dataclass(frozen=True, eq=False)
class Bench:
    """The flows to attack, and the detector.

    Args:
        data: the set; rows of its test are attacked, its training rows are the attacker's to learn from.
        rows: the malicious test rows, `[n]`.
        alarm: the detector.
        gradient: what its gradient is worth (`gradient_of`).
        queries: that the black-box search may ask for each flow.
        seed: of everything random.
        told: of every stage.
    """

    data: FlowData
    rows: Tensor
    alarm: Alarm
    gradient: Gradient
    queries: int
    seed: int
    told: Told

    @cached_property
    def x(self) -> Tensor:
        """The vectors of the flows."""
        return self.data.test.x[self.rows]

    @cached_property
    def clean(self) -> Tensor:
        """The severity of the flows as they are."""
        return self.alarm.severity(self.x)

    def feasible(self, eps: float) -> Feasible:
        """What the flows may become."""
        return Feasible(self.data.preprocessing, eps)

    def attacks(self, eps: float) -> Iterator[tuple[str, Outcome]]:
        """Every feasible attack at this radius, by name."""
        within = self.feasible(eps)
        climb = {"attack": "apgd", "steps": STEPS, "step_size": 2 * eps}
        climb |= {"random_start": True, "restarts": RESTARTS}
        if self.gradient != "none":
            yield "capgd", self._outcome("capgd", within, self._climb(self.alarm), climb)
        yield "transfer", self._outcome("transfer", within, self._climb(self.substitute(eps)), climb)
        yield "search", self.searched(eps, self.queries)
        drawn = {"attack": "gadot", "draws": DRAWS}
        yield "generated", self._outcome("generated", within, self._mimic(), drawn)
        yield "idsgan", self._outcome("idsgan", within, self._idsgan(eps), {**drawn, "attack": "idsgan"})

    def searched(self, eps: float, queries: int) -> Outcome:
        """The black-box search."""
        asked = {"attack": "search", "queries": queries}
        attack = partial(_parts, partial(search, queries=queries), self.alarm.evading)
        return self._outcome("search", self.feasible(eps), attack, asked)

    def main(self, eps: float) -> Outcome:
        """What is followed along the radius: of the climb (on the detector where its gradient is whole, else on its
        copy) and the search, flow by flow what is worse for the detector."""
        aim = self.alarm if self.gradient == "whole" else self.substitute(eps)
        facts = {"attack": "apgd and search", "steps": STEPS, "queries": self.queries}
        climbed = self._outcome(f"eps {eps:g}", self.feasible(eps), self._climb(aim), facts)
        return worst((climbed, self.searched(eps, self.queries)), facts)

    def loose(self, eps: float) -> Outcome:
        """Rows that nobody could send: every number anywhere within eps, whatever it means."""
        within = unconstrained(self.data.preprocessing, eps)
        aim = self.alarm if self.gradient != "none" else self.substitute(eps)
        return self._outcome(f"anything within {eps:g}", within, self._climb(aim), {"attack": "apgd"})

    def stepped(self, eps: float, steps: int) -> Outcome:
        """PGD with so many steps of eps / 4, from the same start whatever their number."""
        facts = {"attack": "pgd", "steps": steps, "step_size": eps / 4, "random_start": True}
        attack = partial(_climbed, self.alarm.evading, steps)
        return self._outcome(f"{steps} steps", self.feasible(eps), attack, {**facts, "restarts": 1})

    def substitute(self, eps: float) -> Alarm:
        """The detector with its classifier replaced by a network that was fitted to its answers; one for all radii."""
        if "made" not in self._substitutes:
            self.told("substitute", 0.0)
            benign, malicious = self._training()
            rng = torch.Generator().manual_seed(derive(self.seed, "substitute"))
            told = partial(self.told, "substitute")

            def answers(u: Tensor) -> Tensor:
                return self.alarm.margin(u).double().sigmoid()

            made = fit_substitute(answers, benign, malicious, self.feasible(eps), rng, progress=told)
            self._substitutes["made"] = self.alarm.with_classifier(made)
        return self._substitutes["made"]

    @cached_property
    def _substitutes(self) -> dict[str, Alarm]:
        return {}

    def _training(self) -> tuple[Tensor, Tensor]:
        train = self.data.train
        return train.x[train.y != MALICIOUS], train.x[train.y == MALICIOUS]

    def _climb(self, aim: Alarm) -> Callable[[Tensor, Threat, int], Tensor]:
        return partial(strongest, aim.evading)

    def _mimic(self) -> Callable[[Tensor, Threat, int], Tensor]:
        self.told("generator", 0.0)
        rng = torch.Generator().manual_seed(derive(self.seed, "generator"))
        told, steps = partial(self.told, "generator"), GENERATOR_STEPS
        made = fit(self._training()[0], rng, steps=steps, learning_rate=1e-3, progress=told)
        return partial(_parts, partial(mimic, generator=made, draws=DRAWS), self.alarm.evading)

    def _idsgan(self, eps: float) -> Callable[[Tensor, Threat, int], Tensor]:
        self.told("IDSGAN", 0.0)
        benign, malicious = self._training()
        rng = torch.Generator().manual_seed(derive(self.seed, "idsgan"))
        told, steps = partial(self.told, "IDSGAN"), IDSGAN_STEPS

        def alarms(u: Tensor) -> Tensor:
            return self.alarm(u) > 0

        made = fit_idsgan(alarms, malicious, benign, self.feasible(eps), rng, steps=steps, progress=told)
        return partial(_parts, partial(idsgan, gan=made, draws=DRAWS), self.alarm.evading)

    def _outcome(
        self, stage: str, within: Threat, attack: Callable[[Tensor, Threat, int], Tensor], parameters: dict[str, Any]
    ) -> Outcome:
        """Whatever the attack returns is checked here: finite, inside the threat model, and, where that is one of
        feasible rows, found possible by the check that shares no code with it. What is not counts as not sent."""
        self.told(stage, 0.0)
        start = perf_counter()
        z = attack(self.x, within, derive(self.seed, "attacked"))
        inside = torch.cat([within.contains(u, x) for u, x in zip(z.split(BATCH), self.x.split(BATCH), strict=True)])
        inside &= z.isfinite().all(1)
        z = torch.where(inside[:, None], z, self.x)
        wrong = torch.zeros(len(z), dtype=torch.bool)
        if isinstance(within, Feasible):
            wrong = infeasible(self.data, self.rows, self.x, z)
            z = torch.where(wrong[:, None], self.x, z)
        severity = self.alarm.severity(z)
        stands = (self.clean > 0) & (severity > 0)
        moved = int((z != self.x).any(1).sum())
        seconds = perf_counter() - start
        return Outcome(severity, stands, int((~inside).sum()), int(wrong.sum()), moved, parameters, seconds)


def worst(outcomes: Sequence[Outcome], parameters: dict[str, Any]) -> Outcome:
    """Of each flow what was worst for the detector, in any of these attacks; parameters as a record keeps them."""
    severity = torch.stack([each.severity for each in outcomes]).amin(0)
    stands = torch.stack([each.stands for each in outcomes]).all(0)
    return Outcome(
        severity,
        stands,
        refused=sum(each.refused for each in outcomes),
        infeasible=sum(each.infeasible for each in outcomes),
        moved=sum(each.moved for each in outcomes),
        parameters=parameters,
        seconds=sum(each.seconds for each in outcomes),
    )


def gradient_of(alarm: Alarm, x: Tensor, threat: Threat, rng: torch.Generator, *, points: int = 32) -> Gradient:
    """Whether the classifier's gradient tells how its answer changes: along the way from x to a random point the
    integral of it has to be the difference of the answers. Where trees answer too it is not, however alive the rest.

    Args:
        alarm: the detector.
        x: some vectors `[B, d]`.
        threat: where the other end of the way may be.
        rng: source of the other ends.
        points: of the midpoint rule.
    """
    if not alarm.differentiable(x):
        return "none"
    far = threat.sample(x, rng)
    total = torch.zeros(len(x), dtype=torch.float64)
    for k in range(points):
        at = (x + (k + 0.5) / points * (far - x)).detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(alarm.margin(at).sum(), at)
        total += ((far - x) * slope).sum(1).double() / points
    with torch.no_grad():
        apart = (alarm.margin(far) - alarm.margin(x)).double()
    near = (total - apart).abs() <= 0.1 * torch.maximum(apart.abs(), apart.abs().median())
    return "whole" if near.double().mean() >= 0.9 else "part"


def _parts(attack: Callable[..., Tensor], gain: Any, x: Tensor, threat: Threat, seed: int) -> Tensor:
    return in_parts(attack, gain, x, threat, seed)


def _climbed(gain: Any, steps: int, x: Tensor, threat: Threat, seed: int) -> Tensor:
    return climbed(gain, x, threat, seed, steps)
