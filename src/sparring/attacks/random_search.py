"""Random search: from the highest point so far try another, and keep it if it is higher.

What the score-based attacks `square` and `sparse_rs` share; they differ in what they try next. Every example of a batch
is tried with the same random numbers, drawn a block ahead: an example's result does not depend on who is beside it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from sparring.core.gain import Gain, JudgingGain
from sparring.core.standing import check_count, floating, judging, keep
from sparring.core.threat import Threat

BLOCK = 256
"""Random numbers for so many proposals are drawn at once, so that few calls and few reads of the device are needed."""


class Proposals(Protocol):
    """Where a search on the B standing examples looks next."""

    @property
    def z(self) -> Tensor:
        """The points that the search is at, `[B, ...]`: its start, then the highest so far."""
        ...

    def propose(self, step: int, /) -> Tensor:
        """The points to try at this step, counted from zero, `[B, ...]`. They may be z itself, changed in place."""
        ...

    def settle(self, rise: Tensor, /) -> None:
        """Where `rise`, `[B]` bool, z becomes what was proposed last; elsewhere it is what it was before."""
        ...

    def take(self, rows: Tensor, /) -> None:
        """Narrow to these rows."""
        ...


Begin = Callable[[Tensor, Threat, int], Proposals]
"""`begin(x, threat, steps)`: the start of one run of so many proposals."""


@torch.no_grad()
def random_search(gain: Gain, x: Tensor, threat: Threat, begin: Begin, *, queries: int, restarts: int = 1) -> Tensor:
    """The point that lost each example, or else the highest of those tried and x.

    One query goes to x, and the others in equal shares to the runs: to each start, then to its proposals. An example
    that is lost leaves the batch at once.

    Raises ValueError for counts below one, TypeError for a gain that cannot judge or an integer x.
    """
    check_count("queries", queries)
    check_count("restarts", restarts)
    judge, x = judging(gain), floating(x)
    best = x.clone()
    if len(x) == 0:
        return best
    record, lost = judge.judge(x)
    rows = (~lost).nonzero().squeeze(1)
    for run in range(restarts):
        share = (queries - 1) // restarts + (run < (queries - 1) % restarts)
        if len(rows) == 0 or share == 0:
            break
        rows, record = _run(
            judge.take(rows), begin(x[rows], threat.take(rows), share - 1), share, rows=rows, best=best, record=record
        )
    return best


def _run(
    gain: JudgingGain, proposals: Proposals, queries: int, *, rows: Tensor, best: Tensor, record: Tensor
) -> tuple[Tensor, Tensor]:
    """One run on these rows of best; returns the rows that still stand, and the record."""
    level = torch.full_like(record[rows], -torch.inf)
    for query in range(queries):
        z = proposals.propose(query - 1) if query else proposals.z
        value, lost = gain.judge(z)
        rise = value > level
        leaving = bool(lost.any())
        if leaving:
            best[rows[lost]] = z[lost]
        if query:
            proposals.settle(rise)
        level = torch.where(rise, value, level)
        if leaving:
            stand = (~lost).nonzero().squeeze(1)
            rows, level = rows[stand], level[stand]
            if len(rows) == 0:
                return rows, record
            gain = gain.take(stand)
            proposals.take(stand)
    return rows, keep(proposals.z, level, torch.zeros_like(rows, dtype=torch.bool), rows, best, record)


class Draws:
    """Uniform numbers in [0, 1) for the host and fair coins for the device, a block of proposals ahead.

    Args:
        numbers: for each proposal.
        coins: for each proposal.
        device: of the coins, and of the generator.
        rng: their source.
    """

    def __init__(self, numbers: int, coins: int, device: torch.device, rng: torch.Generator | None) -> None:
        self._sizes, self._device, self._rng = (numbers, coins), device, rng
        self._numbers: list[list[float]] = []
        self._coins = torch.empty(0)

    def __call__(self, step: int) -> tuple[list[float], Tensor]:
        """The numbers, and the coins `[coins, 1, 1]`, of this step. Steps are asked for in order."""
        at = step % BLOCK
        if at == 0:
            numbers, coins = self._sizes
            rng, device = self._rng, self._device
            self._numbers = torch.rand((BLOCK, numbers), dtype=torch.float64, generator=rng, device=device).tolist()
            self._coins = torch.rand((BLOCK, coins, 1, 1), generator=rng, device=device) < 0.5
        return self._numbers[at], self._coins[at]


def stage(step: int, steps: int, breaks: Sequence[int]) -> int:
    """How many of the breaks, given for 10 000 steps, lie before this step of so many."""
    return bisect_left(breaks, 10_000 * step // max(steps, 1))


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless value is a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"The {name!r} parameter must be a number in the range (0, 1]. Got {value!r} instead.")
