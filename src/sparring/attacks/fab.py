"""FAB: walk along the decision boundary, always drawn towards x, and remember the nearest lost point."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.minimal import boxed, closer, widened
from sparring.attacks.nearest import prepared
from sparring.attacks.plane import nearest_plane
from sparring.core.gain import Gain, RivalGain
from sparring.core.standing import check_count, check_positive, per_example
from sparring.core.threat import Metric, Threat

MARGIN = 0.05
"""How far beyond eps, as a share of it, early stopping still looks: the final search may bring it inside."""


def fab(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The nearest lost point found. Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive
    boundary attack", 2020, algorithm 1.

    A step goes onto the nearest linearised boundary, from z and from x, and to a mean of both ends that leans towards
    the shorter step (eq. 9); a lost z is a candidate, and the walk goes on from beta of its way from x. The first run
    starts at x, the others at a random point half as far away as the nearest lost point so far, or as eps. Departs from
    the paper in three points: the nearest boundary is the one with the shortest step inside the box, not with the least
    ratio of value and dual norm; a z farther away than the nearest lost point so far is taken for lost without asking
    (98 of 100 are; in Linf and L2 norms came out the same to four digits); the final search is `minimal.closer`.

    Args:
        gain: what is climbed; needs `rivals`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: whose norm is made small and whose box is kept. Its eps scales the random starts and is where
            `early_stop` stops.
        steps: each of one forward pass, one backward pass for every rival, and one more forward pass where the new z
            would be the nearest lost point.
        restarts: runs, the first of them from x.
        alpha_max: the most that the end from x weighs, in [0, 1].
        eta: how far to go, in steps onto the boundary, above 0.
        beta: the share of the way from x that a lost z keeps, in [0, 1].
        early_stop: an example leaves once a lost point within eps is found, and points more than a twentieth beyond
            eps are not looked at.
        rng: source of the random starts.

    Returns:
        z `[B, ...]` in the box: lost, maybe beyond eps (see `minimal.within`), or x where no lost point was found or x
        itself was lost.

    Raises:
        TypeError: when the gain has no rivals, or the threat measures no distances.
        ValueError: when a parameter is out of its range.
    """
    walk = _Walk(steps, alpha_max, eta, beta, early_stop)
    return _search(gain, x, threat, walk, None, restarts, rng)


