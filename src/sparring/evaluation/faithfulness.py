"""Is a map of importance true to the model? What becomes of the prediction when the pixels it names go, or stay alone.

A map `[B, *space]` says how much each pixel counts; an input is `[B, C, *space]`, or `[B, n]` with one channel, and a
pixel is removed in all channels at once. Removing means replacing by a *fill*, which has to be declared because every
figure here depends on it. None of these figures means anything alone: hold it against the same figure for a random
order. Random order is a strong opponent for deletion, since scattered holes destroy texture that no map would name.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.core.gradient import frozen
from sparring.core.standing import check_count

Fill = Callable[[Tensor], Tensor]
"""`fill(x [B, ...]) -> [B, ...]`: what removed pixels become, from each example alone."""

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of pixels that `sufficiency` and `comprehensiveness` average over (DeYoung et al. 2020)."""


def black(x: Tensor) -> Tensor:
    """Zero everywhere."""
    return torch.zeros_like(x)


def channel_mean(x: Tensor) -> Tensor:
    """The mean of each example's channel over its pixels; of `[B, n]`, over the n numbers."""
    space = tuple(range(2, x.dim())) if x.dim() > 2 else (1,)
    return x.mean(dim=space, keepdim=True).expand_as(x)


def blurred(x: Tensor, width: float = 0.125) -> Tensor:
    """Each channel under a Gaussian whose standard deviation is `width` of each side, cut at the edge and weighed anew.

    `[B, n]` has no neighbours to blur with and becomes its mean.
    """
    if x.dim() < 3:
        return channel_mean(x)
    for dim in range(2, x.dim()):
        place = torch.arange(x.shape[dim], device=x.device, dtype=x.dtype)
        weight = torch.exp(-0.5 * ((place[:, None] - place) / (width * len(place))) ** 2)
        x = (x.movedim(dim, -1) @ (weight / weight.sum(0))).movedim(-1, dim)
    return x


def ranks(maps: Tensor, draw: Tensor) -> Tensor:
    """The place of each pixel in the order of importance, 0 for the highest, `[B, n]`.

    Args:
        maps: `[B, *space]`, finite.
        draw: a random number for each pixel `[B, n]`: equal importances are ordered by it. A map that says nothing has
            the order of the draw itself, which is the random control.

    Raises:
        ValueError: where a map holds NaN or infinity.
    """
    flat = maps.flatten(1)
    if not flat.isfinite().all():
        row = int((~flat.isfinite().all(1)).nonzero()[0])
        raise ValueError(f"The maps must be finite. The map of example {row} holds NaN or infinity.")
    shuffled = draw.argsort(dim=1)
    order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))


def deletion(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    rank: Tensor,
    *,
    fill: Fill = channel_mean,
    fractions: int = 20,
    batch_size: int = 256,
) -> Tensor:
    """The area under p(target) while pixels are removed, the most important first: low is faithful. `[B]` in [0, 1].

    integral over f in [0, 1] of p(target | x with its first f n pixels filled). Petsiuk et al., "RISE: randomized input
    sampling for explanation of black-box models", 2018, section 4.1; here by the trapezoid rule on `fractions` steps.

    Args:
        model: `[B, ...] -> [B, K]` logits; asked in eval mode, left as it was.
        x: inputs `[B, C, *space]` or `[B, n]`.
        target: the class whose probability is watched, usually the predicted one, `[B]`.
        rank: see `ranks`, `[B, n]`.
        fill: what a removed pixel becomes.
        fractions: steps from none to all; more than there are pixels changes nothing.
        batch_size: examples at a time.
    """
    return _area(model, x, fill(x), target, rank, fractions, batch_size)


def insertion(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    rank: Tensor,
    *,
    fill: Fill = blurred,
    fractions: int = 20,
    batch_size: int = 256,
) -> Tensor:
    """The area under p(target) while pixels return to a filled input, the most important first: high is faithful.

    integral over f in [0, 1] of p(target | fill with its first f n pixels from x), `[B]` in [0, 1]. Petsiuk et al.
    2018, section 4.1, who start from a blurred image because a flat one gives the first pixels sharp edges. Arguments
    as for `deletion`.
    """
    return _area(model, fill(x), x, target, rank, fractions, batch_size)


def comprehensiveness(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    rank: Tensor,
    *,
    fill: Fill = channel_mean,
    shares: tuple[float, ...] = SHARES,
    batch_size: int = 256,
) -> Tensor:
    """What the prediction loses without its most important pixels: high is faithful. `[B]` in [-1, 1].

    mean over q in `shares` of p(target | x) - p(target | x with its first q n pixels filled). DeYoung et al., "ERASER:
    a benchmark to evaluate rationalized NLP models", 2020, section 4.2, with pixels for tokens and the plain mean over
    the shares. Other arguments as for `deletion`; at least one pixel is removed.
    """
    return _drop(model, x, x, fill(x), target, rank, shares, batch_size)


def sufficiency(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    rank: Tensor,
    *,
    fill: Fill = channel_mean,
    shares: tuple[float, ...] = SHARES,
    batch_size: int = 256,
) -> Tensor:
    """What the prediction loses when only its most important pixels stay: low is faithful. `[B]` in [-1, 1].

    mean over q in `shares` of p(target | x) - p(target | fill with its first q n pixels from x). DeYoung et al. 2020,
    section 4.2. Arguments as for `comprehensiveness`.
    """
    return _drop(model, x, fill(x), x, target, rank, shares, batch_size)


METRICS = (
    ("deletion", deletion, -1),
    ("insertion", insertion, 1),
    ("sufficiency", sufficiency, -1),
    ("comprehensiveness", comprehensiveness, 1),
)
"""Name, function, and the sign by which more is more faithful."""


def _area(
    model: nn.Module, start: Tensor, end: Tensor, target: Tensor, rank: Tensor, fractions: int, batch_size: int
) -> Tensor:
    check_count("fractions", fractions)
    n = rank.shape[1]
    counts = sorted({round(n * step / fractions) for step in range(fractions + 1)})
    curve = torch.stack([_probability(model, start, end, target, rank, count, batch_size) for count in counts], 1)
    share = torch.tensor(counts, device=curve.device, dtype=curve.dtype) / n
    return torch.trapezoid(curve, share, dim=1)


def _drop(
    model: nn.Module,
    x: Tensor,
    start: Tensor,
    end: Tensor,
    target: Tensor,
    rank: Tensor,
    shares: tuple[float, ...],
    batch_size: int,
) -> Tensor:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"The 'shares' parameter must hold numbers in the range (0, 1]. Got {shares!r} instead.")
    counts = [max(1, round(rank.shape[1] * share)) for share in shares]
    after = [_probability(model, start, end, target, rank, count, batch_size) for count in counts]
    return _probability(model, x, x, target, rank, 0, batch_size) - torch.stack(after).mean(0)


def _probability(
    model: nn.Module, start: Tensor, end: Tensor, target: Tensor, rank: Tensor, count: int, batch_size: int
) -> Tensor:
    """The probability of target `[B]` once the first `count` pixels of start are those of end."""
    space = (1, *start.shape[2:]) if start.dim() > 2 else start.shape[1:]
    found = []
    with frozen(model), torch.no_grad():
        for rows in torch.arange(len(start), device=start.device).split(batch_size):
            moved = (rank[rows] < count).reshape(len(rows), *space)
            logits = model(torch.where(moved, end[rows], start[rows]))
            wide = torch.promote_types(logits.dtype, torch.float32)
            found.append(logits.to(wide).softmax(1).gather(1, target[rows, None]).squeeze(1))
    return torch.cat(found)
