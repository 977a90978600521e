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
        steps_grid: the same along steps of eps / 4, from the same starts, so that a longer run passes through a shorter.
        calibration: `clean` and `attacked`, see `sparring.evaluation.calibration`.
        checks: see `sparring.evaluation.sanity`.
        seconds: wall time.
        examples: a few verified adversarial inputs, as tensors.
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
    total = len(challenges) + len(EPS_FACTORS) + len(STEPS) + 1

    def attack(challenge: Challenge, within: Threat, count: int, done: int, stage: str, draw: str = "") -> Exploit:
        if advance is not None:
            advance(stage, done, total)
        rng = torch.Generator(x.device).manual_seed(derive(seed, "evaluation", draw or stage))
        return exploit(model, x[:count], y[:count], within, challenge, rng, batch_size)

    exploits = {c.name: attack(c, threat, len(y), i, c.name) for i, c in enumerate(challenges)}
    clean_right = logits.argmax(1) == y
    worst_right = torch.stack([clean_right, *(e.right for e in exploits.values())]).all(0)
    results = {"clean": accuracy(clean_right)}
    for challenge in challenges:
        found = exploits[challenge.name]
        results[challenge.name] = {
            **accuracy(found.right),
            "parameters": challenge.parameters,
            "refused": found.refused,
            "seconds": found.seconds,
        }
    results["worst"] = accuracy(worst_right)

    count, done = min(len(y), GRID_EXAMPLES), len(challenges)
    eps_grid = [{"eps": 0.0, **accuracy(clean_right[:count])}]
    eps_rights, steps_rights = [clean_right[:count]], []
    for i, factor in enumerate(EPS_FACTORS):
        within = threat.scaled(factor)
        challenge = pgd_challenge("pgd-20-margin", within, margin, steps=20)
        found = attack(challenge, within, count, done + i, f"eps {within.eps:.4g}", "eps grid")
        eps_rights.append(found.right)
        eps_grid.append({"eps": within.eps, **accuracy(found.right), "parameters": challenge.parameters})
    done += len(EPS_FACTORS)
    steps_grid = []
    for i, steps in enumerate(STEPS):
        challenge = pgd_challenge(f"pgd-{steps}-margin", threat, margin, steps=steps, step_size=threat.eps / 4)
        found = attack(challenge, threat, count, done + i, f"{steps} steps", "steps grid")
        steps_rights.append(found.right)
        steps_grid.append({"steps": steps, **accuracy(found.right), "parameters": challenge.parameters})

    grey = sanity.reaching_grey(threat, x[:count], low, high)
    broken = None
    if grey is not None:
        within = threat.scaled(grey)
        challenge = pgd_challenge("pgd-50-margin", within, margin, steps=50)
        found = attack(challenge, within, count, total - 1, f"eps {within.eps:.4g}")
        broken = found.right.double().mean().item()
    clean_loss = cross_entropy(logits, y)
    strongest = max(exploits.values(), key=lambda e: e.loss.mean().item())
    checks = [
        sanity.verified(exploits),
        sanity.gradient_alive(model, x, y, exploits, batch_size),
        sanity.loss_rose(clean_loss, clean_right, strongest),
        sanity.crosses(challenges, threat),
        sanity.eps_monotone(eps_rights),
        sanity.steps_monotone(steps_rights),
        sanity.large_eps(broken, threat.eps * (grey or 1), logits.shape[1]),
    ]

    z = _worst_input(x, exploits)
    attacked = predict(model, z, batch_size)
    rng = torch.Generator().manual_seed(derive(seed, "bootstrap"))
    calibrations = {"clean": calibration(logits, y, rng), "attacked": calibration(attacked, y, rng)}
    if advance is not None:
        advance("done", total, total)
    return Evaluation(
        n=len(y),
        threat=threat.describe(),
        results=results,
        eps_grid=eps_grid,
        steps_grid=steps_grid,
        calibration=calibrations,
        checks=checks,
        seconds=time.perf_counter() - start,
        examples=_examples(x, z, y, logits, attacked, worst_right),
    )


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
    x: Tensor, z: Tensor, y: Tensor, logits: Tensor, attacked: Tensor, worst_right: Tensor, count: int = 8
) -> dict[str, Tensor]:
    """The first examples that were right and fell, then the first that stood."""
    right = logits.argmax(1) == y
    fell, stood = (right & ~worst_right).nonzero().squeeze(1), worst_right.nonzero().squeeze(1)
    rows = torch.cat([fell[: max(count // 2, count - len(stood))], stood])[:count]
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
