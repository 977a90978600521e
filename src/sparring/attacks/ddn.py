"""The decoupled direction and norm attack."""

import math

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest, all_rivals, euclidean, prepared
from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, per_example
from sparring.core.threat import Threat, flat


def ddn(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 100,
    gamma: float = 0.05,
    initial_eps: float = 1.0,
    step_size: float = 1.0,
    quantise: int | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The nearest lost point on spheres around x that shrink by gamma where the last point was lost and grow by gamma
    where it was not; on them z follows the direction of the cross-entropy's gradient.

    Rony et al., "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses", 2019,
    algorithm 1. Departs from it where softmax is saturated: the gradient's direction is taken before the softmax, where
    it is the same and does not vanish.

    Args:
        gain: with `rivals`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: an `L2`; its eps plays no part.
        steps: gradient steps; one forward pass more sees the last iterate.
        gamma: relative change of the radius per step, in the range (0, 1).
        initial_eps: the first radius, in input units.
        step_size: length of the first gradient step, in input units; a cosine takes it to a hundredth.
        quantise: round each iterate to this many levels of the (bounded) box, such as 256; None does not round.
        rng: source of the direction where the gradient is zero at x.

    Returns:
        z `[B, ...]`: the nearest lost point, or x where none was found or x itself is lost.

    Raises:
        TypeError: when the gain has no rivals, or the threat is no L2.
        ValueError: when a parameter is out of its range.
    """
    gain, x, metric = prepared("ddn", gain, x, threat)
    ball = euclidean("ddn", metric)
    check_count("steps", steps)
    for name, value in (("gamma", gamma), ("initial_eps", initial_eps), ("step_size", step_size)):
        check_positive(name, value)
    if gamma >= 1:
        raise ValueError(f"The 'gamma' parameter must be in the range (0, 1). Got {gamma!r} instead.")
    low, high = ball.low, ball.high
    if quantise is not None:
        check_count("quantise", quantise)
        if quantise < 2 or not math.isfinite(high - low):
            raise ValueError(f"'quantise' needs 2 levels or more and a bounded box. Got {quantise} in [{low}, {high}].")
    if len(x) == 0:
        return x
    run, rows = Nearest.start(gain, x, ball, all_rivals)
    if len(run) == 0:
        return x
    z, spark, farthest = run.origin, run.spark(rng), run.farthest()
    eps = torch.full_like(run.least, initial_eps)
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        alpha = step_size * (0.01 + 0.99 * cosine)
        d = (z - run.origin).add_(run.direction(spark), alpha=alpha)
        eps = torch.minimum(eps * torch.where(run.lost, 1 - gamma, 1 + gamma), farthest)
        length = torch.linalg.vector_norm(flat(d), dim=1).clamp(min=torch.finfo(d.dtype).tiny)
        z = torch.addcmul(run.origin, d, per_example((eps / length).to(d.dtype), d)).clamp_(low, high)
        if quantise is not None:
            z = z.sub_(low).mul_((quantise - 1) / (high - low)).round_().mul_((high - low) / (quantise - 1)).add_(low)
            z = z.clamp_(low, high)
        run.visit(z, all_rivals, with_gradient=step < steps - 1)
    return run.into(x, rows)
