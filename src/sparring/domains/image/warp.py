"""Reading an image between its pixels, and a field between its knots: exact at whole positions, the same on any device.

Written with gathers rather than `grid_sample` and `interpolate`: positions are pixels, so that nothing is lost by
normalising them, no product is left to a reduced-precision matrix unit, and no gradient is summed in an order that
changes from run to run.
"""

import torch
from torch import Tensor


def bilinear(image: Tensor, row: Tensor, column: Tensor, fill: float | None) -> Tensor:
    """The image at positions between its pixels, linear in both directions.

    Args:
        image: `[B, C, H, W]`.
        row, column: positions in pixels `[B, h, w]`; (0, 0) is the centre of the first pixel. Differentiable in both,
            piecewise: at a whole position the slope is the one towards the next pixel.
        fill: what lies outside the image; None for its nearest pixel.

    Returns:
        `[B, C, h, w]` in the positions' dtype, each value between those it is read from (up to rounding).
    """
    image = image.to(row.dtype)
    top, left = row.detach().floor(), column.detach().floor()
    down, right = (row - top)[:, None], (column - left)[:, None]
    upper = _lerp(_pixel(image, top, left, fill), _pixel(image, top, left + 1, fill), right)
    lower = _lerp(_pixel(image, top + 1, left, fill), _pixel(image, top + 1, left + 1, fill), right)
    return _lerp(upper, lower, down)


def stretch(field: Tensor, height: int, width: int) -> Tensor:
    """A field `[B, C, n, m]` known at n x m knots, linear between them, as `[B, C, height, width]`: the first and the
    last knot lie on the first and the last pixel. Each value is a mean of at most four knots."""
    tall = _along_last(field.mT, height).mT
    return _along_last(tall, width)


def _along_last(field: Tensor, size: int) -> Tensor:
    knots = field.shape[-1]
    place = torch.linspace(0, knots - 1, size, device=field.device, dtype=torch.float64)
    before = place.floor().long().clamp(max=max(0, knots - 2))
    after = (before + 1).clamp(max=knots - 1)
    return _lerp(field[..., before], field[..., after], (place - before).to(field.dtype))


def _pixel(image: Tensor, row: Tensor, column: Tensor, fill: float | None) -> Tensor:
    """The pixels at whole positions `[B, h, w]`, as `[B, C, h, w]`."""
    (b, c, h, w), (_, *shape) = image.shape, row.shape
    i, j = row.clamp(0, h - 1), column.clamp(0, w - 1)
    index = (i.nan_to_num().long() * w + j.nan_to_num().long()).flatten(1)[:, None].expand(b, c, -1)
    value = image.flatten(2).gather(2, index).reshape(b, c, *shape)
    return value if fill is None else torch.where(((i == row) & (j == column))[:, None], value, fill)


def _lerp(a: Tensor, b: Tensor, part: Tensor) -> Tensor:
    return a + part * (b - a)
