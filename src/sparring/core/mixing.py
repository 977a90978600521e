"""Which examples of a batch are mixed with which, and by how much; every draw is from one generator."""

import torch
from torch import Tensor

PROPOSALS = 16
"""Pairs that a Beta draw chooses from. One is accepted with probability 1 / 2 at alpha 1, more often below it."""


def same_class_partners(y: Tensor, rng: torch.Generator | None) -> Tensor:
    """For each example an example of its class, itself included: a random permutation within every class.

    Args:
        y: classes `[B]`.
        rng: on y's device.

    Returns:
        Indices `[B]`, every one of them once. Waits for no device.
    """
    shuffled = torch.randperm(len(y), generator=rng, device=y.device)
    places = y.argsort(stable=True)  # the members of each class, side by side
    others = shuffled[y[shuffled].argsort(stable=True)]  # the same, each class in random order
    return torch.empty_like(places).scatter_(0, places, others)


def beta(alpha: float, like: Tensor, rng: torch.Generator | None) -> Tensor:
    """Draws from Beta(alpha, alpha), one for each example of `like` `[B, ...]`, of its dtype, `[B]` in [0, 1].

    By rejection, as Johnk, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", 1964: u^(1/alpha) over
    u^(1/alpha) + v^(1/alpha), accepted where the sum is at most 1; the first accepted of 16 proposals. Raises
    ValueError unless alpha is in (0, 1].
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"The 'alpha' parameter must be a number in the range (0, 1]. Got {alpha!r} instead.")
    count = len(like)
    u, v = torch.rand(2, PROPOSALS, count, generator=rng, device=like.device, dtype=torch.float64).log() / alpha
    total = torch.logaddexp(u, v)  # in logarithms: u^5 underflows for the small alpha of mixing
    accepted = (total <= 0).to(torch.uint8).argmax(dim=0)  # the first proposal where none is: one in 2^16 at most
    share: Tensor = (u - total).exp().gather(0, accepted[None]).squeeze(0)
    return share.to(like.dtype)
