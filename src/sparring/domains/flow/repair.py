"""Brings changed rows of flows back to where every relation holds, without leaving the ball around the originals.

Fields that a relation `field == term` tells the value of get that value, as far as they may change. What is violated
then is pulled towards the original: per row and relation, all fields of it, to where a straight line from the original
says that it holds, then by halves, then all the way. A row that is still in trouble is given back as it was, which is
feasible by definition; so no answer ever violates a relation that its original satisfies.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparring.domains.flow.joint import Joint
from sparring.domains.flow.preprocessing import Preprocessing
from sparring.domains.flow.relation import TOLERANCE, Term, value
from sparring.domains.flow.scale import Scale

_SHARES = (1.0, 0.5, 0.0, 0.0)
"""The largest share of its move that a field of a violated relation keeps, round by round."""

_SAFETY = 0.999
"""Of the share that a straight line gives, for real numbers: rounding to float32 takes more than nothing."""


@dataclass(frozen=True, eq=False)
class Ground:
    """What depends on the preprocessing only, on one device.

    Args:
        preprocessing: fitted.
        joint: its relations.
        scale: of the n numeric coordinates that matter to it (`Joint.columns`).
    """

    preprocessing: Preprocessing
    joint: Joint
    scale: Scale

    @classmethod
    def of(cls, preprocessing: Preprocessing, device: torch.device) -> "Ground":
        joint = Joint.of(preprocessing, device)
        return cls(preprocessing, joint, preprocessing.scale.take(torch.tensor(joint.columns).long()).to(device))

    @property
    def device(self) -> torch.device:
        return self.joint.device

    @cached_property
    def columns(self) -> Tensor:
        """Where the n coordinates are in a vector, int64."""
        return torch.tensor(self.joint.columns, dtype=torch.int64, device=self.device)

    @cached_property
    def up(self) -> Tensor:
        """Which numeric fields may rise, bool `[n]`."""
        return self._flags([field.change in ("up", "free") for field in self.joint.fields])

    @cached_property
    def down(self) -> Tensor:
        """Which may fall."""
        return self._flags([field.change in ("down", "free") for field in self.joint.fields])

    @cached_property
    def changeable(self) -> Tensor:
        """Which coordinates of a vector may change at all, 0 and 1, float32 `[width]`."""
        may = torch.zeros(self.preprocessing.width, device=self.device)
        may[self.columns] = (self.up | self.down).float()
        return may

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The schema's, in scaled space and in [0, 1], float64 `[n]` each."""
        fields = self.joint.fields
        told = torch.tensor([[f.low for f in fields], [f.high for f in fields]], dtype=torch.float64).to(self.device)
        low, high = self.scale.encode(told).clamp(0.0, 1.0)
        return low, high

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor]:
        """Which fields can lie below and above all training rows: at 0 and at 1 their value is not known."""
        fitted, columns = self.preprocessing, self.joint.columns
        below = [field.low < fitted.low[k] for field, k in zip(self.joint.fields, columns, strict=True)]
        above = [field.high > fitted.high[k] for field, k in zip(self.joint.fields, columns, strict=True)]
        return self._flags(below), self._flags(above)

    @cached_property
    def told(self) -> tuple[tuple[int, int, Term, float], ...]:
        """The relations that say the value of a field which may change: relation, field, term, and how near. Where
        nothing else in it may change, what the original has is the answer, and pulling finds it."""
        free = {field.name for field in self.joint.fields if field.change != "fixed"}
        found = []
        for r, relation in enumerate(self.joint.relations):
            target = relation.target
            if target and target.name in free and len(relation.fields & free) > 1:
                found.append((r, self.joint.place[target.name], target.term, target.within))
        return tuple(found)

    @cached_property
    def scales(self) -> tuple[Scale, ...]:
        """Of each coordinate by itself."""
        return tuple(self.scale.take(slice(k, k + 1)) for k in range(len(self.columns)))

    def _flags(self, flags: list[bool]) -> Tensor:
        return torch.tensor(flags, dtype=torch.bool, device=self.device)


