"""CROWN-IBP: linear bounds from the margins back to the input, with intervals for what lies between.

Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning, Hsieh, "Towards stable and efficient training of verifiably robust
neural networks", ICLR 2020; the linear bounds are those of Zhang et al., "Efficient neural network robustness
certification with general activation functions", NeurIPS 2018. Where an interval says that a ReLU may be on or off, it
lies between two lines; the lower one is 0 or z, whichever leaves the smaller area ("adaptive").

Costs about K passes: one linear bound per class.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from sparring.core.interval import Walk, propagate, specification
from sparring.core.traced import Affine, Box, Elementwise, Monotone, Relu, Reshape, Sum, UnsupportedError


def margin_bounds(model: nn.Module, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Lower bounds on logits_y - logits_k over a box, `[B, K]`, as `sparring.core.interval.margin_bounds` gives them,
    mostly tighter, and exact where no ReLU changes its state.

    Raises:
        UnsupportedError: for max-pooling, which has no linear bounds here, and for whatever intervals refuse.
    """
    return margins(propagate(model, low, high), y)


def margins(walk: Walk, y: Tensor) -> Tensor:
    """`margin_bounds` of a walk: from the last node to the first, `rows[n]` `[B, K, ...]` is the linear form of node n
    that, with those of the nodes not reached yet and `constant`, bounds the margins from below."""
    logits = walk.boxes[walk.output].low
    rows: dict[fx.Node, Tensor] = {walk.output: specification(y, logits)}
    constant = torch.zeros_like(logits)
    for node, (step, sources) in reversed(walk.steps.items()):
        row = rows.pop(node, None)
        if row is None:
            continue  # nothing that the logits depend on
        box = walk.boxes[sources[0]]
        match step:
            case Affine(function, _):
                constant = constant + _dot(row, function(torch.zeros_like(box.low[:1])))
                _give(rows, sources[0], _transposed(function, row, box))
            case Monotone(function, True):
                _give(rows, sources[0], _transposed(function, row, box))
            case Monotone(_, False, name):
                raise UnsupportedError(
                    f"CROWN has no linear bounds for {name} at node {node.name!r}. Use bound 'ibp', or a network that "
                    "strides instead of pooling, such as 'small-strided'."
                )
            case Reshape():
                _give(rows, sources[0], row.reshape(*row.shape[:2], *box.low.shape[1:]))
            case Elementwise(scale, shift):
                constant = constant + _dot(row, torch.zeros_like(box.low[:1]) + shift)
                _give(rows, sources[0], _unbroadcast(row * scale, box))
            case Relu():
                lower, upper, lift = _lines(box)
                up, down = row.clamp(min=0), row.clamp(max=0)
                _give(rows, sources[0], up * lower[:, None] + down * upper[:, None])
                constant = constant + _dot(down, lift)
            case Sum(sign):
                _give(rows, sources[0], _unbroadcast(row, box))
                _give(rows, sources[1], _unbroadcast(sign * row, walk.boxes[sources[1]]))
    for node, row in rows.items():  # the input
        box = walk.boxes[node]
        constant = constant + _dot(row, (box.low + box.high) / 2) - _dot(row.abs(), (box.high - box.low) / 2)
    return constant


def _lines(box: Box) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of the lines below and above a ReLU on [low, high], and the intercept of the upper one."""
    low, high = box.low, box.high
    on, either = (low >= 0).to(low.dtype), (low < 0) & (high > 0)
    slope = torch.where(either, high / torch.where(either, high - low, 1.0), on)
    lower = torch.where(either, (high > -low).to(low.dtype), on)
    return lower, slope, torch.where(either, -slope * low, 0.0)


def _give(rows: dict[fx.Node, Tensor], node: fx.Node, row: Tensor) -> None:
    rows[node] = rows[node] + row if node in rows else row


def _unbroadcast(row: Tensor, box: Box) -> Tensor:
    """`row [B, K, ...]` summed over what an operation repeated, in the shape of what it read."""
    return row.sum_to_size(*row.shape[:2], *box.low.shape[1:])


def _dot(row: Tensor, value: Tensor) -> Tensor:
    """`row [B, K, ...]` times `value [B or 1, ...]`: `[B, K]`."""
    return (row.flatten(2) @ value.flatten(1)[:, :, None]).squeeze(2)


def _transposed(function: Callable[[Tensor], Tensor], row: Tensor, box: Box) -> Tensor:
    """The linear form of an affine map's input that equals `row` of its output, but for the constant.

    An affine map's gradient is its transpose, whatever its stride and padding; the point it is taken at is of no
    matter."""
    B, K = row.shape[:2]
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        zero = row.new_zeros(B * K, *box.low.shape[1:]).requires_grad_(True)
        (back,) = torch.autograd.grad(function(zero), zero, row.flatten(0, 1), create_graph=wanted)
    return back.reshape(B, K, *box.low.shape[1:])
