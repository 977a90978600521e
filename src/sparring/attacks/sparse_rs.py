"""Sparse-RS: a random search over which few pixels to change, and to which corner of the box."""

from functools import partial

import torch
from torch import Tensor

from sparring.attacks.random_search import Draws, check_share, random_search, stage
from sparring.core.gain import Gain
from sparring.core.sparse import L0
from sparring.core.standing import per_example
from sparring.core.threat import Threat

BREAKS = (0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10 000 steps, those after which fewer pixels are exchanged."""
DIVISORS = (1, 2, 4, 5, 6, 8, 10, 12, 15, 20)
"""What alpha is divided by before the first break, between the first two, and so on."""


def sparse_rs(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    queries: int = 10_000,
    alpha_init: float = 0.3,
    restarts: int = 1,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The best k pixels to change, all to corners of the box. Croce, Andriushchenko, Singh, Flammarion & Hein,
    "Sparse-RS: a versatile framework for query-efficient sparse black-box adversarial attacks", 2022, algorithm 1 with
    the sampling of its section on L0.

    A step gives up max(alpha k, 1) of the k pixels for as many others of random corners. Departs from the paper in one
    sequence of draws for the whole batch; where a step exchanges one pixel, it may also be for itself in another
    corner; where a new corner is what the pixel was, it is the opposite one.

    Args:
        gain: judges `z [B, ...]` and is climbed: the margin, in the paper.
        x: clean inputs `[B, ...]` inside the threat's box. A pixel is a coordinate, or with the threat's `per_pixel` a
            position of `[B, C, ...]` in all its channels at once.
        threat: `sparring.core.sparse.L0` in a finite box: at most k = eps pixels may change.
        queries: evaluations of the gain that an example may cost in all, restarts and the clean one included.
        alpha_init: the share of the k pixels that the first step exchanges, in (0, 1]; the paper has 0.3 where any
            class will do and 0.1 for a given one. It is divided by 2, 4, 5, 6, 8, 10, 12, 15 and 20 after 0, 50, 200,
            500, 1000, 2000, 4000, 6000 and 8000 of 10 000 steps, rescaled to the steps of a run.
        restarts: independent runs, which share the queries.
        rng: source of all that is random.

    Returns:
        z `[B, ...]`, allowed by the threat: what lost the example, or else the highest point tried, x included.

    Raises:
        TypeError: for another threat, a gain that cannot judge, or an x of integers.
        ValueError: for a parameter out of its range, or a box without corners.
    """
    check_share("alpha_init", alpha_init)
    if not isinstance(threat, L0):
        raise TypeError(f"The threat of 'sparse_rs' must be L0. Got {type(threat).__name__}.")
    if not abs(threat.low) + abs(threat.high) < float("inf"):
        raise ValueError(f"'sparse_rs' needs a finite box. Got low={threat.low!r}, high={threat.high!r}.")
    begin = partial(Exchanges, corners=(threat.low, threat.high), per_pixel=threat.per_pixel, alpha=alpha_init, rng=rng)
    return random_search(gain, x, threat, begin, queries=queries, restarts=restarts)


class Exchanges:
    """Points that differ from x in k pixels at most. Each example has its own order of the n pixels, of which the first
    k are changed; an exchange names places in that order, the same for all.

    Args:
        x: inputs `[B, ...]`.
        threat: has k as its eps.
        steps: proposals to come, which set the pace.
        corners: low and high.
        per_pixel, alpha, rng: as in `sparse_rs`.
    """

    def __init__(
        self,
        x: Tensor,
        threat: Threat,
        steps: int,
        *,
        corners: tuple[float, float],
        per_pixel: bool,
        alpha: float,
        rng: torch.Generator | None,
    ) -> None:
        self._shape, self._steps, self._alpha, self._rng = x.shape[1:], steps, alpha, rng
        self._low, self._high = (torch.tensor(corner, dtype=x.dtype, device=x.device) for corner in corners)
        self._x = x.flatten(2) if per_pixel and x.dim() > 2 else x.flatten(1)[:, None]
        b, c, self._n = self._x.shape
        self._k = min(int(threat.eps), self._n)
        self._draw = Draws(2, c, x.device, rng)
        self._order = torch.randperm(self._n, generator=rng, device=x.device).repeat(b, 1)
        self._z = self._x.clone()
        index = self._order[:, None, : self._k].expand(-1, c, -1)
        coins = torch.rand((c, self._k), generator=rng, device=x.device) < 0.5
        self._z.scatter_(2, index, self._corner(coins, self._x.gather(2, index)))

    @property
    def z(self) -> Tensor:
        return self._z.reshape(-1, *self._shape)

    def propose(self, step: int) -> Tensor:
        self._places, self._m, coins = self._exchange(step)
        self._touched = self._order[:, self._places]
        self._index = self._touched[:, None].expand(-1, len(coins), -1)
        self._old = self._z.gather(2, self._index)
        if len(self._places) == self._m:
            turned = torch.where(self._old == self._high, self._low, self._high)
            self._new = torch.where(coins | ~coins.any(0), turned, self._old)
        else:
            clean = self._x.gather(2, self._index)
            self._new = torch.cat([clean[..., : self._m], self._corner(coins, clean[..., self._m :])], 2)
        self._z.scatter_(2, self._index, self._new)
        return self.z

    def settle(self, rise: Tensor) -> None:
        self._z.scatter_(2, self._index, torch.where(per_example(rise, self._new), self._new, self._old))
        if len(self._places) > self._m:
            swapped = self._touched.roll(self._m, 1)
            self._order[:, self._places] = torch.where(rise[:, None], swapped, self._touched)

    def take(self, rows: Tensor) -> None:
        self._x, self._z, self._order = self._x[rows], self._z[rows], self._order[rows]

    def _exchange(self, step: int) -> tuple[Tensor, int, Tensor]:
        """The m places that give a pixel up and the m that get it (or none, where the m pixels change their corners),
        m, and the coins `[C, m]` that choose corners."""
        (give, get), coins = self._draw(step)
        k, n, rng, device = self._k, self._n, self._rng, self._x.device
        m = min(max(int(self._alpha / DIVISORS[stage(step, self._steps, BREAKS)] * k), 1), n - k or k)
        if m == 1:
            out, into = int(give * k), k + int(get * (n - k + 1))
            return torch.tensor([out, into] if into < n else [out], device=device), m, coins[:, 0]
        places = torch.randperm(k, generator=rng, device=device)[:m]
        if n > k:
            places = torch.cat([places, k + torch.randperm(n - k, generator=rng, device=device)[:m]])
        return places, m, torch.rand((len(coins), m), generator=rng, device=device) < 0.5

    def _corner(self, coins: Tensor, clean: Tensor) -> Tensor:
        """The corners that the coins `[C, m]` choose for pixels that were `clean`, `[B, C, m]`, and are to change."""
        same = (torch.where(coins, self._high, self._low) == clean).all(1, keepdim=True)
        return torch.where(coins ^ same, self._high, self._low)
