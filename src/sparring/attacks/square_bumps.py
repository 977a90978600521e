"""The proposals of Square in the L2 and L1 balls: mass moves from window to window, as a pair of opposite bumps."""

import torch
from torch import Tensor

from sparring.attacks.random_search import Draws
from sparring.attacks.square_windows import place, planes, side
from sparring.core.compose import Masked
from sparring.core.standing import per_example
from sparring.core.threat import L1, L2, Threat

CELLS = 5
"""The start is a grid of so many by so many bumps."""


class Bumps:
    """Points of a ball sum |z - x|^p <= eps^p.

    A proposal empties two windows and gives what was in them, and what the ball still has to give, to the first: to the
    sum of a new pair of bumps and of what was there, both at unit length.

    Args:
        x: inputs `[B, C, H, W]`, `[B, C, n]` or `[B, n]`.
        threat: the ball, or the ball masked.
        steps: proposals to come, which set the pace.
        ball: the ball itself.
        p, decay: 2 and 2 in L2, 1 and 4 in L1; a bump is a sum of layers whose height falls as 1 / k^decay.
        p_init, rng: as in `sparring.attacks.square.square`.
    """

    def __init__(
        self,
        x: Tensor,
        threat: Threat,
        steps: int,
        *,
        ball: L2 | L1,
        p: int,
        decay: int,
        p_init: float,
        rng: torch.Generator | None,
    ) -> None:
        self._x, self._threat, self._ball, self._steps = x, threat, ball, steps
        self._p, self._decay, self._p_init = p, decay, p_init
        wide = torch.promote_types(x.dtype, torch.float32)
        self._base = planes(x).to(wide)
        self._bumps: dict[tuple[int, int], Tensor] = {}
        self._budget = (ball.eps * (1 - 1e-6)) ** p
        self._draw = Draws(5, self._base.shape[1], x.device, rng)
        d = self._grid(rng)
        self._new = self._cut(d * (self._budget / self._mass(d)) ** (1 / p))
        self.z = self._new
        self._measure()

    def propose(self, step: int) -> Tensor:
        (down, right, down2, right2, turn), signs = self._draw(step)
        size = side(step, self._steps, self._base, self._p_init, least=3, odd=True)
        here = (..., *place(size, self._base, down, right))
        there = (..., *place(size, self._base, down2, right2))
        d = self._d.clone()
        old = d[here].clone()
        mass = self._mass(old, (2, 3))
        d[here] = 0
        free = (self._budget - self._total).clamp_(min=0) / d.shape[1]
        budget = free + mass + self._mass(d[there], (2, 3))
        d[there] = 0
        new = self._bump(size)[int(turn < 0.5)] * torch.where(signs, 1.0, -1.0)
        new = new + old / mass.clamp_(min=self._tiny) ** (1 / self._p)
        d[here] = new * (budget / self._mass(new, (2, 3)).clamp_(min=self._tiny)) ** (1 / self._p)
        self._new = self._cut(d)
        return self._new

    def settle(self, rise: Tensor) -> None:
        self.z = torch.where(per_example(rise, self.z), self._new, self.z)
        self._measure()

    def take(self, rows: Tensor) -> None:
        for name in ("z", "_x", "_base", "_d", "_total"):
            setattr(self, name, getattr(self, name)[rows])
        self._threat = self._threat.take(rows)

    def _measure(self) -> None:
        """What was changed, and how much that is, `[B, 1, 1, 1]`."""
        self._d = planes(self.z) - self._base
        self._total = self._mass(self._d)

    def _mass(self, d: Tensor, over: tuple[int, ...] = (1, 2, 3)) -> Tensor:
        return (d.square() if self._p == 2 else d.abs()).sum(over, keepdim=True)

    @property
    def _tiny(self) -> float:
        return float(torch.finfo(self._base.dtype).tiny)

    def _cut(self, d: Tensor) -> Tensor:
        """x + d in the box (and in the mask if there is one), after d `[B, C, H, W]`, no longer than the ball allows,
        has been stretched by as much as the box cuts off."""
        low, high = self._ball.low, self._ball.high
        d = (self._base + d).clamp_(low, high).sub_(self._base)
        d *= (self._budget / self._mass(d).clamp_(min=1e-12 * self._budget)).clamp_(min=1) ** (1 / self._p)
        z = (self._base + d).clamp_(low, high).to(self._x.dtype).reshape(self._x.shape)
        return self._threat.project(z, self._x) if isinstance(self._threat, Masked) else z

    def _grid(self, rng: torch.Generator | None) -> Tensor:
        """A grid of bumps, each with its own orientation, and in every channel its own sign: `[1, C, H, W]`."""
        c, h, w = self._base.shape[1:]
        a, b = max(h // CELLS, 1), max(w // CELLS, 1)
        rows, columns = h // a, w // b
        device = self._base.device
        signs = torch.where(torch.rand((c, rows, columns, 1, 1), generator=rng, device=device) < 0.5, 1.0, -1.0)
        turned = (torch.rand((rows, columns), generator=rng, device=device) < 0.5).long()
        cells = self._bump((a, b))[turned] * signs.to(self._base.dtype)  # [C, rows, columns, a, b]
        grid = cells.permute(0, 1, 3, 2, 4).reshape(c, rows * a, columns * b)
        d = torch.zeros((1, c, h, w), dtype=self._base.dtype, device=device)
        top, left = (h - rows * a) // 2, (w - columns * b) // 2
        d[0, :, top : top + rows * a, left : left + columns * b] = grid
        return d

    def _bump(self, size: tuple[int, int]) -> Tensor:
        """A pair of opposite bumps of unit length: one above the other, then side by side, `[2, a, b]`."""
        if size not in self._bumps:
            (a, b), like = size, self._base
            upright = torch.cat([layers(a // 2, b, self._decay, like), -layers(a - a // 2, b, self._decay, like)], 0)
            abreast = torch.cat([layers(a, b // 2, self._decay, like), -layers(a, b - b // 2, self._decay, like)], 1)
            if min(a, b) == 1:  # there is one way to halve a line
                upright = abreast = upright if a > b else abreast
            pair = torch.stack([upright, abreast])
            self._bumps[size] = pair / self._mass(pair, (1, 2)) ** (1 / self._p)
        return self._bumps[size]


def layers(a: int, b: int, decay: int, like: Tensor) -> Tensor:
    """A bump `[a, b]` in the dtype of `like`, of rectangles that lie on one another: k = 0, 1, ... reaches k from the
    middle and is 1 / (k + 1)^decay high (the eta of the paper, for decay 2)."""
    reach = max(a, b) // 2
    heights = torch.arange(1, reach + 2, dtype=like.dtype, device=like.device) ** -decay
    piled = heights.flip(0).cumsum(0).flip(0)
    down = (torch.arange(a, device=like.device) - a // 2).abs()
    right = (torch.arange(b, device=like.device) - b // 2).abs()
    return piled[torch.maximum(down[:, None], right)]
