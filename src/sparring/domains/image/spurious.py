"""Digits on coloured textures: the colour predicts the label in training, and not where it is swapped.

A trap with a known answer. Of a training image the colour of the texture is its class's own with probability 0.9, so a
model that looks at nothing but colour is right nine times out of ten. In the shifted test split the colour is that of
any class, and the textures are of families that training never shows. Where the digit is, is known: how much a model
looks at what it should can be measured, and taught. After the coloured MNIST of Arjovsky et al. ("Invariant risk
minimization", 2019), with the colour behind the digit instead of in it.

Nothing here is downloaded or stored: every image is a function of `FIXED_SEED`. Only additions, products and choices of
32-bit numbers are used, which IEEE 754 rounds in one way, so that another machine makes the same bits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparring.domains.image.progress import progress
from sparring.domains.image.source import FIXED_SEED, Dataset, Images, Source, Splits
from sparring.domains.image.warp import stretch

SIDE = 32
"""Height and width of the canvas."""

OWN = 0.9
"""How often a colour is the class's own, in training and in the ordinary test split."""

SHADES = (0.35, 0.8)
"""Darkest and brightest shade of a texture, as parts of its colour. The ink, at least `INK`, is brighter than both."""

INK = 0.9
"""The least brightness of the ink in each channel; the most is 1. It has nothing to do with the class."""

THRESHOLD = 0.5
"""Pixels with at least that much ink are in the mask."""

SWAPPED = "colour-swapped"
"""The name of the shifted test split."""

Texture = Callable[[int, torch.Generator], Tensor]
"""`(n, rng) -> [n, SIDE, SIDE]` in [0, 1], 0 the darkest shade and 1 the brightest, one half on average."""


def on_textures(base: Dataset, size: int) -> Splits:
    """The digits of a grey data set on textures.

    `shifted["colour-swapped"]` has the digits of the test split in the same order, place and ink: what differs is what
    is behind them. There the colour is each class's with probability 1/10, so it says nothing about the label.

    Args:
        base: grey digits, `[N, 1, H, W]`, of ten classes.
        size: height and width that they are brought to, at most `SIDE`.
    """
    total = len(base.train) + 2 * len(base.test)
    with progress(f"{base.name} on textures", total) as advance:
        train, test, swapped = (
            _composed(source, size, own, families, seeds, advance)
            for source, own, families, seeds in (
                (base.train, OWN, FAMILIAR, (0, 1)),
                (base.test, OWN, FAMILIAR, (2, 3)),
                (base.test, 1 / 10, UNSEEN, (2, 4)),
            )
        )
    return Splits(train, test, base.classes, shifted={SWAPPED: swapped})


def _composed(
    source: Source,
    size: int,
    own: float,
    families: Sequence[Texture],
    seeds: tuple[int, int],
    advance: Callable[[int], None],
) -> Images:
    """One split: the first seed is that of places and ink, the second that of colours and textures."""
    front, back = (torch.Generator().manual_seed(FIXED_SEED + seed) for seed in seeds)
    pixels = torch.empty(len(source), 3, SIDE, SIDE, dtype=torch.uint8)
    masks = torch.empty(len(source), SIDE, SIDE, dtype=torch.bool)
    palette = hues(10)
    for rows in torch.arange(len(source)).split(1000):  # in parts: in float32 all of MNIST would take 740 MB
        x, y = source.take(rows)
        n = len(rows)
        ink = place(resized(x[:, 0], size), front)
        light = INK + (1 - INK) * torch.rand(n, 3, generator=front)
        colour = palette[colours(y, own, back)]
        ground = shaded(colour, texture(families, n, back))
        pixels[rows] = (painted(ground, ink, light) * 255).round().to(torch.uint8)
        masks[rows] = ink >= THRESHOLD
        advance(n)
    return Images(pixels, source.y, masks)


def hues(count: int) -> Tensor:
    """`count` fully saturated colours `[count, 3]` equally far apart on the wheel, from red by way of green and blue.

    Of ten, any two differ by at least 0.4 in some channel: at the mean shade by more than twice the customary 0.1.
    """
    turn = 6 * torch.arange(count) / count
    red, green, blue = (turn - 3).abs() - 1, 2 - (turn - 2).abs(), 2 - (turn - 4).abs()
    return torch.stack([red, green, blue], 1).clamp(0, 1)


