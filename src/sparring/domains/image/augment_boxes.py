"""Boxes in images: cut out, erased, or filled from another image. For a whole batch at once on its own device."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.domains.image.corruptions_setting import uniform

TRIES = 10
"""Boxes that `random_erasing` draws for an image, at most, until one fits."""


def cutout(x: Tensor, rng: torch.Generator, *, size: int, fill: float | Sequence[float] = 0.0) -> Tensor:
    """A square of each image painted over, its centre uniform over the pixels: at the border part of it is outside.

    DeVries & Taylor, "Improved regularization of convolutional neural networks with Cutout", 2017, who paint images
    already normalised with 0: the data set's mean colour, to be given as `fill` for pixels in [0, 1].

    Args:
        x: images `[B, C, H, W]`.
        rng: source of the centres, on x's device.
        size: side of the square in pixels, in [0, inf); 0 gives x. The paper's for 32 pixels: 16 (CIFAR-10).
        fill: what it is painted with, in one number or one per channel.
    """
    B, C, H, W = _shape(x)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"The 'size' parameter must be an int in the range [0, inf). Got {size!r} instead.")
    colour = [float(fill)] * C if isinstance(fill, int | float) else [float(value) for value in fill]
    if len(colour) != C:
        raise ValueError(
            f"The 'fill' parameter must be a number, or {C} of them for {C} channels. Got {fill!r} instead."
        )
    top = torch.randint(H, (B,), generator=rng, device=x.device) - size // 2
    left = torch.randint(W, (B,), generator=rng, device=x.device) - size // 2
    hole = inside(x, top, top + size, left, left + size)[:, 0]
    # Channel by channel: a tensor made of the colours would be copied to the device, which waits for it.
    return torch.stack([torch.where(hole, value, x[:, c]) for c, value in enumerate(colour)], 1)


def random_erasing(
    x: Tensor,
    rng: torch.Generator,
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Tensor:
    """A box of some images set to zero. Zhong et al., "Random erasing data augmentation", 2020, with zeros for noise.

    Area (of the image) and log ratio (height to width) are uniform, the sides are rounded to pixels, and the box lies
    wholly inside; one that would be as high or as wide as the image is drawn again, ten times at most.

    Args:
        x: images `[B, C, H, W]`, floating point.
        rng: source of the boxes, on x's device.
        probability: that an image is erased, in [0, 1].
        area, ratio: bounds of the two.
    """
    B, _, H, W = _shape(x)
    _share("probability", probability)
    pixels = H * W * uniform((TRIES, B), *area, x, rng)
    shape = uniform((TRIES, B), math.log(ratio[0]), math.log(ratio[1]), x, rng).exp()
    height, width = (pixels * shape).sqrt().round().long(), (pixels / shape).sqrt().round().long()
    fits = (height < H) & (width < W)
    first = fits.int().argmax(0, keepdim=True)
    height, width = height.gather(0, first)[0], width.gather(0, first)[0]
    erased = fits.any(0) & (torch.rand(B, generator=rng, device=x.device) < probability)
    height = torch.where(erased, height, 0)
    top, left = below(H + 1 - height, rng), below((W + 1 - width).clamp(min=1), rng)
    return torch.where(inside(x, top, top + height, left, left + width), 0, x)


def cutmix(x: Tensor, y: Tensor, rng: torch.Generator, *, probability: float = 1.0) -> tuple[Tensor, Tensor]:
    """A box of every image replaced by the same box of another one of the batch, and the labels mixed by area.

    Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features", 2019: one box
    and one permutation per batch; lambda is uniform in [0, 1] (Beta(1, 1)), the box has the side lengths of the image
    times sqrt(1 - lambda), rounded down to even pixels, and its centre is uniform over the pixels. What sticks out is
    cut off, and lambda is then the exact share of the image that is left:

        x_i <- x_i outside the box, x_p(i) inside;    y_i <- lambda y_i + (1 - lambda) y_p(i)

    Args:
        x: images `[B, C, H, W]`.
        y: labels as probabilities, float `[B, K]`.
        rng: source of box and permutation, on x's device.
        probability: that a batch is mixed, in [0, 1]. Decided on the device; an unmixed batch comes back as it was.

    Returns:
        `(x, y)` of the same shapes.
    """
    B, _, H, W = _shape(x)
    _share("probability", probability)
    if y.dim() != 2 or len(y) != B or not y.is_floating_point():
        raise ValueError(f"y must be float of shape [{B}, K]. Got {y.dtype} of shape {list(y.shape)}.")
    lost, chance = torch.rand(2, generator=rng, device=x.device, dtype=torch.float64)
    centre = torch.rand(2, generator=rng, device=x.device, dtype=torch.float64)
    other = torch.randperm(B, generator=rng, device=x.device)
    lost = torch.where(chance < probability, lost, 0)
    edges = []
    for side, place in ((H, centre[0]), (W, centre[1])):
        half, middle = (side * lost.sqrt()).long() // 2, (side * place).long()
        edges += [(middle - half).clamp(min=0), (middle + half).clamp(max=side)]
    top, bottom, left, right = edges
    kept = (1 - ((bottom - top) * (right - left)).double() / (H * W)).to(y.dtype)
    box = inside(x, top[None], bottom[None], left[None], right[None])
    return torch.where(box, x[other], x), kept * y + (1 - kept) * y[other]


def inside(x: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Which pixels are in rows [top, bottom) and columns [left, right), bool `[n, 1, H, W]` for edges int `[n]`."""
    row, column = (torch.arange(side, device=x.device) for side in x.shape[2:])
    rows = (row >= top[:, None]) & (row < bottom[:, None])
    columns = (column >= left[:, None]) & (column < right[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def below(count: Tensor, rng: torch.Generator) -> Tensor:
    """A whole number in [0, count) for each count, int64, uniform."""
    draw = torch.rand(count.shape, generator=rng, device=count.device, dtype=torch.float64)
    return (draw * count).long().minimum(count - 1)  # a draw next to 1 may round up


def _shape(x: Tensor) -> torch.Size:
    if x.dim() != 4:
        raise ValueError(f"x must have shape [B, C, H, W]. Got {list(x.shape)}.")
    return x.shape


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"The {name!r} parameter must be a number in the range [0, 1]. Got {value!r} instead.")
