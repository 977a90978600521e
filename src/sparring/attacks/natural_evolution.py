"""Climbing a gradient that is estimated from values alone: NES and SPSA."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.core.gain import Gain, JudgingGain
from sparring.core.standing import check_count, check_positive, floating, judging, keep
from sparring.core.threat import Threat

Directions = Callable[[int, Tensor, torch.Generator | None], Tensor]
"""`directions(k, like [B, n], rng) -> [k, n]`: independent rows u with E[u u^T] = I, in the dtype of `like`."""

BLOCK = 64
"""Directions drawn at once: with the coordinates of one example, they bound the memory beside the probes' own."""


def nes(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    queries: int = 10_000,
    samples: int = 50,
    sigma: float = 1e-3,
    step_size: float | None = None,
    momentum: float = 0.9,
    chunk: int = 1024,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Projected steepest ascent on a gradient from antithetic Gaussian samples. Ilyas, Engstrom, Athalye & Lin,
    "Black-box adversarial attacks with limited queries and information", 2018, algorithm 1, and PGD on it.

    Args:
        gain: judges `z [B, ...]` and is climbed.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be. The samples themselves leave the ball and the box by a few sigma.
        queries: evaluations of the gain that an example may cost in all: one for x, and for each step the samples and
            one for the new z. A last step makes do with what is left.
        samples: of each gradient, even; half of them are the mirror images of the others.
        sigma: how far they are from z, in input units; no less than what the dtype of x resolves.
        step_size: in input units; by default eps / 5, which is the paper's 0.01 at 0.05.
        momentum: the share of the last direction in the next, in [0, 1).
        chunk: samples in one call of the gain, or one mirrored pair for every example if those are more.
        rng: source of all that is random. The directions are the same for the whole batch.

    Returns:
        z `[B, ...]`, allowed by the threat: what lost the example, or else the highest of the steps and x.

    Raises:
        TypeError: for a gain that cannot judge, or an x of integers.
        ValueError: for a parameter out of its range.
    """
    step_size = threat.eps / 5 if step_size is None else step_size
    return _climb(
        gain, x, threat, gaussian, queries=queries, samples=samples, sigma=sigma, step_size=step_size,
        momentum=momentum, chunk=chunk, rng=rng,
    )  # fmt: skip


def spsa(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    queries: int = 10_000,
    samples: int = 128,
    sigma: float = 0.01,
    step_size: float | None = None,
    momentum: float = 0.9,
    chunk: int = 1024,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Projected steepest ascent on a gradient from simultaneous perturbations of every coordinate by +-sigma. Uesato,
    O'Donoghue, van den Oord & Kohli, "Adversarial risk and the dangers of evaluating against weak attacks", 2018,
    algorithm 1.

    Departs from the paper in the threat's steepest step along an average of the estimates where the paper has Adam,
    which is of no norm in particular; `momentum` is Adam's beta_1.

    Args:
        gain: judges `z [B, ...]` and is climbed.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be. The samples themselves leave the ball and the box by sigma at most in each coordinate.
        queries: as in `nes`.
        samples: of each gradient, even; half of them are the mirror images of the others.
        sigma: delta in the paper, in input units; no less than what the dtype of x resolves.
        step_size: in input units; by default eps / 3, which is the paper's 0.01 near 8/255.
        momentum: the share of the last direction in the next, in [0, 1).
        chunk: as in `nes`.
        rng: source of all that is random. The directions are the same for the whole batch.

    Returns and raises as `nes`.
    """
    step_size = threat.eps / 3 if step_size is None else step_size
    return _climb(
        gain, x, threat, rademacher, queries=queries, samples=samples, sigma=sigma, step_size=step_size,
        momentum=momentum, chunk=chunk, rng=rng,
    )  # fmt: skip


def gaussian(k: int, like: Tensor, rng: torch.Generator | None) -> Tensor:
    """Standard normal directions `[k, n]`."""
    return torch.randn((k, like.shape[1]), generator=rng, device=like.device, dtype=like.dtype)


def rademacher(k: int, like: Tensor, rng: torch.Generator | None) -> Tensor:
    """Directions of independent fair signs `[k, n]`."""
    coins = torch.rand((k, like.shape[1]), generator=rng, device=like.device) < 0.5
    return torch.where(coins, 1.0, -1.0).to(like.dtype)


@torch.no_grad()
def estimated_gradient(
    gain: JudgingGain,
    z: Tensor,
    directions: Directions,
    *,
    samples: int,
    sigma: float,
    chunk: int = 1024,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The mean of (gain(z + sigma u) - gain(z - sigma u)) u / (2 sigma) over samples / 2 directions u, `[B, ...]`.

    Its mean is the gradient of the gain smoothed by the directions: the gradient itself, if the gain is linear. In the
    dtype of z, at least float32.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    centre = z.to(wide).flatten(1) if z.dim() > 1 else z.to(wide)[:, None]
    b, pairs = len(z), samples // 2
    rows = torch.arange(b, device=z.device)
    total = torch.zeros_like(centre)
    for start in range(0, pairs, BLOCK):
        u = directions(min(BLOCK, pairs - start), centre, rng)
        rises = []
        for part in u.split(max(1, chunk // (2 * b))):
            steps = sigma * torch.stack([part, -part])[:, :, None]  # [2, k, 1, n]
            probes = (centre + steps).to(z.dtype).reshape(-1, *z.shape[1:])
            value = gain.take(rows.repeat(2 * len(part)))(probes).reshape(2, len(part), b)
            rises.append((value[0] - value[1]).to(wide))
        total += torch.cat(rises).T @ u
    return (total / (2 * sigma * pairs)).reshape(z.shape)


@torch.no_grad()
def _climb(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    directions: Directions,
    *,
    queries: int,
    samples: int,
    sigma: float,
    step_size: float,
    momentum: float,
    chunk: int,
    rng: torch.Generator | None,
) -> Tensor:
    x, here = floating(x), judging(gain)
    _check(queries, samples, sigma, step_size, momentum, chunk)
    best = x.clone()
    if len(x) == 0:
        return best
    z, velocity = x, torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    rows, record = torch.arange(len(x), device=x.device), torch.full((len(x),), -torch.inf, device=x.device)
    sigma = max(sigma, 4 * torch.finfo(x.dtype).eps)
    while True:
        value, lost = here.judge(z)
        record = keep(z, value, lost, rows, best, record)
        stand = (~lost).nonzero().squeeze(1)
        pairs = min(samples, queries - 2) // 2  # of what is left: this judgement, the samples and the next judgement
        if len(stand) == 0 or pairs < 1:
            return best
        if len(stand) < len(rows):
            rows, z, x, velocity = rows[stand], z[stand], x[stand], velocity[stand]
            here, threat = here.take(stand), threat.take(stand)
        gradient = estimated_gradient(here, z, directions, samples=2 * pairs, sigma=sigma, chunk=chunk, rng=rng)
        queries -= 1 + 2 * pairs
        velocity = momentum * velocity + (1 - momentum) * gradient
        z = threat.project((z + step_size * threat.steepest(velocity, z)).to(x.dtype), x)


def _check(queries: int, samples: int, sigma: float, step_size: float, momentum: float, chunk: int) -> None:
    check_count("queries", queries)
    check_count("samples", samples)
    check_count("chunk", chunk)
    check_positive("sigma", sigma)
    check_positive("step_size", step_size)
    if samples % 2:
        raise ValueError(f"The 'samples' parameter must be even, for mirrored pairs. Got {samples!r} instead.")
    if not isinstance(momentum, (int, float)) or not 0 <= momentum < 1:
        raise ValueError(f"The 'momentum' parameter must be a number in the range [0, 1). Got {momentum!r} instead.")
