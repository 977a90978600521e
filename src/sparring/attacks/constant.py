"""The search for the constant c of attacks that minimise distance + c * hinge: the least c that wins, per example.

Carlini & Wagner, "Towards evaluating the robustness of neural networks", 2017, section V; Chen et al. 2018 share it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest

State = tuple[Tensor, ...]
"""What a descent holds beside the points it visits, each `[B, ...]`."""

Move = Callable[[Nearest, Tensor, State, int], tuple[State, Tensor]]
"""`(part, c [B], state, step) -> (state, objective [B])`: one step of the descent, which visits its new point."""

CEILING = 1e10
PROGRESS = 0.9999


def search_constant(
    run: Nearest,
    move: Move,
    begin: State,
    *,
    steps: int,
    search_steps: int,
    initial_constant: float,
    confidence: float,
) -> None:
    """Descend `search_steps` times from the same beginning: c grows tenfold until it wins, then it is bisected.

    An example ends a descent early, and alone, when neither its least objective has fallen by 0.01 % nor a nearer point
    been found in the last two tenths of the steps, or in the first. After ten searches or more, the last one repeats
    the least constant that won.
    """
    c = torch.full((len(run),), initial_constant, dtype=run.origin.dtype, device=run.x.device)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for search in range(search_steps):
        if search_steps >= 10 and search == search_steps - 1:
            c = torch.where(high.isinf(), c, high)
        run.won = torch.zeros_like(run.won)
        _descend(run, move, begin, c, steps, confidence)
        low, high = torch.where(run.won, low, c), torch.where(run.won, torch.minimum(high, c), high)
        c = torch.where(high.isinf(), (10 * c).clamp(max=CEILING), (low + high) / 2)


def _descend(run: Nearest, move: Move, state: State, c: Tensor, steps: int, confidence: float) -> None:
    rows = torch.arange(len(run), device=run.x.device)
    part, before = run.take(rows), c * (confidence - run.ahead).clamp(min=0)
    lowest, least, idle = before, run.least, torch.ones_like(rows)
    tenth = max(1, steps // 10)
    for step in range(steps):
        state, objective = move(part, c, state, step)
        lowest = torch.minimum(lowest, objective)
        if (step + 1) % tenth or step == steps - 1:
            continue
        progress = (lowest <= PROGRESS * before) | (part.least < least)
        idle = torch.where(progress, 0, idle + 1)
        before, least, stay = lowest, part.least, (idle < 2).nonzero().squeeze(1)
        if len(stay) < len(rows):
            run.put(rows, part)
            if len(stay) == 0:
                return
            rows, part, c = rows[stay], part.take(stay), c[stay]
            before, least, idle = before[stay], least[stay], idle[stay]
            lowest, state = before, tuple(value[stay] for value in state)
    run.put(rows, part)