def fab_targeted(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    count: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """`fab` towards each of the rivals that are strongest at x in turn, every step a single backward pass.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    2020: FAB-T, with 100 steps, 9 targets and one run each. Any wrong class is a success, whichever is the target.

    Args:
        count: how many rivals, at least 1; no more than there are.

    The other arguments, and what is returned, are those of `fab`.
    """
    check_count("count", count)
    walk = _Walk(steps, alpha_max, eta, beta, early_stop)
    return _search(gain, x, threat, walk, count, restarts, rng)


@dataclass(frozen=True)
class _Walk:
    steps: int
    alpha_max: float
    eta: float
    beta: float
    early_stop: bool

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        _check_range("alpha_max", self.alpha_max, 0, 1)
        check_positive("eta", self.eta)
        _check_range("beta", self.beta, 0, 1)

    def __call__(
        self,
        gain: RivalGain,
        x: Tensor,
        z: Tensor,
        threat: Metric,
        rival: Tensor | None,
        rows: Tensor,
        best: Tensor,
        record: Tensor,
    ) -> None:
        """From z `[B, ...]`, with the nearest lost points kept at these rows of best and record."""
        kind, x = x.dtype, widened(x)
        for _ in range(self.steps):
            asked = z.to(kind).detach().requires_grad_()
            with torch.enable_grad():
                ahead = gain.rivals(asked)
            plane = nearest_plane(ahead, asked, _strongest(ahead.detach(), rival), threat)
            z = self._step(plane.step, plane.step_from(x, z, threat), z, x, threat)
            lost = self._judge(gain, z.to(kind), x, threat, rows, best, record)
            z = torch.where(per_example(lost, z), x + self.beta * (z - x), z)
            if not self.early_stop:
                continue
            stay = (record[rows] > threat.eps).nonzero().squeeze(1)
            if len(stay) == 0:
                break
            if len(stay) < len(rows):
                gain, threat, x, z, rows = gain.take(stay), threat.take(stay), x[stay], z[stay], rows[stay]
                rival = None if rival is None else rival[stay]

    def _judge(
        self, gain: RivalGain, z: Tensor, x: Tensor, threat: Metric, rows: Tensor, best: Tensor, record: Tensor
    ) -> Tensor:
        """Which z are lost, `[B]`, the nearest of them kept. Only a z that would be kept is asked about: the others
        are taken for lost, as nearly all are, which decides no more than where the walk goes on from."""
        far = threat.distance(widened(z), x)
        limit = record[rows].clamp(max=(1 + MARGIN) * threat.eps) if self.early_stop else record[rows]
        asked = (far < limit).nonzero().squeeze(1)
        lost = torch.ones(len(z), dtype=torch.bool, device=z.device)
        if len(asked):
            with torch.no_grad():
                won = (gain.take(asked).rivals(z[asked]) > 0).any(1)
            at, lost[asked] = rows[asked], won
            best[at] = torch.where(per_example(won, z), z[asked], best[at])
            record[at] = torch.where(won, far[asked], record[at])
        return lost

    def _step(self, d: Tensor, d0: Tensor, z: Tensor, x: Tensor, threat: Metric) -> Tensor:
        """Eq. 9: (1 - alpha) (z + eta d) + alpha (x + eta d0)."""
        here, there = (threat.distance(step, torch.zeros_like(step)) for step in (d, d0))
        alpha = here / (here + there).clamp(min=torch.finfo(here.dtype).tiny)
        alpha = per_example(alpha.clamp(max=self.alpha_max), z)
        return boxed((1 - alpha) * (z + self.eta * d) + alpha * (x + self.eta * d0), threat)


def _search(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    walk: _Walk,
    count: int | None,
    restarts: int,
    rng: torch.Generator | None,
) -> Tensor:
    """The walk to each of `count` targets, or to none in particular, restarted; the nearest lost point of them all."""
    standing, x, ball = prepared("fab", gain, x, threat)
    check_count("restarts", restarts)
    if len(x) == 0:
        return x
    best, record = x.clone(), torch.full((len(x),), torch.inf, dtype=widened(x).dtype, device=x.device)
    with torch.no_grad():
        ahead = standing.rivals(x)
    rows = (ahead <= 0).all(1).nonzero().squeeze(1)
    targets = [None] if count is None else list(ahead.topk(min(count, ahead.shape[1] - 1), dim=1).indices.unbind(1))
    for target in targets:
        for run in range(restarts):
            if walk.early_stop:
                rows = rows[record[rows] > ball.eps]
            if len(rows) == 0:
                break
            here, space, start = standing.take(rows), ball.take(rows), x[rows]
            z = _random_start(start, record[rows], space, rng) if run else widened(start)
            walk(here, start, z, space, None if target is None else target[rows], rows, best, record)
    found = rows[record[rows] < torch.inf]
    if walk.early_stop:
        found = found[record[found] > ball.eps]
    if len(found):
        best[found] = closer(standing.take(found), best[found], x[found], ball.take(found))
    return best


def _random_start(x: Tensor, record: Tensor, threat: Metric, rng: torch.Generator | None) -> Tensor:
    """A point at half the distance of the nearest lost point so far, or of eps if that is less."""
    start = widened(x)
    way = threat.sample(start, rng) - start
    length = threat.distance(start + way, start).clamp(min=torch.finfo(start.dtype).tiny)
    return boxed(start + per_example(0.5 * record.clamp(max=threat.eps) / length, way) * way, threat)


def _strongest(ahead: Tensor, rival: Tensor | None) -> Tensor:
    """The rivals to linearise, `[B, m]`: the one that is pulled to, or all."""
    return ahead.topk(ahead.shape[1] - 1, dim=1).indices if rival is None else rival[:, None]


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(
            f"The {name!r} parameter must be a number in the range [{low}, {high}]. Got {value!r} instead."
        )
