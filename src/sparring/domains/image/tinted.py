"""CIFAR-10 under four coloured lights: train under three, be tested under the fourth.

Leave one domain out, as VLCS and Terra Incognita are used, where the domains differ in one known thing. Every image is
in one domain only, chosen by `FIXED_SEED` and not by class, and its pixels are multiplied by that domain's tint. Which
domain an image is in does not depend on the domain that is left out.
"""

import torch
from torch import Tensor

from sparring.domains.image.progress import progress
from sparring.domains.image.source import FIXED_SEED, Dataset, Images, Source, Splits
from sparring.domains.image.spurious import hues

DOMAINS = 4

STRENGTH = 0.6
"""What a tint takes at most from a channel, as a share of it."""


def tinted(base: Dataset, left_out: int) -> Splits:
    """Train and test images under three tints; `shifted["tint-K"]` are the test images under the one left out, K.

    Args:
        base: images `[N, 3, H, W]`.
        left_out: K, in [0, 4).
    """
    kept = [k for k in range(DOMAINS) if k != left_out]
    with progress(f"{base.name} tinted", len(base.train) + len(base.test)) as advance:
        parts = []
        for source, seed, wanted in ((base.train, 0, kept), (base.test, 1, kept), (base.test, 1, [left_out])):
            domain = domains(len(source), seed)
            rows = torch.isin(domain, torch.tensor(wanted)).nonzero().flatten()
            parts.append(_lit(source, rows, tints()[domain[rows]]))
            advance(len(rows))
    train, test, shifted = parts
    return Splits(train, test, base.classes, shifted={f"tint-{left_out}": shifted})


def domains(n: int, seed: int) -> Tensor:
    """The domain of each of n images, int64 `[n]`: a random quarter in each, whatever the class.

    Args:
        n: how many images.
        seed: 0 for training images, 1 for test images.
    """
    rng = torch.Generator().manual_seed(FIXED_SEED + seed)
    shuffled = torch.rand(n, generator=rng, dtype=torch.float64).argsort()
    return shuffled.argsort() % DOMAINS


def tints() -> Tensor:
    """What each domain multiplies pixels by, per channel: `[4, 3]` in [0.4, 1], the hues a quarter turn apart."""
    return 1 - STRENGTH * (1 - hues(DOMAINS))


def _lit(source: Source, rows: Tensor, tint: Tensor) -> Images:
    """These rows as uint8, each multiplied by its tint `[n, 3]`."""
    C, H, W = source.take(rows[:1])[0].shape[1:]
    pixels = torch.empty(len(rows), C, H, W, dtype=torch.uint8)
    for part in torch.arange(len(rows)).split(1000):
        x = source.take(rows[part])[0]
        pixels[part] = (x * tint[part][:, :, None, None] * 255).round().to(torch.uint8)
    return Images(pixels, source.y[rows])
