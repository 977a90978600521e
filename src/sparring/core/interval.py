"""Interval bound propagation: what a network's logits can be, at most and at least, over a box of inputs.

Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli, "On the effectiveness of interval bound
propagation for training verifiably robust models", 2018. A linear layer sends a box with centre c and radius r into one
with centre W c + b and radius |W| r (their equation 6); what rises with its inputs is applied to both ends.

The bounds are those of the eval-mode function, in training too: dropout is the identity, and BatchNorm is the affine
map of its running statistics, through whose weight and bias, but not statistics, the gradient flows.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparring.core.traced import Affine, Box, Elementwise, Monotone, Operation, Relu, Reshape, Sum, graph, operation


@dataclass(frozen=True)
class Walk:
    """One pass of a box through a model.

    Args:
        boxes: what each node of the graph can be.
        steps: what each node does, and to which nodes; in the order of the forward pass.
        output: the node of the logits.
        head: the last linear layer and the node that it reads, where the logits are a linear layer's.
    """

    boxes: dict[fx.Node, Box]
    steps: dict[fx.Node, tuple[Operation, tuple[fx.Node, ...]]]
    output: fx.Node
    head: tuple[nn.Linear, fx.Node] | None


def bounds(model: nn.Module, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds on the logits over every input in a box, differentiable with respect to the weights.

    Args:
        model: `[B, ...] -> [B, K]` of the operations in `sparring.core.traced.SUPPORTED`.
        low, high: corners of the box `[B, ...]`, in input units, low <= high.

    Returns:
        `(low, high)`, each `[B, K]`.

    Raises:
        UnsupportedError: for any other operation, which it names.
    """
    walk = propagate(model, low, high)
    box = walk.boxes[walk.output]
    return box.low, box.high


def margin_bounds(model: nn.Module, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Lower bounds on logits_y - logits_k over a box, for every class k: `[B, K]`, zero at k = y.

    The last linear layer is not bounded but folded into the difference (Gowal et al. 2018, section 3, "elision of the
    last layer"), which is tighter than the difference of two bounds. Takes `B K d` numbers for a layer that reads d.

    Args:
        model, low, high: as for `bounds`.
        y: classes `[B]`, or probabilities `[B, K]`, in whose mean of the logits then takes the place of logits_y.
    """
    return margins(propagate(model, low, high), y)


def propagate(model: nn.Module, low: Tensor, high: Tensor) -> Walk:
    """Send a box through a model."""
    if low.shape != high.shape or not low.is_floating_point():
        raise ValueError(
            f"'low' and 'high' must be floating-point tensors of one shape. Got {list(low.shape)} and "
            f"{list(high.shape)}, {low.dtype}."
        )
    modules = dict(model.named_modules())
    values: dict[fx.Node, Any] = {}
    steps: dict[fx.Node, tuple[Operation, tuple[fx.Node, ...]]] = {}
    output = None
    for node in graph(model).nodes:
        if node.op == "placeholder":
            values[node] = Box(low, high)
            continue
        if node.op == "get_attr":
            values[node] = _attribute(model, node.target)
            continue
        if node.op == "output":
            output = node.args[0]
            break
        arguments, keywords = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if _is_constant(node, arguments, keywords):
            values[node] = _evaluate(node, arguments, keywords)
            continue
        module = modules[node.target] if node.op == "call_module" else None
        step, read = operation(node, module, arguments, keywords)
        sources = tuple(node.args[i] for i in read)
        steps[node] = step, sources
        values[node] = through(step, *(values[source] for source in sources))
    assert isinstance(output, fx.Node)
    boxes = {node: value for node, value in values.items() if isinstance(value, Box)}
    return Walk(boxes, steps, output, _head(steps, boxes, output, modules))


def through(step: Operation, *boxes: Box) -> Box:
    """What an operation makes of a box."""
    low, high = boxes[0].low, boxes[0].high
    match step:
        case Affine(function, absolute):
            centre, radius = function((low + high) / 2), absolute((high - low) / 2)
            return Box(centre - radius, centre + radius)
        case Relu():
            return Box(low.relu(), high.relu())
        case Monotone(function) | Reshape(function):
            return Box(function(low), function(high))
        case Elementwise(scale, shift):
            a, b = low * scale, high * scale
            return Box(torch.minimum(a, b) + shift, torch.maximum(a, b) + shift)
        case Sum(sign):
            a, b = sign * boxes[1].low, sign * boxes[1].high
            return Box(low + torch.minimum(a, b), high + torch.maximum(a, b))


def margins(walk: Walk, y: Tensor) -> Tensor:
    """`margin_bounds` of a walk."""
    if walk.head is None:
        box = walk.boxes[walk.output]
        row = specification(y, box.low)
        return _least(row, box)
    layer, source = walk.head
    box = walk.boxes[source]
    row = specification(y, walk.boxes[walk.output].low)
    least = _least(row @ layer.weight, box)
    return least if layer.bias is None else least + row @ layer.bias


def specification(y: Tensor, logits: Tensor) -> Tensor:
    """The matrices `[B, K, K]` that take logits to logits_y - logits_k, for classes or probabilities y."""
    K = logits.shape[1]
    p = y.to(logits.dtype) if y.is_floating_point() else F.one_hot(y, K).to(logits.dtype)
    return p[:, None, :] - torch.eye(K, dtype=logits.dtype, device=logits.device)


def worst_cross_entropy(margins: Tensor) -> Tensor:
    """The largest cross-entropy that margin bounds `[B, K]` allow: `[B]`, in [0, inf).

    log sum_k exp(logits_k - logits_y) at the worst, which for a class y is the cross-entropy of Gowal et al.'s
    worst-case logits (their equation 11), and for probabilities the bound of the same form.
    """
    return (-margins).logsumexp(dim=1)


def _least(row: Tensor, box: Box) -> Tensor:
    """The least value of `row [B, K, d]` times a point of the box `[B, d]`."""
    centre, radius = (box.low + box.high) / 2, (box.high - box.low) / 2
    return (row @ centre[:, :, None] - row.abs() @ radius[:, :, None]).squeeze(2)


def _head(
    steps: dict[fx.Node, tuple[Operation, tuple[fx.Node, ...]]],
    boxes: dict[fx.Node, Box],
    node: fx.Node,
    modules: dict[str, nn.Module],
) -> tuple[nn.Linear, fx.Node] | None:
    """The linear layer whose output `node` is, through dropout and the like, and what it reads."""
    while node in steps and isinstance(steps[node][0], Reshape):
        node = steps[node][1][0]
    layer = modules.get(str(node.target)) if node.op == "call_module" else None
    if not isinstance(layer, nn.Linear):
        return None
    source = steps[node][1][0]
    return (layer, source) if boxes[source].low.dim() == 2 else None


def _attribute(model: nn.Module, target: str) -> Any:
    found: Any = model
    for name in target.split("."):
        found = getattr(found, name)
    return found


def _is_constant(node: fx.Node, arguments: Any, keywords: Any) -> bool:
    """Whether a node computes with shapes and constants alone."""
    if node.op == "call_module":
        return False
    if node.target in ("size", "dim") or (node.target is getattr and arguments[1] in ("shape", "device", "dtype")):
        return True
    return not any(isinstance(value, Box) for value in (*arguments, *keywords.values()))


def _evaluate(node: fx.Node, arguments: Any, keywords: Any) -> Any:
    arguments = tuple(value.low if isinstance(value, Box) else value for value in arguments)
    if node.op == "call_method":
        return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
    assert callable(node.target)
    return node.target(*arguments, **keywords)
