"""The cheapest way to buy a rise: how far to move each coordinate so that a linear gain rises by so much.

Each coordinate i has a gain a_i >= 0 per unit and room c_i >= 0 to move in. All tensors are `[B, n]`, the rise is
`[B]`; where the room does not hold the rise, all of it is used.
"""

import torch
from torch import Tensor


def fill(gain: Tensor, speed: Tensor, room: Tensor, rise: Tensor) -> Tensor:
    """t_i = min(s speed_i, c_i) for the smallest s >= 0 with sum_i a_i t_i >= rise.

    The least maximum of t where every speed is 1, the least Euclidean norm where the speed is the gain. The sum is
    piecewise linear in s, with a break where each coordinate's room is used up: sort the breaks, find the piece, solve.
    """
    rise = rise.clamp(min=0)[:, None].to(gain.dtype)
    breaks, order = torch.where(gain * speed > 0, room / speed, torch.inf).sort(dim=1)
    used = (gain * room).gather(1, order)
    slope = (gain * speed).gather(1, order)
    used = torch.where(breaks.isinf(), 0.0, used)
    before = torch.cat([torch.zeros_like(used[:, :1]), used.cumsum(1)], 1)  # bought by what is used up
    rest = slope.flip(1).cumsum(1).flip(1)
    rest = torch.cat([rest, torch.zeros_like(rest[:, :1])], 1)  # still to be had per unit of s
    at_break = before[:, 1:] + torch.where(breaks.isinf(), torch.inf, breaks * rest[:, 1:])
    piece = (at_break < rise).sum(1, keepdim=True)
    left, pace = rise - before.gather(1, piece), rest.gather(1, piece)
    s = torch.where(pace > 0, left / pace, torch.inf).clamp(min=0)
    s = torch.where(rise > 0, s, 0.0)
    return torch.where(gain > 0, torch.minimum(torch.where(speed > 0, s * speed, 0.0), room), 0.0)


def steepest_first(gain: Tensor, room: Tensor, rise: Tensor) -> Tensor:
    """Each coordinate's room used up in falling order of its gain until the rise is bought: the least sum of t."""
    gains, order = gain.sort(dim=1, descending=True)
    rooms = room.gather(1, order)
    bought = (gains * rooms).cumsum(1)
    before = bought - gains * rooms
    missing = (rise.clamp(min=0)[:, None].to(gain.dtype) - before).clamp(min=0)
    t = torch.where(gains > 0, torch.minimum(missing / gains.clamp(min=torch.finfo(gain.dtype).tiny), rooms), 0.0)
    return torch.zeros_like(t).scatter(1, order, t)
