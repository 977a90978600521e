"""Units of the numeric coordinates: logarithm, min-max and the steps of integers and rates."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparring.domains.flow.schema import Field


@dataclass(frozen=True, eq=False)
class Scale:
    """The numeric coordinates' units: u = (t - start) / span, where t is v or log(1 + v), in float64 `[n]`."""

    log: Tensor
    start: Tensor
    span: Tensor
    per: Tensor
    """Steps per unit: 1 for integers and flags, 100 for rates of two digits, 0 for what is not rounded."""

    @classmethod
    def of(cls, fields: tuple[Field, ...], low: tuple[float, ...], high: tuple[float, ...]) -> "Scale":
        log = torch.tensor([field.log for field in fields], dtype=torch.bool)
        start, end = (torch.tensor(values, dtype=torch.float64) for values in (low, high))
        start, end = torch.where(log, start.log1p(), start), torch.where(log, end.log1p(), end)
        span = torch.where(end > start, end - start, 1.0)
        per = [0.0 if field.kind == "real" else _per_unit(field.step) for field in fields]
        return cls(log, start, span, torch.tensor(per, dtype=torch.float64))

    def to(self, device: torch.device) -> "Scale":
        if self.start.device == device:
            return self
        return Scale(self.log.to(device), self.start.to(device), self.span.to(device), self.per.to(device))

    def take(self, rows: Tensor | slice) -> "Scale":
        """Some of the coordinates."""
        return Scale(self.log[rows], self.start[rows], self.span[rows], self.per[rows])

    @cached_property
    def logs(self) -> Tensor | slice | None:
        """Which coordinates are logarithmic: a slice, which is faster, where they are neighbours; None for none."""
        at = self.log.nonzero().squeeze(1)
        if len(at) == 0:
            return None
        first, last = int(at[0]), int(at[-1])
        return slice(first, last + 1) if last - first + 1 == len(at) else at

    @cached_property
    def grid(self) -> Tensor:
        """Which coordinates have steps."""
        return self.per > 0

    @cached_property
    def pitch(self) -> Tensor:
        """`per`, and 1 where it is 0."""
        return torch.where(self.grid, self.per, 1.0)

    def encode(self, raw: Tensor) -> Tensor:
        """float64 `[..., n]`, not cut to [0, 1]."""
        t = raw.clone()
        if self.logs is not None:
            t[..., self.logs] = raw[..., self.logs].log1p()
        return t.sub_(self.start).div_(self.span)

    def decode(self, u: Tensor) -> Tensor:
        """The inverse, from float64 `[..., n]`."""
        t = u.mul(self.span).add_(self.start)
        if self.logs is not None:
            t[..., self.logs] = t[..., self.logs].expm1()
        return t

    def typed(self, raw: Tensor) -> Tensor:
        """The nearest multiple of each coordinate's step: k / 100 rather than 0.01 k, which is the number that a file
        with two digits is read as."""
        return torch.where(self.grid, (raw * self.pitch).round_().div_(self.pitch), raw)


def _per_unit(step: float) -> float:
    """How many steps a unit has; without a step, one."""
    if not step:
        return 1.0
    whole = round(1 / step)
    return float(whole) if whole and abs(1 / step - whole) < 1e-9 * whole else 1 / step
