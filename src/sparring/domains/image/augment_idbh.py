"""IDBH: the augmentation that was searched for adversarial training. Batched on the device of the images.

Li & Spratling, "Data augmentation alone can improve adversarial training", ICLR 2023: what helps is diverse crops
(CropShift), a mild change of colour or shape (ColorShape) and erasing, in that order after a flip; how hard the images
become is set by the erasing. Constants are those of the authors' policies for CIFAR-10.

Departs from the paper in: pixels stay floating point, where the authors' images are rounded to 256 levels after each
operation (at most 1/510 a pixel, but for autocontrast, which rounds down); lengths grow with the image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparring.domains.image.augment import pad_crop_flip
from sparring.domains.image.augment_boxes import below, random_erasing
from sparring.domains.image.corruptions_setting import uniform
from sparring.domains.image.warp import bilinear

WEAK, STRONG = 0.5, 1.0
"""Probability of erasing in the two published policies: weak with weight averaging on a large model, else strong."""

REACH = 10 / 32
"""Most pixels that CropShift takes away, rows and columns together, as a share of the image's side."""

COLOUR, BRIGHTNESS, CONTRAST, SHARPNESS, AUTOCONTRAST, EQUALIZE, SHEAR, ROTATE = range(8)
"""What ColorShape chooses from; in the colour-biased policy each with probability 1/8."""


def idbh(x: Tensor, rng: torch.Generator, *, erasing: float = WEAK, flip: bool = True) -> Tensor:
    """Flip, CropShift, ColorShape, random erasing.

    Args:
        x: images `[B, C, H, W]` in [0, 1], floating point, C 1 (grey) or 3 (RGB).
        rng: source of every draw, on x's device.
        erasing: probability of erasing: `WEAK` or `STRONG`.
        flip: whether to mirror left to right with probability 1/2.

    Returns:
        Images of x's shape and dtype in [0, 1].
    """
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"x must have shape [B, C, H, W] with C 1 (grey) or 3 (RGB). Got {list(x.shape)}.")
    x = pad_crop_flip(x, rng, pad=0, flip=flip)
    x = crop_shift(x, rng, most=max(1, round(REACH * min(x.shape[2:]))))
    return random_erasing(color_shape(x, rng), rng, probability=erasing)


def crop_shift(x: Tensor, rng: torch.Generator, *, most: int) -> Tensor:
    """Each image cropped, and the crop put back at any place on black.

    s in 0 ... most pixels are taken away, w of them in width and s - w in height; s, w, the crop's place and its new
    place are uniform. Unlike padding and cropping it can lose pixels on both sides at once.

    Args:
        x: images `[B, C, H, W]`.
        rng: source of crops and places, on x's device.
        most: in [0, min(H, W)).
    """
    B, C, H, W = x.shape
    if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most < min(H, W):
        raise ValueError(f"The 'most' parameter must be an int in the range [0, {min(H, W)}). Got {most!r} instead.")
    taken = torch.randint(most + 1, (B,), generator=rng, device=x.device)
    narrower = below(taken + 1, rng)
    index, seen = [], []
    for side, less in ((H, taken - narrower), (W, narrower)):
        source, target = below(less + 1, rng)[:, None], below(less + 1, rng)[:, None]
        place = torch.arange(side, device=x.device) - target
        index.append((place + source).clamp(0, side - 1))
        seen.append((place >= 0) & (place < side - less[:, None]))
    example = torch.arange(B, device=x.device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=x.device).view(1, C, 1, 1)
    crop = x[example, channel, index[0][:, None, :, None], index[1][:, None, None, :]]
    return torch.where((seen[0][:, :, None] & seen[1][:, None, :])[:, None], crop, 0)


