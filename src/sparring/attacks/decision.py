"""What attacks that see only the decision share: a lost point to start from, a search back to x, and the accounts.

Such an attack asks one question, "is this z lost?", and pays one query for each answer. A `Hunt` asks it for a batch of
examples, each with its own budget, its own noise and its own nearest lost point so far. Noise comes from one generator
per example and a larger budget only continues the same run, so an example's result depends neither on who else is still
in the batch nor on the questions that come after it.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.core.gain import Gain, JudgingGain
from sparring.core.standing import check_count, floating, judging, per_example
from sparring.core.threat import Metric, Threat, flat, norm

HALVINGS = 100
"""More than a float64 has bits: a bisection ends by its tolerance."""


@dataclass
class Hunt:
    """The search for each example's nearest lost point.

    Attributes:
        gain: judges; its value is never read.
        x: clean inputs `[B, ...]`.
        threat: the ball whose `distance` is made small, and the box.
        best: the nearest lost point so far, x where there is none `[B, ...]`.
        record: its distance, infinite where there is none `[B]`.
        left: queries that each example may still spend `[B]`.
        chunk: points in one call of the gain.
        early_stop: an example is done once its best is inside the ball.
        done: examples that need nothing more `[B]`.
    """

    gain: JudgingGain
    x: Tensor
    threat: Metric
    best: Tensor
    record: Tensor
    left: Tensor
    chunk: int
    early_stop: bool
    done: Tensor
    generators: list[torch.Generator] = field(repr=False)

    @classmethod
    def of(
        cls,
        gain: Gain,
        x: Tensor,
        threat: Threat,
        *,
        queries: int,
        chunk: int,
        early_stop: bool,
        rng: torch.Generator | None,
    ) -> "Hunt":
        """A hunt on the examples of x, after one query each: those lost at x are done, at distance zero.

        Raises ValueError for a budget or chunk below one, TypeError for a gain that cannot judge or a threat that is no
        ball.
        """
        check_count("queries", queries)
        check_count("chunk", chunk)
        if not isinstance(threat, Metric):
            raise TypeError(
                "An attack for the nearest lost point needs a threat with 'distance', 'within', 'low' and 'high', such "
                f"as sparring.core.threat.L2. Got {type(threat).__name__}."
            )
        x, b = floating(x), len(x)
        seeds = torch.randint(2**62, (b,), generator=rng, device=x.device).tolist()
        hunt = cls(
            judging(gain),
            x,
            threat,
            best=x.clone(),
            record=torch.full((b,), torch.inf, device=x.device, dtype=torch.float64),
            left=torch.full((b,), queries, device=x.device),
            chunk=chunk,
            early_stop=early_stop,
            done=torch.zeros(b, dtype=torch.bool, device=x.device),
            generators=[torch.Generator(x.device).manual_seed(seed) for seed in seeds],
        )
        hunt.done = hunt.lost(torch.arange(b, device=x.device), x)
        return hunt

    def open(self, rows: Tensor, queries: int = 1) -> Tensor:
        """Which of these examples need more and can pay for so many queries, `[R]` bool."""
        return ~self.done[rows] & (self.left[rows] >= queries)

    @torch.no_grad()
    def lost(self, rows: Tensor, z: Tensor) -> Tensor:
        """Whether each z `[R, ...]` is lost, one query each; no, at no cost, for an example that is not open.

        A row may stand more than once among rows if its example can pay for all of its points.
        """
        answer = torch.zeros(len(rows), dtype=torch.bool, device=self.x.device)
        for part in torch.arange(len(rows), device=self.x.device).split(self.chunk):
            part = part[self.open(rows[part])]
            if len(part) == 0:
                continue
            answer[part] = self.gain.take(rows[part]).judge(z[part])[1]
            self.left.index_add_(0, rows[part], -torch.ones_like(part))
            self._record(rows[part][answer[part]], z[part][answer[part]])
        return answer

    def _record(self, rows: Tensor, z: Tensor) -> None:
        """Keep each example's nearest of these lost points if it is nearer than its best."""
        away = self.distance(rows, z)
        nearest = self.record.scatter_reduce(0, rows, away, "amin")
        winners = ((away == nearest[rows]) & (away < self.record[rows])).nonzero().squeeze(1)
        if len(winners) == 0:
            return
        first = torch.full_like(self.left, len(rows)).scatter_reduce(0, rows[winners], winners, "amin")
        winners = winners[first[rows[winners]] == winners]  # one point per row: of equals, the first
        at = rows[winners]
        self.best[at], self.record[at] = z[winners], away[winners]
        if self.early_stop:
            self.done[at] |= self.threat.take(at).contains(self.best[at], self.x[at])

    def distance(self, rows: Tensor, z: Tensor) -> Tensor:
        """How far each z is from its x in the threat's norm, `[R]`, in float64."""
        return self.threat.take(rows).distance(z.double(), self.x[rows].double())

    def boxed(self, z: Tensor) -> Tensor:
        """z inside the box, in the dtype of x: what may be asked about."""
        return z.to(self.x.dtype).clamp(self.threat.low, self.threat.high)

    def gaussian(self, rows: Tensor, count: int) -> Tensor:
        """Standard normal noise `[R, count, ...]`, at least in float32, each row from its example's own generator."""
        noise = self.x.new_empty((len(rows), count, *self.x.shape[1:]), dtype=_wide(self.x.dtype))
        for i, row in enumerate(rows.tolist()):
            noise[i].normal_(generator=self.generators[row])
        return noise

    def uniform(self, rows: Tensor) -> Tensor:
        """Uniform noise in the box `[R, ...]`, from the same generators."""
        noise = self.x.new_empty((len(rows), *self.x.shape[1:]), dtype=_wide(self.x.dtype))
        for i, row in enumerate(rows.tolist()):
            noise[i].uniform_(generator=self.generators[row])
        return self.threat.low + (self.threat.high - self.threat.low) * noise