@dataclass(frozen=True, eq=False)
class Origin:
    """The original rows, and what may become of them.

    Args:
        x: the n coordinates `[B, n]`.
        raw: their values, of their types, float64 `[B, n]`.
        words: slack of the conditions on categories.
        slack: of the relations `[B, R]`.
        broken: which relations the row itself breaks, `[B, R]`: those ask nothing of it.
        low, high: where a coordinate may be, `[B, n]`.
        doubtful: whether a relation of some row holds to rounding only; off the CPU, whether one may.
    """

    x: Tensor
    raw: Tensor
    words: Tensor
    slack: Tensor
    broken: Tensor
    low: Tensor
    high: Tensor
    doubtful: bool

    @classmethod
    def of(cls, ground: Ground, x: Tensor, eps: float) -> "Origin":
        """Of vectors `[B, width]`."""
        joint, u = ground.joint, x[:, ground.columns]
        raw = ground.scale.typed(ground.scale.decode(u.double()))
        words = joint.words(x)
        slack = joint.slack(raw, words)
        # the original is known to rounding only: a row is not said to break what it may well satisfy
        unit = 64 * torch.finfo(x.dtype).eps
        broken = slack > unit * (1.0 + raw.abs() @ joint.members.double())
        least, most = (bound.to(x.dtype) for bound in ground.bounds)
        still = _frozen(ground, x, u)
        low = torch.where(ground.down & ~still, torch.maximum(u - eps, least), u)
        high = torch.where(ground.up & ~still, torch.minimum(u + eps, most), u)
        doubtful = _any((slack > 0) & ~broken)
        return cls(u, raw, words, slack, broken, torch.minimum(low, u), torch.maximum(high, u), doubtful)

    def take(self, rows: Tensor) -> "Origin":
        """Some of the rows, by index."""
        parts = (self.x, self.raw, self.words, self.slack, self.broken, self.low, self.high)
        x, raw, words, slack, broken, low, high = (part[rows] for part in parts)
        return Origin(x, raw, words, slack, broken, low, high, self.doubtful)

    def violated(self, ground: Ground, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Which relations rows break that their originals do not, `[B, R]`, and the slack of all of them. Whatever
        the numbers say, a relation stands as it did where none of its fields moved."""
        slack = ground.joint.slack(raw, self.words)
        bad = (slack > 0) & ~self.broken
        if self.doubtful:
            bad = bad & ((raw != self.raw).float() @ ground.joint.members > 0.5)
        return bad, slack


def _frozen(ground: Ground, x: Tensor, u: Tensor) -> Tensor:
    """Coordinates that stay because their row's value is not known: it may lie outside the training rows, where vectors
    are cut. So does what shares a relation with one, or with a category that training never saw; bool `[B, n]`."""
    joint = ground.joint
    below, above = ground.ends
    unknown = ((u <= 0) & below) | ((u >= 1) & above)
    blocks = ground.preprocessing.blocks.values()
    unseen = [x[:, block].amax(1) <= 0 if block.stop > block.start else u.new_ones(len(u)).bool() for block in blocks]
    touched = unknown.float() @ joint.members
    if unseen:
        touched = touched + torch.stack(unseen, 1).float() @ joint.word_members
    return unknown | ((touched > 0.5).float() @ joint.members.T > 0.5)


def land(scale: Scale, u: Tensor, x: Tensor, low: Tensor, high: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest typed point to u inside its box.

    Args:
        scale: of the columns given.
        u, x, low, high: coordinates `[B, k]`, with low <= x <= high.
        origin: the raw values of x.

    Returns:
        The coordinates and their raw values: x and its own, bit for bit, where nothing changed.
    """
    u = torch.where(u.isnan(), x, u).clamp(low, high)
    raw = scale.typed(scale.decode(u.double()))
    near = torch.where(scale.grid, scale.encode(raw).to(u.dtype), u)
    out = (near < low) | (near > high)  # the nearest step is outside: the one before it, towards x, is not
    raw = torch.where(out, scale.typed(raw + (origin - raw).sign() / scale.pitch), raw)
    near = torch.where(out, scale.encode(raw).to(u.dtype), near)
    still = (u == x) | (scale.grid & (raw == origin)) | (near < low) | (near > high)
    return torch.where(still, x, near), torch.where(still, origin, raw)


def repaired(ground: Ground, origin: Origin, u: Tensor, raw: Tensor) -> Tensor:
    """The coordinates u `[B, n]`, which `land` gave with their raw values, moved to where the relations hold."""
    if not ground.joint.relations:
        return u
    everything, rows = u, None
    bad, slack = origin.violated(ground, raw)
    for share in _SHARES:
        if u.device.type == "cpu":  # only here is it free to ask which rows are left
            left = bad.any(1).nonzero().squeeze(1)
            if len(left) < len(u):
                everything, rows = _with(everything, rows, u), left if rows is None else rows[left]
                origin, u, raw, bad, slack = origin.take(left), u[left], raw[left], bad[left], slack[left]
            if len(left) == 0:
                return everything
        if share > 0:
            u, raw, bad, slack = _told(ground, origin, u, raw, bad, slack)
        u, raw = _pulled(ground, origin, raw, u, bad, slack, share)
        bad, slack = origin.violated(ground, raw)
    return _with(everything, rows, torch.where(bad.any(1, keepdim=True), origin.x, u))


def _with(everything: Tensor, rows: Tensor | None, u: Tensor) -> Tensor:
    """All rows, once those of these indices are u."""
    return u if rows is None else everything.index_copy(0, rows, u)


def _told(
    ground: Ground, origin: Origin, u: Tensor, raw: Tensor, bad: Tensor, slack: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give each field the value that a violated relation tells it, as near as its box allows; with what is still
    violated, and by how much, as far as one can say without looking again."""
    for r, k, term, within in ground.told:
        chosen = bad[:, r, None]
        if not _any(chosen):
            continue
        now, column = raw, slice(k, k + 1)
        wanted = value(term, lambda name, now=now: now[:, ground.joint.place[name]], raw[:, k])  # type: ignore[misc]
        scale = ground.scales[k]
        box = (each[:, column] for each in (origin.x, origin.low, origin.high, origin.raw))
        to, told = land(scale, scale.encode(wanted[:, None]).to(u.dtype), *box)
        u, raw, bad, slack = u.clone(), raw.clone(), bad.clone(), slack.clone()
        u[:, column] = torch.where(chosen, to, u[:, column])
        raw[:, column] = torch.where(chosen, told, raw[:, column])
        slack[:, r] = torch.where(bad[:, r], (told[:, 0] - wanted).abs() - (within + TOLERANCE), slack[:, r])
        bad[:, r] &= slack[:, r] > 0
    return u, raw, bad, slack


def _pulled(
    ground: Ground, origin: Origin, raw: Tensor, u: Tensor, bad: Tensor, slack: Tensor, most: float
) -> tuple[Tensor, Tensor]:
    """Move the fields of violated relations towards the original, each to the smallest share that a relation of its
    own asks for, and round it towards the original."""
    scale, joint = ground.scale, ground.joint
    start = origin.slack.clamp(max=0.0)
    share = (start / (start - slack)).clamp(max=most)  # where the line from start to slack crosses 0
    share = torch.where(bad, share, 1.0)
    share = torch.cat([share, torch.ones_like(share[:, :1])], 1)
    keep = share[:, joint.occurrences.flatten()].reshape(len(raw), *joint.occurrences.shape).amin(2)
    move = raw - origin.raw
    steps = (origin.raw + keep * move) * scale.pitch
    inner = torch.where(move > 0, (steps + 1e-7).floor(), (steps - 1e-7).ceil()) / scale.pitch
    moved = torch.where(scale.grid, inner, origin.raw + _SAFETY * keep * move)
    still = moved == origin.raw
    there = torch.where(still, origin.x, scale.encode(moved).to(u.dtype))
    there = there.clamp(origin.low, origin.high)
    pulled = keep < 1
    values = torch.where(still, origin.raw, scale.typed(scale.decode(there.double())))
    return torch.where(pulled, there, u), torch.where(pulled, values, raw)


def _any(mask: Tensor) -> bool:
    """Whether any is true; off the CPU, where reading would wait for the device, whether any may be."""
    return mask.device.type != "cpu" or bool(mask.any())