def color_shape(x: Tensor, rng: torch.Generator) -> Tensor:
    """One of eight operations on each image, all as likely: the colour-biased policy.

    Saturation and sharpness by a factor in [0.1, 1.9], brightness and contrast in [0.5, 1.9], autocontrast, equalize, a
    shear along either axis by 0.05 to 0.15 radians, a rotation by 1 to 10 whole degrees, both of either sign.

    All eight are computed for every image and one is kept: that waits for nothing, and costs less than sorting.
    """
    B, like = len(x), x[:0, 0, 0, 0]
    op = torch.randint(8, (B,), generator=rng, device=x.device)
    amount = uniform((B,), 0, 1, like, rng)
    sign = 2 * torch.randint(2, (B,), generator=rng, device=x.device) - 1
    low = torch.where((op == BRIGHTNESS) | (op == CONTRAST), 0.5, 0.1)
    z = blended(x, op, (low + (1.9 - low) * amount).to(x.dtype))
    z = _only(op == AUTOCONTRAST, autocontrast(x), z)
    z = _only(op == EQUALIZE, equalize(x), z)
    slope = torch.tan(sign * (0.05 + 0.1 * amount)) * (op == SHEAR)
    upright = torch.randint(2, (B,), generator=rng, device=x.device)
    degrees = sign * torch.randint(1, 11, (B,), generator=rng, device=x.device) * (op == ROTATE)
    return tilted(z, degrees * (math.pi / 180), slope * upright, slope * (1 - upright))


def blended(x: Tensor, op: Tensor, factor: Tensor) -> Tensor:
    """f x + (1 - f) d in [0, 1], with d what the operation takes everything out of: the grey image (COLOUR), black
    (BRIGHTNESS), the mean grey (CONTRAST), the smoothed image (SHARPNESS). Images of other operations as they are.

    Args:
        x: images `[B, C, H, W]` in [0, 1].
        op: int `[B]`.
        factor: f `[B]`, in [0, inf); at 1 nothing changes.
    """
    grey = _luma(x)
    dull = _only(op == COLOUR, grey.expand_as(x), torch.zeros_like(x))
    dull = _only(op == CONTRAST, grey.mean((1, 2, 3), keepdim=True).expand_as(x), dull)
    dull = _only(op == SHARPNESS, _smooth(x), dull)
    return _only(op <= SHARPNESS, torch.lerp(dull, x, factor[:, None, None, None]).clamp(0, 1), x)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched from its least and greatest value to 0 and 1; a constant one stays."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-12), x)


def equalize(x: Tensor) -> Tensor:
    """Each channel's histogram over 256 levels made even; as it is where one level holds all but 255 pixels or more.

    The rule of Pillow's `ImageOps.equalize`: with n(i) pixels below level i and s = (pixels below the greatest level
    in use) // 255, level i becomes (s // 2 + n(i)) // s.
    """
    level = (x.flatten(2) * 255).round().long()
    count = level.new_zeros(*level.shape[:2], 256).scatter_add_(2, level, torch.ones_like(level))
    most = level.amax(2, keepdim=True)
    step = (level.shape[2] - count.gather(2, most)) // 255
    table = ((step // 2 + count.cumsum(2) - count) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, level).to(x.dtype) / 255, x.flatten(2)).view_as(x)


def tilted(x: Tensor, angle: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image turned about its centre, or sheared; nearest pixel, black outside.

    The pixel at (r, c) from the centre is read at (cos r - sin c + down c, sin r + cos c + right r).

    Args:
        x: images `[B, C, H, W]`.
        angle: of a rotation, in radians `[B]`.
        down, right: slopes `[B]`; where both and the angle are 0 the image stays as it is.
    """
    H, W = x.shape[2:]
    real = x.dtype
    r = (torch.arange(H, device=x.device, dtype=real) - (H - 1) / 2)[:, None]
    c = torch.arange(W, device=x.device, dtype=real) - (W - 1) / 2
    cos, sin, down, right = (part.to(real)[:, None, None] for part in (angle.cos(), angle.sin(), down, right))
    row, column = cos * r - sin * c + down * c, sin * r + cos * c + right * r
    return bilinear(x, (row + (H - 1) / 2).round(), (column + (W - 1) / 2).round(), 0.0)


def _luma(x: Tensor) -> Tensor:
    """`[B, 1, H, W]`, with the weights of ITU-R BT.601."""
    return x if x.shape[1] == 1 else 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def _smooth(x: Tensor) -> Tensor:
    """The mean of the pixel, five times, and its eight neighbours; the border stays."""
    if min(x.shape[2:]) < 3:
        return x
    z = x.clone()
    inner = z[:, :, 1:-1, 1:-1]
    inner.copy_((9 * F.avg_pool2d(x, 3, 1) + 4 * inner) / 13)
    return z


def _only(where: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """`then` for the images that a bool `[B]` names."""
    return torch.where(where[:, None, None, None], then, otherwise)