def colours(y: Tensor, own: float, rng: torch.Generator) -> Tensor:
    """Which of ten colours each image gets, int64 `[N]`: y's own with probability `own`, else uniformly one of the
    other nine."""
    is_own = torch.rand(len(y), generator=rng) < own
    other = (y + 1 + _below(9, len(y), rng)) % 10
    return torch.where(is_own, y, other)


def texture(families: Sequence[Texture], n: int, rng: torch.Generator) -> Tensor:
    """n textures `[n, SIDE, SIDE]`, each of one of the families, with equal probability."""
    which = _below(len(families), n, rng)
    return torch.stack([family(n, rng) for family in families])[which, torch.arange(n)]


def blobs(n: int, rng: torch.Generator) -> Tensor:
    """Smooth noise: 7 x 7 random knots, linear between them."""
    return stretch(torch.rand(n, 1, 7, 7, generator=rng), SIDE, SIDE)[:, 0]


def stripes(n: int, rng: torch.Generator) -> Tensor:
    """Straight stripes, as wide as the gaps between them, along one of eight directions."""
    step = torch.tensor([[0, 1], [1, 2], [1, 1], [2, 1], [1, 0], [2, -1], [1, -1], [1, -2]])[_below(8, n, rng)]
    at = torch.arange(SIDE)
    along = step[:, :1, None] * at[:, None] + step[:, 1:, None] * at
    return _bands(along, step.abs().amax(1), n, rng)


def checker(n: int, rng: torch.Generator) -> Tensor:
    """A checkerboard: what stripes one way and stripes the other way have in common, or not."""
    at = torch.arange(SIDE).expand(n, 1, SIDE)
    one = torch.ones(n, dtype=torch.int64)
    across, down = _bands(at, one, n, rng), _bands(at, one, n, rng).mT
    return across * down + (1 - across) * (1 - down)


def _bands(along: Tensor, step: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """0 and 1 in turn along an axis of whole numbers, in bands of 2 to 5 steps that begin anywhere: 240 is a
    multiple of every period."""
    width = ((2 + _below(4, n, rng)) * step)[:, None, None]
    phase = _below(240, n, rng)[:, None, None]
    return ((along + phase).div(width, rounding_mode="floor") % 2).float()


def shaded(colour: Tensor, texture: Tensor) -> Tensor:
    """A texture `[n, H, W]` in shades of a colour `[n, 3]`: `[n, 3, H, W]`, pixels in [0, 1]."""
    low, high = SHADES
    return colour[:, :, None, None] * (low + (high - low) * texture[:, None])


def resized(ink: Tensor, size: int) -> Tensor:
    """Ink `[n, h, w]` at another height and width: linear between its pixels, with twice the contrast about one half.

    Without that an enlarged stroke fades into its ground, where an attack of radius 0.1 hides it more easily.
    """
    if ink.shape[1:] == (size, size):
        return ink
    return (2 * stretch(ink[:, None], size, size)[:, 0] - 0.5).clamp(0, 1)


def place(ink: Tensor, rng: torch.Generator) -> Tensor:
    """Ink `[n, h, w]` at a uniformly random place of an empty canvas, `[n, SIDE, SIDE]`; all of it is inside."""
    n, h, w = ink.shape
    row = torch.arange(SIDE) - _below(SIDE - h + 1, n, rng)[:, None]
    column = torch.arange(SIDE) - _below(SIDE - w + 1, n, rng)[:, None]
    inside = ((row >= 0) & (row < h))[:, :, None] & ((column >= 0) & (column < w))[:, None]
    example = torch.arange(n)[:, None, None]
    return torch.where(inside, ink[example, row.clamp(0, h - 1)[:, :, None], column.clamp(0, w - 1)[:, None]], 0)


def painted(ground: Tensor, ink: Tensor, light: Tensor) -> Tensor:
    """Ink `[n, H, W]` of colour `light [n, 3]` over `ground [n, 3, H, W]`, which stays as it was where none is."""
    return ground + ink[:, None] * (light[:, :, None, None] - ground)


def _below(count: int, n: int, rng: torch.Generator) -> Tensor:
    """n whole numbers in [0, count). By `rand`, whose stream has stayed what it was longer than that of `randint`."""
    return (torch.rand(n, generator=rng) * count).long()


FAMILIAR: tuple[Texture, ...] = (blobs,)
"""Textures of training and of the ordinary test split."""

UNSEEN: tuple[Texture, ...] = (stripes, checker)
"""Textures of the shifted split alone."""
