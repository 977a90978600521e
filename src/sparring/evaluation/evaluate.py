"""The evaluation of one classifier against one threat model: accuracy, worst case, grids, calibration, checks."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.game import Batch
from sparring.core.payoff import cross_entropy, margin
from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.evaluation import sanity
from sparring.evaluation.calibration import calibration
from sparring.evaluation.exploit import Challenge, Exploit, exploit, predict
from sparring.evaluation.interval import accuracy
from sparring.evaluation.suite import foundation, pgd_challenge
from sparring.evaluation.table import table

EPS_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
STEPS = (1, 2, 5, 10, 20, 50, 100)
GRID_EXAMPLES = 500

Advance = Callable[[str, int, int], None]
"""`advance(stage, done, total)`: called as the evaluation moves on."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        n: examples.
        threat: the threat model, as `Threat.describe` gives it.
        results: `clean`, every attack by name, and `worst`, the worst case per example over all of them; each has
            `accuracy, low, high, n` with a 95 % Wilson interval, attacks also `parameters, refused, seconds`.
        eps_grid: accuracy under PGD-20 with the margin loss along eps, from the same random draws.
        steps_grid: the same along steps of eps / 4 from the same starts, so that a longer run contains a shorter.
        calibration: `clean` and `attacked`, see `sparring.evaluation.calibration`.
        checks: see `sparring.evaluation.sanity`.
        seconds: wall time.
        examples: a few inputs drawn at random, each with its worst verified z, as tensors.
    """

    n: int
    threat: dict[str, Any]
    results: dict[str, dict[str, Any]]
    eps_grid: list[dict[str, Any]]
    steps_grid: list[dict[str, Any]]
    calibration: dict[str, dict[str, Any]]
    checks: list[dict[str, Any]]
    seconds: float
    examples: dict[str, Tensor]

    def __str__(self) -> str:
        """The table that a terminal shows."""
        return table(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Everything but the example tensors, as JSON types."""
        return {name: value for name, value in vars(self).items() if name != "examples"}


def evaluate(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Iterable[Batch],
    *,
    threat: Threat,
    challenges: tuple[Challenge, ...] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    low: float = 0.0,
    high: float = 1.0,
    advance: Advance | None = None,
) -> Evaluation:
    """Measure how robust a classifier is.

    Args:
        model: `[B, ...] -> [B, K]` logits; it is evaluated in eval mode on the device its parameters are on, and left
            as it was found.
        data: test examples, `(x [N, ...], y [N])` or an iterable of such batches.
        threat: what the adversary may do.
        challenges: the attacks; by default `sparring.evaluation.suite.foundation(threat)`.
        seed: of every random start and resampling.
        batch_size: examples at a time; does not change what is measured, only memory.
        low, high: bounds that x must be inside.
        advance: told of every stage.

    Raises:
        ValueError: where x, y or the model's output is not what it has to be.
    """
    start = time.perf_counter()
    x, y = _gather(model, data)
    logits = _check(model, x, y, low, high, batch_size)
    challenges = foundation(threat) if challenges is None else challenges
    bench = _Bench(model, x, y, seed, batch_size, advance, total=len(challenges) + len(EPS_FACTORS) + len(STEPS) + 1)
    exploits = {c.name: bench.attack(c, threat, draw=c.name) for c in challenges}
    clean_right = logits.argmax(1) == y
    worst_right = torch.stack([clean_right, *(e.right for e in exploits.values())]).all(0)
    results = {"clean": accuracy(clean_right)}
    for challenge in challenges:
        found = exploits[challenge.name]
        costs = {"refused": found.refused, "seconds": found.seconds}
        results[challenge.name] = {**accuracy(found.right), "parameters": challenge.parameters, **costs}
    results["worst"] = accuracy(worst_right)

    eps_rows, eps_rights = bench.along_eps(threat, clean_right)
    step_rows, step_rights = bench.along_steps(threat)
    grey = sanity.reaching_grey(threat, x[: bench.some], low, high)
    checks = [
        sanity.verified(exploits),
        sanity.gradient_alive(model, x, y, exploits, batch_size),
        sanity.loss_rose(cross_entropy(logits, y), clean_right, exploits),
        sanity.crosses(challenges, threat),
        sanity.eps_monotone(eps_rights),
        sanity.steps_monotone(step_rights),
        sanity.large_eps(bench.accuracy_at(threat, grey), threat.eps * (grey or 1), logits.shape[1]),
    ]

    z = _worst_input(x, exploits)
    attacked = predict(model, z, batch_size)
    rng = torch.Generator().manual_seed(derive(seed, "bootstrap"))
    calibrations = {"clean": calibration(logits, y, rng), "attacked": calibration(attacked, y, rng)}
    return Evaluation(
        n=len(y),
        threat=threat.describe(),
        results=results,
        eps_grid=eps_rows,
        steps_grid=step_rows,
        calibration=calibrations,
        checks=checks,
        seconds=time.perf_counter() - start,
        examples=_examples(x, z, y, logits, attacked, rng),
    )


Rows = tuple[list[dict[str, Any]], list[Tensor]]


