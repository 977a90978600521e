"""Square: a random search that tries squares; it needs no gradient, so hiding gradients is no defence."""

from functools import partial

import torch
from torch import Tensor

from sparring.attacks.random_search import Draws, check_share, random_search
from sparring.attacks.square_bumps import Bumps
from sparring.attacks.square_windows import place, planes, side
from sparring.core.compose import Masked
from sparring.core.gain import Gain
from sparring.core.threat import L1, L2, Linf, Threat


def square(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    restarts: int = 1,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Random search by squares that shrink. Andriushchenko et al., "Square Attack: a query-efficient black-box
    adversarial attack via random search", 2020, algorithms 1 to 3; in L1 Croce & Hein, "Mind the box", 2021.

    Departs from the paper in one sequence of squares for the whole batch; in squares that also reach the last row and
    column; in turning the signs of a square that would change nothing; in intervals where the input is no image; and in
    L2 and L1 in stretching what is left when the box cuts a point off, so that it comes back to the sphere.

    Args:
        gain: judges `z [B, ...]` and is climbed: the margin, in the paper.
        x: clean inputs inside the threat's box: images `[B, C, H, W]`, signals `[B, C, n]` or vectors `[B, n]`.
        threat: `Linf`, `L2` or `L1`, or one of them `Masked`; for a `Union` see `sparring.core.attack.each_member`.
        queries: evaluations of the gain that an example may cost in all, restarts and the clean one included.
        p_init: the share of the pixels in the first square, in (0, 1]. It halves nine times: after 10, 50, 200, 500,
            1000, 2000, 4000, 6000 and 8000 of 10 000 steps, rescaled to the steps of a run.
        restarts: independent runs, which share the queries.
        rng: source of all that is random.

    Returns:
        z `[B, ...]`, allowed by the threat: what lost the example, or else the highest point tried, x included.

    Raises:
        TypeError: for another threat, a gain that cannot judge, or an x of integers.
        ValueError: for a parameter out of its range, or an x of other dimensions.
    """
    check_share("p_init", p_init)
    ball = threat
    while isinstance(ball, Masked):
        ball = ball.threat
    if isinstance(ball, Linf):
        squares = partial(Squares, p_init=p_init, rng=rng)
        return random_search(gain, x, threat, squares, queries=queries, restarts=restarts)
    if isinstance(ball, (L2, L1)):
        p, decay = (2, 2) if isinstance(ball, L2) else (1, 4)
        bumps = partial(Bumps, ball=ball, p=p, decay=decay, p_init=p_init, rng=rng)
        return random_search(gain, x, threat, bumps, queries=queries, restarts=restarts)
    raise TypeError(f"The threat of 'square' must be Linf, L2 or L1, or one of them Masked. Got {type(ball).__name__}.")


class Squares:
    """Points whose every coordinate is as far up or down as the threat allows: stripes at first, then squares of one
    sign per channel, written into z and taken back where they did not raise the gain.

    Args:
        x: inputs `[B, C, H, W]`, `[B, C, n]` or `[B, n]`.
        threat: `Linf`, maybe masked: any whose coordinates may be chosen one by one.
        steps: proposals to come, which set the pace.
        p_init, rng: as in `square`.
    """

    def __init__(self, x: Tensor, threat: Threat, steps: int, *, p_init: float, rng: torch.Generator | None) -> None:
        self._shape, self._steps, self._p_init = x.shape[1:], steps, p_init
        self._low = planes(threat.project(x - threat.eps, x))
        self._high = planes(threat.project(x + threat.eps, x))
        c, _, w = self._low.shape[1:]
        self._draw = Draws(2, c, x.device, rng)
        stripes = torch.rand((c, 1, w), generator=rng, device=x.device) < 0.5
        self._z = torch.where(stripes, self._high, self._low)

    @property
    def z(self) -> Tensor:
        return self._z.reshape(-1, *self._shape)

    def propose(self, step: int) -> Tensor:
        (down, right), signs = self._draw(step)
        size = side(step, self._steps, self._z, self._p_init)
        window = (..., *place(size, self._z, down, right))
        high, low = self._high[window], self._low[window]
        self._here = self._z[window]
        self._old = self._here.clone()
        new = torch.where(signs, high, low)
        idle = (new == self._old).flatten(1).all(1)[:, None, None, None]
        self._new = torch.where(idle, torch.where(signs, low, high), new)
        self._here.copy_(self._new)
        return self.z

    def settle(self, rise: Tensor) -> None:
        self._here.copy_(torch.where(rise[:, None, None, None], self._new, self._old))

    def take(self, rows: Tensor) -> None:
        self._z, self._low, self._high = self._z[rows], self._low[rows], self._high[rows]
