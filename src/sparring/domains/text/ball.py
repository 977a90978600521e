"""Continuous threat models of embedded texts: each real token's embedding may move a little, relative to what norm
embeddings have.

Radii are in units of the mean embedding norm, so that they mean the same on any model: 0.1 moves a token by a tenth of
an embedding. Padding and the mask channel stay as they are. There is no box: an embedding may be anything.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sparring.core.standing import per_example


@dataclass(frozen=True)
class TokenBall:
    """||z_t - x_t||_2 <= eps * unit for every real token t of an embedded text.

    Its own norm is max_t ||d_t||_2 / unit.

    Args:
        eps: radius, in units of `unit`.
        unit: the mean norm of an embedding (`sparring.domains.text.embedded.mean_norm`).
    """

    eps: float
    unit: float
    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        _check(self)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The norm of z - x, `[B]`."""
        return (_lengths(_offset(z.double(), x.double())).amax(1) / self.unit).to(z.dtype)

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        d = _offset(z, x)
        return _moved(x, d * _shrink(_lengths(d), radius, self.unit)[..., None])

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        """Every token moves by the same length along its part of the normal, which gains most for that length."""
        n = _tokens(normal, z)
        lengths = _lengths(n)
        step = (rise / lengths.sum(1).clamp(min=torch.finfo(n.dtype).tiny)).clamp(min=0)
        return _padded(_unit(n, lengths) * per_example(step, n))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        d, slack = z.double() - x.double(), _rounding(z, x)
        near = _lengths(d[..., :-1]) <= self.eps * self.unit * (1 + 1e-6) + _lengths(slack)
        return near.all(1) & _kept(z, x)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Each token uniform in its ball."""
        noise = torch.randn(x[..., :-1].shape, generator=rng, device=x.device, dtype=x.dtype)
        share = torch.rand(x.shape[:2], generator=rng, device=x.device, dtype=x.dtype) ** (1 / noise.shape[2])
        d = _unit(noise, _lengths(noise)) * (share * self.eps * self.unit)[..., None]
        return self.project(_moved(x, d), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Each token's gradient at length `unit`; zero where it is zero, and at padding."""
        g = _tokens(gradient, z)
        return _padded(_unit(g, _lengths(g)) * self.unit)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        return {"norm": "embedding", "over": "token", "eps": self.eps, "unit": self.unit}


@dataclass(frozen=True)
class SentenceBall:
    """||z - x||_F <= eps * unit over all real tokens of an embedded text together.

    Its own norm is the Frobenius norm over `unit`.

    Args:
        eps: radius, in units of `unit`.
        unit: the mean norm of an embedding (`sparring.domains.text.embedded.mean_norm`).
    """

    eps: float
    unit: float
    low: ClassVar[float] = -math.inf
    high: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        _check(self)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        return self.within(z, x, self.eps)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The norm of z - x, `[B]`."""
        return (_size(_offset(z.double(), x.double())).squeeze(1) / self.unit).to(z.dtype)

    def within(self, z: Tensor, x: Tensor, radius: float | Tensor) -> Tensor:
        d = _offset(z, x)
        return _moved(x, d * _shrink(_size(d), radius, self.unit)[..., None])

    def reach(self, normal: Tensor, rise: Tensor, z: Tensor) -> Tensor:
        n = _tokens(normal, z)
        squared = n.square().sum((1, 2)).clamp(min=torch.finfo(n.dtype).tiny)
        return _padded(n * per_example((rise / squared).clamp(min=0), n))

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        d, slack = z.double() - x.double(), _rounding(z, x)
        near = _size(d[..., :-1]) <= self.eps * self.unit * (1 + 1e-6) + _size(slack)
        return near.squeeze(1) & _kept(z, x)

    def sample(self, x: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Uniform in the ball, which has D dimensions for each real token."""
        noise = _tokens(torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype), x)
        dimensions = (x[..., -1].sum(1) * noise.shape[2]).clamp(min=1)
        share = torch.rand(len(x), generator=rng, device=x.device, dtype=x.dtype) ** (1 / dimensions)
        d = _unit(noise, _size(noise)) * per_example(share * self.eps * self.unit, x)
        return self.project(_moved(x, d), x)

    def steepest(self, gradient: Tensor, z: Tensor) -> Tensor:
        """The gradient at real tokens, at length `unit`."""
        g = _tokens(gradient, z)
        return _padded(_unit(g, _size(g)) * self.unit)

    def scaled(self, factor: float) -> Self:
        return replace(self, eps=self.eps * factor)

    def take(self, rows: Tensor) -> Self:
        return self

    def describe(self) -> dict[str, Any]:
        return {"norm": "embedding", "over": "text", "eps": self.eps, "unit": self.unit}


def _check(threat: TokenBall | SentenceBall) -> None:
    for name in ("eps", "unit"):
        value = getattr(threat, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(
                f"The {name!r} parameter of {type(threat).__name__} must be a number in the range (0, inf). "
                f"Got {value!r} instead."
            )


def _tokens(d: Tensor, x: Tensor) -> Tensor:
    """What d is at real tokens of x, `[B, L, D]`, zero elsewhere."""
    return d[..., :-1] * x[..., -1:].detach()


def _offset(z: Tensor, x: Tensor) -> Tensor:
    """z - x at real tokens of x, `[B, L, D]`, zero elsewhere."""
    return _tokens(z - x, x)


def _moved(x: Tensor, d: Tensor) -> Tensor:
    """x with d `[B, L, D]` added at real tokens; padding and mask as they are in x."""
    return torch.cat([x[..., :-1] + d * x[..., -1:], x[..., -1:]], -1)


def _padded(d: Tensor) -> Tensor:
    """A direction `[B, L, D + 1]` that leaves the mask channel alone."""
    return torch.nn.functional.pad(d, (0, 1))


def _lengths(d: Tensor) -> Tensor:
    """The L2 norm of each token, `[B, L]`."""
    lengths: Tensor = torch.linalg.vector_norm(d, dim=2)
    return lengths


def _size(d: Tensor) -> Tensor:
    """The Frobenius norm of each text, `[B, 1]`."""
    size: Tensor = torch.linalg.vector_norm(d.flatten(1), dim=1)[:, None]
    return size


def _unit(d: Tensor, lengths: Tensor) -> Tensor:
    """d divided by these lengths `[B, L]` or `[B, 1]`; zero where they are."""
    return d / lengths.clamp(min=torch.finfo(d.dtype).tiny)[..., None]


def _shrink(lengths: Tensor, radius: float | Tensor, unit: float) -> Tensor:
    """The factors, at most 1, that bring these lengths to the radius, a number or `[B]`, in units of `unit`."""
    limit = torch.as_tensor(radius, dtype=lengths.dtype, device=lengths.device).reshape(-1, 1) * unit
    return (limit / lengths.clamp(min=torch.finfo(lengths.dtype).tiny)).clamp(max=1)


def _rounding(z: Tensor, x: Tensor) -> Tensor:
    """What rounding each coordinate to its dtype may add to the distance, `[B, L, D]` float64."""
    kind = torch.finfo(z.dtype)
    size = torch.maximum(x.abs(), z.abs())[..., :-1].double().clamp(min=kind.tiny)
    return torch.where(z[..., :-1] == x[..., :-1], 0.0, kind.eps * size)


def _kept(z: Tensor, x: Tensor) -> Tensor:
    """Whether padding and the mask are as they were and everything is finite, `[B]`."""
    padding = x[..., -1] == 0
    same = (z[..., -1] == x[..., -1]) & (~padding | (z == x).all(2))
    return same.all(1) & z.isfinite().flatten(1).all(1)