@dataclass
class _Bench:
    """The model and the examples, with an attack on them as one call, counted for whoever watches."""

    model: nn.Module
    x: Tensor
    y: Tensor
    seed: int
    batch_size: int
    advance: Advance | None
    total: int
    done: int = 0

    @property
    def some(self) -> int:
        """How many examples a grid uses."""
        return min(len(self.y), GRID_EXAMPLES)

    def attack(self, challenge: Challenge, threat: Threat, *, draw: str, count: int | None = None) -> Exploit:
        """Attack the first `count` examples; attacks with the same `draw` start from the same random draws."""
        if self.advance is not None:
            self.advance(f"{challenge.name} at eps {threat.eps:.3g}", self.done, self.total)
        self.done += 1
        rng = torch.Generator(self.x.device).manual_seed(derive(self.seed, "evaluation", draw))
        return exploit(self.model, self.x[:count], self.y[:count], threat, challenge, rng, self.batch_size)

    def along_eps(self, threat: Threat, clean_right: Tensor) -> Rows:
        rights = [clean_right[: self.some]]
        rows: list[dict[str, Any]] = [{"eps": 0.0, **accuracy(rights[0])}]
        for factor in EPS_FACTORS:
            within = threat.scaled(factor)
            challenge = pgd_challenge("pgd-20-margin", within, margin, steps=20)
            rights.append(self.attack(challenge, within, draw="eps", count=self.some).right)
            rows.append({"eps": within.eps, **accuracy(rights[-1]), "parameters": challenge.parameters})
        return rows, rights

    def along_steps(self, threat: Threat) -> Rows:
        rows, rights = [], []
        for steps in STEPS:
            challenge = pgd_challenge(f"pgd-{steps}-margin", threat, margin, steps=steps, step_size=threat.eps / 4)
            rights.append(self.attack(challenge, threat, draw="steps", count=self.some).right)
            rows.append({"steps": steps, **accuracy(rights[-1]), "parameters": challenge.parameters})
        return rows, rights

    def accuracy_at(self, threat: Threat, factor: float | None) -> float | None:
        """Accuracy at a multiple of eps, under 50 steps."""
        if factor is None:
            return None
        within = threat.scaled(factor)
        challenge = pgd_challenge("pgd-50-margin", within, margin, steps=50)
        return self.attack(challenge, within, draw="large eps", count=self.some).right.double().mean().item()


def _gather(model: nn.Module, data: tuple[Tensor, Tensor] | Iterable[Batch]) -> tuple[Tensor, Tensor]:
    if not (isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor)):
        batches = list(data)
        if not batches:
            raise ValueError("data must hold at least one batch (x, y). Got none.")
        data = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    x, y = data
    if not isinstance(y, Tensor) or len(x) != len(y) or len(y) == 0:
        raise ValueError(f"data must be (x [N, ...], y [N]) with N >= 1. Got x {list(x.shape)} and y {list(y.shape)}.")
    parameter = next(model.parameters(), None)
    device = x.device if parameter is None else parameter.device
    return x.to(device), y.to(device)


def _check(model: nn.Module, x: Tensor, y: Tensor, low: float, high: float, batch_size: int) -> Tensor:
    """The clean logits, once x, y and they are what they have to be."""
    if not x.is_floating_point():
        raise ValueError(f"x must be floating point in [{low:g}, {high:g}]. Got {x.dtype}; divide 8-bit pixels by 255.")
    if not x.isfinite().all():
        row = int((~x.flatten(1).isfinite().all(1)).nonzero()[0])
        raise ValueError(f"x must be finite. Example {row} holds NaN or infinity.")
    if x.min() < low or x.max() > high:
        raise ValueError(f"x must be inside [{low:g}, {high:g}]. Got values in [{x.min():.4g}, {x.max():.4g}].")
    logits = predict(model, x, batch_size)
    if logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise ValueError(f"The model's output must be [B, classes] with classes >= 2. Got {list(logits.shape)}.")
    if not logits.isfinite().all():
        raise ValueError("The model's output on clean inputs must be finite. Got NaN or infinity.")
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise ValueError(f"Labels must be in [0, {logits.shape[1]}). Got values in [{y.min()}, {y.max()}].")
    return logits


def _worst_input(x: Tensor, exploits: dict[str, Exploit]) -> Tensor:
    """For each example the verified z that is misclassified, and among those the one with the highest cross-entropy."""
    rank = torch.stack([e.loss.nan_to_num(1e6) + 1e6 * ~e.right for e in exploits.values()])  # the misclassified first
    z = torch.stack([e.z for e in exploits.values()])
    return z[rank.argmax(0), torch.arange(len(x), device=x.device)]


def _examples(
    x: Tensor, z: Tensor, y: Tensor, logits: Tensor, attacked: Tensor, rng: torch.Generator, count: int = 24
) -> dict[str, Tensor]:
    """Examples drawn at random, whatever became of them."""
    rows = torch.randperm(len(y), generator=rng)[:count].to(y.device)
    before, after = logits[rows].softmax(1).max(1), attacked[rows].softmax(1).max(1)
    chosen = {
        "x": x[rows],
        "z": z[rows],
        "y": y[rows],
        "clean_prediction": before.indices,
        "adversarial_prediction": after.indices,
        "clean_confidence": before.values,
        "adversarial_confidence": after.values,
    }
    return {name: value.cpu().contiguous() for name, value in chosen.items()}