def lost_start(hunt: Hunt, start: Tensor | None, tries: int) -> tuple[Tensor, Tensor]:
    """Rows `[R]` that are not done, and a lost point for each `[R, ...]`: the given start (one query), and where that
    is not lost, or not given, the first lost of `tries` points of fresh uniform noise, blended with x by 1, 3/4, 1/2,
    1/4, 1, ... in turn (one query each).

    Raises ValueError for a start that is not shaped like x, or for no start where the box is infinite.
    """
    check_count("tries", tries)
    x, threat = hunt.x, hunt.threat
    z, found = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    everyone = torch.arange(len(x), device=x.device)
    if start is not None:
        if start.shape != x.shape:
            raise ValueError(
                f"The 'start' parameter must have the shape of x, {tuple(x.shape)}. Got {tuple(start.shape)} instead."
            )
        z = hunt.boxed(start.detach().to(x.device))
        found = hunt.lost(everyone, z)
    if start is None and not abs(threat.low) + abs(threat.high) < float("inf"):
        raise ValueError(f"An infinite box needs the 'start' parameter. Got low={threat.low!r}, high={threat.high!r}.")
    for k in range(tries):
        rows = (~found & hunt.open(everyone)).nonzero().squeeze(1)
        if len(rows) == 0 or not abs(threat.low) + abs(threat.high) < float("inf"):
            break
        share = 1 - (k % 4) / 4
        points = hunt.boxed(x[rows] + share * (hunt.uniform(rows) - x[rows]))
        z[rows] = points
        found[rows] = hunt.lost(rows, points)
    rows = (found & ~hunt.done).nonzero().squeeze(1)
    return rows, z[rows]


def bisect(hunt: Hunt, rows: Tensor, z: Tensor, tolerance: float) -> Tensor:
    """For each lost z `[R, ...]` a lost point on the path to x on which the distance falls at an equal pace and whose
    points are the nearest to z: the segment in the Euclidean norm, the clipping of z - x in the maximum norm.

    One query for each halving of the distances between which the decision changes, until the Euclidean distance of the
    lost point found from a standing one on the path is at most `tolerance` of its distance from x in the threat's norm,
    or what the dtype resolves.
    """
    x, wide, finest = hunt.x[rows], _wide(z.dtype), rounding(z)
    lost, standing = z.clone(), x.clone()
    far = hunt.distance(rows, z)
    near = torch.zeros_like(far)
    for _ in range(HALVINGS):
        wanted = torch.maximum(tolerance * far, finest)
        i = (hunt.open(rows) & (norm(lost - standing, 2) > wanted)).nonzero().squeeze(1)
        if len(i) == 0:
            break
        radius = (near[i] + far[i]) / 2
        middle = hunt.boxed(hunt.threat.take(rows[i]).within(z[i].to(wide), x[i].to(wide), radius.to(wide)))
        yes = hunt.lost(rows[i], middle)
        lost[i[yes]], far[i[yes]] = middle[yes], radius[yes]
        standing[i[~yes]], near[i[~yes]] = middle[~yes], radius[~yes]
    return lost


def rounding(z: Tensor) -> Tensor:
    """The Euclidean length of a step of one unit of rounding in every coordinate of z `[B, ...]`, `[B]`."""
    unit: Tensor = torch.finfo(z.dtype).eps * flat(z).abs().amax(1).to(_wide(z.dtype))
    return unit * float(flat(z).shape[1] ** 0.5)


def lengthen(direction: Tensor, length: Tensor) -> Tensor:
    """The direction `[B, ...]` at this Euclidean length `[B]`; zero stays zero."""
    size = norm(direction, 2).clamp(min=torch.finfo(direction.dtype).tiny)
    return direction * per_example((length / size).to(direction.dtype), direction)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
