"""What minimal-norm attacks share: each example's nearest lost point so far, and how far its strongest rival is ahead.

They need a gain whose rivals they can see (`sparring.core.gain.RivalGain`) and a threat whose radius they can ask about
(`Metric`); the threat's eps plays no part. Distances are kept in float64, iterates at least in
float32; what is kept is the point that the gain saw, in the dtype of x. An example lost at x leaves at once with x; the
others run the whole budget, for nothing tells that no nearer lost point exists.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sparring.core.gain import Gain, RivalGain
from sparring.core.standing import better, floating, per_example
from sparring.core.threat import L2, Metric, Threat, flat

Lead = Callable[[Tensor], Tensor]
"""What of the rivals `[B, K]` to climb, `[B]`."""


def leader(rivals: Tensor) -> Tensor:
    """The strongest rival: minus the distance of the logits, C&W's f."""
    return rivals.amax(1)


def all_rivals(rivals: Tensor) -> Tensor:
    """log sum exp of the rivals. Cross-entropy is its softplus, so both have gradients of the same direction; this one
    does not vanish where the softmax is saturated."""
    return rivals.logsumexp(1)


def slope(gain: RivalGain, z: Tensor, lead: Lead, *, with_gradient: bool = True) -> tuple[Tensor, Tensor]:
    """How far the strongest rival is ahead `[B]` (above zero the example is lost), and the gradient of the lead at z,
    empty without `with_gradient`."""
    z = z.detach().requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        rivals = gain.rivals(z)
        gradient = torch.autograd.grad(lead(rivals).sum(), z)[0] if with_gradient else torch.empty(0)
    return rivals.detach().amax(1), gradient


@dataclass
class Nearest:
    """B examples that stand at x, where a minimal-norm attack is with them, and their nearest lost points.

    Attributes:
        gain, x, threat: the attack's own, narrowed to those examples.
        origin: x, at least in float32: what iterates are computed in.
        ahead, gradient: how far the strongest rival is ahead and the gradient of the lead, at the last point visited.
        size: the threat's distance of that point, float64.
        lost: whether it is lost.
        best, least: the nearest lost point, x where there is none, and its size `[B]`, infinite where there is none.
        won: whether a point was lost since this was last cleared.
    """

    gain: RivalGain
    x: Tensor
    threat: Metric
    origin: Tensor
    ahead: Tensor
    gradient: Tensor
    size: Tensor
    lost: Tensor
    best: Tensor
    least: Tensor
    won: Tensor
    _exact: Tensor

    @classmethod
    def start(cls, gain: RivalGain, x: Tensor, threat: Metric, lead: Lead) -> tuple[Self, Tensor]:
        """At x, with those examples that are not lost there, and which they are. Costs one gradient of all."""
        ahead, gradient = slope(gain, x, lead)
        rows = (~(ahead > 0)).nonzero().squeeze(1)
        x, origin = x[rows], x[rows].to(torch.promote_types(x.dtype, torch.float32))
        none = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
        zero = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
        gradient = gradient[rows].to(origin.dtype)
        found = (x, torch.full_like(zero, torch.inf), none)
        standing = (gain.take(rows), x, threat.take(rows), origin)
        return cls(*standing, ahead[rows], gradient, zero, none, *found, x.double()), rows

    def visit(
        self,
        z: Tensor,
        lead: Lead = leader,
        *,
        with_gradient: bool = True,
        confidence: float = 0.0,
        size: Tensor | None = None,
    ) -> None:
        """Go to z `[B, ...]`, inside the box, and keep it where it is lost, by more than `confidence`, and nearest.

        Args:
            size: what is least for the nearest `[B]`; by default the threat's distance.
        """
        z = z.to(self.x.dtype)
        self.ahead, gradient = slope(self.gain, z, lead, with_gradient=with_gradient)
        self.gradient = gradient.to(self.origin.dtype)
        self.size = self.threat.distance(z.double(), self._exact)
        size = self.size if size is None else size.double()
        self.lost = self.ahead > confidence
        self.best, record = better(z, torch.where(self.lost, -size, -torch.inf), self.best, -self.least)
        self.least, self.won = -record, self.won | self.lost

    def direction(self, spark: Tensor | None = None) -> Tensor:
        """The gradient at length one; where it is zero, the spark."""
        unit = _EUCLIDEAN.steepest(self.gradient, self.origin)
        if spark is None:
            return unit
        return torch.where(per_example(flat(unit == 0).all(1), unit), spark, unit)

    def spark(self, rng: torch.Generator | None) -> Tensor | None:
        """If any example has no gradient to follow, a random direction of length one for each that ever has none."""
        if flat(self.gradient != 0).any(1).all():
            return None
        noise = torch.randn(self.x.shape, generator=rng, device=self.x.device, dtype=self.origin.dtype)
        return _EUCLIDEAN.steepest(noise, self.origin)

    def boxed(self, z: Tensor) -> Tensor:
        """The nearest point of the box."""
        return z.clamp(self.threat.low, self.threat.high)

    def farthest(self) -> Tensor:
        """The distance of the corner of the box that is farthest from x, `[B]`."""
        low, high = self.threat.low, self.threat.high
        corner = torch.where(self._exact - low > high - self._exact, low, high)
        return self.threat.distance(corner, self._exact)

    def take(self, rows: Tensor) -> Self:
        """These rows, to go on with; `put` brings back what they find."""
        narrow = {name: getattr(self, name)[rows] for name in _PER_EXAMPLE if len(getattr(self, name))}
        return replace(self, gain=self.gain.take(rows), threat=self.threat.take(rows), **narrow)

    def put(self, rows: Tensor, part: Self) -> None:
        """What a part, taken at these rows, has found."""
        for name in ("best", "least", "won"):
            setattr(self, name, getattr(self, name).index_copy(0, rows, getattr(part, name)))

    def into(self, x: Tensor, rows: Tensor) -> Tensor:
        """The attack's result: the nearest lost points at these rows of the batch x."""
        return x.index_copy(0, rows, self.best)

    def __len__(self) -> int:
        return len(self.x)


_EUCLIDEAN = L2(1.0)
_PER_EXAMPLE = ("x", "origin", "ahead", "gradient", "size", "lost", "best", "least", "won", "_exact")


def prepared(name: str, gain: Gain, x: Tensor, threat: Threat) -> tuple[RivalGain, Tensor, Metric]:
    """The arguments of the attack of this name, once they are known to be what it needs. Raises TypeError."""
    if not isinstance(gain, RivalGain):
        raise TypeError(
            f"{name} needs a gain with 'rivals', such as sparring.core.gain.ClassifierGain. Got {type(gain).__name__}."
        )
    if not isinstance(threat, Metric):
        raise TypeError(f"{name} needs a threat with 'distance' and 'within', such as L2. Got {type(threat).__name__}.")
    return gain, floating(x), threat


def euclidean(name: str, threat: Metric) -> L2:
    """The threat, once it is known to be an L2 ball. Raises TypeError."""
    if not isinstance(threat, L2):
        raise TypeError(f"{name} minimises the L2 distance and needs the threat L2. Got {type(threat).__name__}.")
    return threat
