"""The fast minimum-norm attack, in any metric: L0, L1, L2, Linf."""

import math

import torch
from torch import Tensor

from sparring.attacks.nearest import Lead, Nearest, leader, prepared
from sparring.core.gain import Gain
from sparring.core.sparse import Grained
from sparring.core.standing import check_count, check_positive
from sparring.core.threat import Threat, flat


def fmn(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    step_size: float = 1.0,
    final_step_size: float | None = None,
    gamma: float = 0.05,
    final_gamma: float = 0.001,
    lead: Lead = leader,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The nearest lost point of a gradient ascent that is projected onto a ball around x, whose radius follows the
    boundary: it shrinks by gamma where z is lost, grows by gamma where it no longer is, and reaches for the boundary of
    the linearised gain where no lost point has been found.

    Pintor et al., "Fast minimum-norm adversarial attacks through adaptive norm constraints", 2021, algorithm 1. Departs
    from it in that the linearised boundary is looked for inside the box (`threat.reach`) and overshot by gamma, for no
    point of the boundary itself is lost, and in that projections are Euclidean onto ball and box together.

    Args:
        gain: with `rivals`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: any ball; its eps plays no part.
        steps: gradient steps; one forward pass more sees the last iterate.
        step_size: Euclidean length of the first gradient step, in input units.
        final_step_size: of the last, after cosine annealing; by default a hundredth of the first.
        gamma, final_gamma: relative change of the radius in the first and the last step, in the range (0, 1); counted
            coordinates change by one at least.
        lead: what of the rivals to climb: by default the strongest, as in the paper; `nearest.all_rivals` takes the
            direction of cross-entropy, which tends to come nearer in L2 and L1.
        rng: source of the direction where the gradient is zero at x.

    Returns:
        z `[B, ...]`: the nearest lost point, or x where none was found or x itself is lost.

    Raises:
        TypeError: when the gain has no rivals, or the threat no metric.
        ValueError: when a parameter is out of its range.
    """
    gain, x, metric = prepared("fmn", gain, x, threat)
    check_count("steps", steps)
    final_step_size = step_size / 100 if final_step_size is None else final_step_size
    for name, value in (("step_size", step_size), ("final_step_size", final_step_size)):
        check_positive(name, value)
    for name, value in (("gamma", gamma), ("final_gamma", final_gamma)):
        check_positive(name, value)
        if value >= 1:
            raise ValueError(f"The {name!r} parameter must be in the range (0, 1). Got {value!r} instead.")
    if len(x) == 0:
        return x
    run, rows = Nearest.start(gain, x, metric, lead)
    if len(run) == 0:
        return x
    z, spark, farthest = run.origin, run.spark(rng), run.farthest()
    grain = metric.grain if isinstance(metric, Grained) else 0.0
    eps = torch.full_like(run.least, grain)
    searching = grain == 0  # a count has no dual norm to estimate the boundary with: it grows from one
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        alpha = final_step_size + (step_size - final_step_size) * cosine
        rate = final_gamma + (gamma - final_gamma) * cosine
        grown = torch.maximum(_whole(eps * (1 + rate), grain), eps + grain)
        shrunk = torch.minimum(_whole(eps * (1 - rate), grain), eps - grain)
        if searching:
            grown = torch.where(run.least.isinf(), (run.size + _boundary(run, z)) * (1 + rate), grown)
            searching = bool(run.least.isinf().any())
        eps = torch.where(run.lost, torch.minimum(shrunk, run.least), grown)
        eps = torch.minimum(eps, farthest).clamp(min=0)
        z = run.threat.within(z + alpha * run.direction(spark), run.origin, eps.to(z.dtype))
        run.visit(z, lead, with_gradient=step < steps - 1)
    return run.into(x, rows)


def _boundary(run: Nearest, z: Tensor) -> Tensor:
    """How far the linearised gain says the boundary is from z, `[B]`; infinite where it says nothing."""
    step = run.threat.reach(run.gradient, -run.ahead, z)
    size = run.threat.distance((z + step).double(), z.double())
    return torch.where(flat(run.gradient != 0).any(1), size, torch.inf)


def _whole(eps: Tensor, grain: float) -> Tensor:
    return (eps / grain).floor() * grain if grain else eps
