"""What a round of a game costs, as a multiple of a round of standard training: a ratio measured within one run."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sparring.core.game import Batch, Game, play
from sparring.core.schedule import Progress
from sparring.core.tools import Tools
from sparring.engine.fast import Choice, dress
from sparring.engine.job import Job


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


def price(job: Job, model: nn.Module, choice: Choice, batch: Batch, rng: torch.Generator) -> dict[str, Any]:
    """`step_ratio` of a job's own game, weight-space adversary included, and its baseline, both computed as chosen.

    Args:
        job: whose game it is.
        model: copied, and left as it is.
        choice: of `sparring.engine.fast`.
        batch: played in every round.
        rng: of the games.
    """

    def scratch() -> tuple[nn.Module, Tools]:
        played, view = dress(copy.deepcopy(model), choice, batch[0])
        return played, Tools(rng=rng, view=view)

    def ours() -> Game:
        played, tools = scratch()
        tools = replace(tools, perturbation=job.training.make_perturbation(Progress()))
        return job.game(model=played, tools=tools)

    return step_ratio(ours, lambda: job.baseline(*scratch()), batch)


def _round(game: Game, batch: Batch) -> float:
    """Seconds of a round: of the processor, which neighbours on the machine do not lengthen, or of the clock where a
    device does the work."""
    now = time.process_time if torch.as_tensor(batch[0]).device.type == "cpu" else time.perf_counter
    start = now()
    for metrics in play(game, [batch]):
        metrics["loss"].item()  # waits for the device
    return now() - start


def head(batch: Batch, count: int = 64) -> Batch:
    """The first examples of a batch: a price does not need a large one."""
    return tuple(torch.as_tensor(part)[:count] for part in batch)
