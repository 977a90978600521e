"""What a round of a game costs, as a multiple of a round of standard training: a ratio measured within one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sparring.core.game import Batch, Game, play


def step_ratio(
    game: Callable[[], Game], baseline: Callable[[], Game], batch: Batch, *, seconds: float = 5.0, most: int = 15
) -> dict[str, Any]:
    """Time the two games' rounds in turn on one batch, on copies that nobody keeps.

    Args:
        game: makes the game to price, over a scratch copy of the model.
        baseline: makes the game that the price is a multiple of.
        batch: played in every round.
        seconds: stop after this long, but not before three pairs.
        most: pairs at most.

    Returns:
        `{"step_ratio": median, "step_ratio_low": smallest, "step_ratio_high": largest, "step_ratio_n": pairs}`.
    """
    ours, theirs = game(), baseline()
    _round(ours, batch), _round(theirs, batch)  # warm-up: allocations, kernel choice
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < 3 or (len(ratios) < most and time.perf_counter() < end):
        first = _round(theirs, batch)
        cost = _round(ours, batch)
        ratios.append(2 * cost / (first + _round(theirs, batch)))
    return {
        "step_ratio": statistics.median(ratios),
        "step_ratio_low": min(ratios),
        "step_ratio_high": max(ratios),
        "step_ratio_n": len(ratios),
    }


def _round(game: Game, batch: Batch) -> float:
    start = time.perf_counter()
    for metrics in play(game, [batch]):
        metrics["loss"].item()  # waits for the device
    return time.perf_counter() - start


def head(batch: Batch, count: int = 64) -> Batch:
    """The first examples of a batch: a price does not need a large one."""
    return tuple(torch.as_tensor(part)[:count] for part in batch)
