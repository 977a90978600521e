"""The cheapest way to buy a rise: how far to move each coordinate so that a linear gain rises by so much.

Each coordinate i has a gain a_i >= 0 per unit and room c_i >= 0 (or inf) to move in. All tensors are `[B, n]`, the rise
is `[B]`; where the room does not hold the rise, all of it is used.

Sorting the coordinates answers exactly and waits for nothing, which is what an accelerator wants. A processor sorts
slower than it runs a small network, and reads its own results for free: there the same answer is looked for first
where it nearly always is, and only what is not found there is sorted.
"""

import torch
from torch import Tensor

TANGENTS = 20
"""Tangent steps before sorting: four to eight are the rule."""

FIRST = 64
"""Coordinates of the largest gain that are sorted before all are."""


def fill(gain: Tensor, speed: Tensor, room: Tensor, rise: Tensor) -> Tensor:
    """t_i = min(s speed_i, c_i) for the smallest s >= 0 with sum_i a_i t_i >= rise.

    The least maximum of t where every speed is 1, the least Euclidean norm where the speed is the gain.
    """
    gain, rise = _normal(gain, rise)
    slope = gain * speed
    if gain.device.type != "cpu":
        return torch.minimum(_by_sorting(gain, speed, slope, room, rise) * speed, room)
    s, done = _by_tangents(gain, speed, slope, room, rise)
    if not done.all():
        rows = (~done).nonzero().squeeze(1)
        s[rows] = _by_sorting(*(part[rows] for part in (gain, speed, slope, room, rise)))
    return torch.minimum(s * speed, room)


def steepest_first(gain: Tensor, room: Tensor, rise: Tensor) -> Tensor:
    """Each coordinate's room used up in falling order of its gain until the rise is bought: the least sum of t."""
    gain, rise = _normal(gain, rise)
    room = room.masked_fill(gain == 0, 0.0)
    count = min(FIRST, gain.shape[1]) if gain.device.type == "cpu" else gain.shape[1]
    gains, order, rooms, bought = _steepest(gain, room, count)
    if count < gain.shape[1] and (bought[:, -1:] < rise).any():
        gains, order, rooms, bought = _steepest(gain, room, gain.shape[1])
    missing = (rise - torch.cat([torch.zeros_like(rise), bought[:, :-1]], 1)).clamp(min=0)
    t = torch.minimum((missing / gains).nan_to_num(0.0, torch.inf), rooms)
    return torch.zeros_like(gain).scatter(1, order, t)


def _steepest(gain: Tensor, room: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The `count` largest gains, falling, whose they are, their room, and what it buys up to and with each of them."""
    gains, order = gain.topk(count, dim=1) if count < gain.shape[1] else gain.sort(dim=1, descending=True)
    rooms = room.gather(1, order)
    return gains, order, rooms, (gains * rooms).nan_to_num(0.0, torch.inf).cumsum(1)


def _by_tangents(gain: Tensor, speed: Tensor, slope: Tensor, room: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """s `[B, 1]` by Newton's method, and for which examples `[B]` it is the answer.

    What s buys is piecewise linear and concave: a tangent crosses the rise before the curve does, so s comes from
    below, and each step ends in a later piece or in the answer.
    """
    kind = torch.finfo(gain.dtype)
    close = 32 * kind.eps * rise
    s = torch.zeros_like(rise)
    for _ in range(TANGENTS):
        wanted = s * speed
        short = rise - (gain * torch.minimum(wanted, room)).sum(1, keepdim=True)
        pace = (slope * (wanted < room)).sum(1, keepdim=True)
        done = (short <= close) | (pace == 0)
        if done.all():
            break
        s = torch.where(done, s, (s + short / pace).clamp(max=kind.max / 4))
    return torch.where((short > close) & (pace == 0), kind.max / 4, s), done.squeeze(1)


def _by_sorting(gain: Tensor, speed: Tensor, slope: Tensor, room: Tensor, rise: Tensor) -> Tensor:
    """s `[B, 1]`: what it buys has a break where each coordinate's room is used up; sort, find the piece, solve."""
    breaks, order = torch.where(slope > 0, room / speed, torch.inf).sort(dim=1)
    finite = breaks < torch.inf
    slope = slope.gather(1, order)
    used = torch.where(finite, (gain * room).gather(1, order), 0.0)
    zero = torch.zeros_like(rise)
    before = torch.cat([zero, used.cumsum(1)], 1)  # bought by the coordinates whose room is used up
    rest = torch.cat([slope.flip(1).cumsum(1).flip(1), zero], 1)  # still to be had per unit of s
    at_break = torch.where(finite, before[:, 1:] + breaks * rest[:, 1:], torch.inf)
    piece = (at_break < rise).sum(1, keepdim=True)
    left, pace = (rise - before.gather(1, piece)).clamp(min=0), rest.gather(1, piece)
    largest = torch.finfo(gain.dtype).max / 4
    return torch.where(rise > 0, torch.where(pace > 0, (left / pace).clamp(max=largest), largest), 0.0)


def _normal(gain: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and rise `[B, 1]` divided by the largest gain, whose square may not fit the dtype."""
    largest = gain.amax(1, keepdim=True).clamp(min=torch.finfo(gain.dtype).tiny)
    most = torch.finfo(gain.dtype).max / 4
    return gain / largest, (rise.clamp(min=0)[:, None].to(gain.dtype) / largest).clamp(max=most)
