"""A network as a graph of operations whose output is easy to bound: what interval and linear bounds walk through.

`torch.fx` records which operation reads what; here each is recognised as one of six kinds, with the weights that the
model holds now. What is not recognised is refused by name: a bound that skipped a layer would certify nothing.
"""

import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparring.core.gradient import frozen

SUPPORTED = (
    "Linear, Conv1d, Conv2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, BatchNorm1d, BatchNorm2d, "
    "Dropout, Identity, their functional forms, view, reshape, mean, the sum or difference of two branches, and "
    "adding, subtracting, multiplying or dividing by a constant"
)


class UnsupportedError(ValueError):
    """The model holds an operation that nothing here can bound."""


@dataclass(frozen=True)
class Box:
    """Every tensor between `low` and `high`, both `[B, ...]`, low <= high."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Affine:
    """z -> W z + b, and r -> |W| r."""

    function: Callable[[Tensor], Tensor]
    absolute: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Monotone:
    """Each output rises with every input. `linear`: and it is a linear map."""

    function: Callable[[Tensor], Tensor]
    linear: bool
    name: str


@dataclass(frozen=True)
class Relu:
    """max(z, 0), element by element."""


@dataclass(frozen=True)
class Reshape:
    """The same numbers in another shape."""

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Elementwise:
    """z -> scale z + shift, which broadcast to z."""

    scale: Tensor | float
    shift: Tensor | float


@dataclass(frozen=True)
class Sum:
    """a + sign b of two branches."""

    sign: float


Operation = Affine | Monotone | Relu | Reshape | Elementwise | Sum
Found = tuple[Operation, tuple[int, ...]]
"""An operation and which of its arguments it reads."""

_GRAPHS: "weakref.WeakKeyDictionary[nn.Module, fx.Graph]" = weakref.WeakKeyDictionary()


def graph(model: nn.Module) -> fx.Graph:
    """What the model computes in eval mode; traced once per model, whose weights may change afterwards.

    Raises UnsupportedError where the forward pass depends on the values it sees.
    """
    known = _GRAPHS.get(model)
    if known is None:
        try:
            with frozen(model):
                known = fx.Tracer().trace(model)
        except Exception as error:  # a user's forward pass may do anything
            raise UnsupportedError(
                f"The forward pass of {type(model).__name__} cannot be traced, because it depends on the values it "
                f"sees: {error}"
            ) from error
        _GRAPHS[model] = known
    return known


def operation(node: fx.Node, module: nn.Module | None, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Found:
    """What a node of the graph does to the boxes among its arguments.

    Args:
        node: of `graph`.
        module: what it calls, for a `call_module` node.
        arguments, keywords: with `Box`es and constants in the place of nodes.

    Raises:
        UnsupportedError: naming the operation, where it is in the graph, and what is supported.
    """
    found: Operation | Found | None = None
    if module is not None:
        kind = next((k for k in type(module).__mro__ if k in _MODULES), None)
        # A subclass with a forward pass of its own may compute anything.
        if kind is not None and type(module).forward is kind.forward and not isinstance(arguments[0], tuple):
            found = _MODULES[kind](module, arguments[0].low.dim())
    elif (make := dict(_FUNCTIONS).get(node.target)) is not None:
        found = make(*arguments, **keywords)
    if found is None:
        what = f"{type(module).__name__} (module {node.target!r})" if module is not None else _name(node)
        raise UnsupportedError(f"No bound is known for {what} at node {node.name!r}. Supported: {SUPPORTED}.")
    return found if isinstance(found, tuple) else (found, (0,))


def _name(node: fx.Node) -> str:
    target = node.target
    return f"the {node.op.removeprefix('call_')} {target if isinstance(target, str) else target.__name__!r}"


def _linear(weight: Tensor, bias: Tensor | None) -> Affine:
    return Affine(lambda z: F.linear(z, weight, bias), lambda r: F.linear(r, weight.abs()))


def _conv(layer: nn.Conv1d | nn.Conv2d) -> Affine:
    weight, bias = layer.weight, layer.bias
    forward: Callable[..., Tensor] = layer._conv_forward  # knows every padding mode
    return Affine(lambda z: forward(z, weight, bias), lambda r: forward(r, weight.abs(), None))


def _norm(norm: nn.modules.batchnorm._BatchNorm, dim: int) -> Elementwise | None:
    """BatchNorm as it is in eval mode, in training too: its running statistics, as constants."""
    if norm.running_mean is None or norm.running_var is None:
        return None
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else norm.weight * scale
    shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
    shape = (-1, *[1] * (dim - 2))
    return Elementwise(scale.view(shape), shift.view(shape))


def _same(*_: Any, **__: Any) -> Reshape:
    return Reshape(lambda z: z)


def _pool(pool: nn.Module, linear: bool) -> Monotone | None:
    indices = getattr(pool, "return_indices", False)
    return None if indices else Monotone(pool, linear, type(pool).__name__)


_MODULES: dict[type[nn.Module], Callable[[Any, int], Operation | None]] = {
    nn.Linear: lambda layer, _: _linear(layer.weight, layer.bias),
    nn.Conv1d: lambda layer, _: _conv(layer),
    nn.Conv2d: lambda layer, _: _conv(layer),
    nn.BatchNorm1d: _norm,
    nn.BatchNorm2d: _norm,
    nn.ReLU: lambda *_: Relu(),
    nn.MaxPool2d: lambda pool, _: _pool(pool, linear=False),
    nn.AvgPool2d: lambda pool, _: _pool(pool, linear=True),
    nn.AdaptiveAvgPool2d: lambda pool, _: _pool(pool, linear=True),
    nn.Flatten: lambda flatten, _: Reshape(flatten),
    nn.Dropout: _same,
    nn.Dropout2d: _same,
    nn.Identity: _same,
}


def _add(a: Any, b: Any, *, alpha: float = 1) -> Found | None:
    if isinstance(a, Box) and isinstance(b, Box):
        return Sum(alpha), (0, 1)
    return (Elementwise(1.0, alpha * b), (0,)) if isinstance(a, Box) else (Elementwise(alpha, a), (1,))


def _subtract(a: Any, b: Any, *, alpha: float = 1) -> Found | None:
    return _add(a, b, alpha=-alpha)


def _multiply(a: Any, b: Any) -> Found | None:
    if isinstance(a, Box) and isinstance(b, Box):
        return None
    return (Elementwise(b, 0.0), (0,)) if isinstance(a, Box) else (Elementwise(a, 0.0), (1,))


def _divide(_: Any, b: Any) -> Found | None:
    return None if isinstance(b, Box) else (Elementwise(1 / b, 0.0), (0,))


def _functional_linear(_: Any, weight: Any, bias: Any = None) -> Affine | None:
    return None if isinstance(weight, Box) or isinstance(bias, Box) else _linear(weight, bias)


def _functional_conv(_: Any, weight: Any, bias: Any = None, *rest: Any, **options: Any) -> Affine | None:
    if isinstance(weight, Box) or isinstance(bias, Box):
        return None
    return Affine(
        lambda z: F.conv2d(z, weight, bias, *rest, **options),
        lambda r: F.conv2d(r, weight.abs(), None, *rest, **options),
    )


def _monotone(function: Callable[..., Tensor], linear: bool) -> Callable[..., Monotone | None]:
    def make(_: Any, *rest: Any, **options: Any) -> Monotone | None:
        if options.get("return_indices"):
            return None
        return Monotone(lambda z: function(z, *rest, **options), linear, function.__name__)

    return make


def _reshape(function: Callable[..., Tensor]) -> Callable[..., Reshape]:
    return lambda _, *rest, **options: Reshape(lambda z: function(z, *rest, **options))


def _relu(*_: Any, **__: Any) -> Relu:
    return Relu()


_FUNCTIONS: tuple[tuple[Any, Callable[..., Operation | Found | None]], ...] = (
    *((f, _relu) for f in (F.relu, torch.relu, "relu", "relu_")),
    *((f, _add) for f in (operator.add, operator.iadd, torch.add, "add", "add_")),
    *((f, _subtract) for f in (operator.sub, operator.isub, torch.sub, "sub", "sub_")),
    *((f, _multiply) for f in (operator.mul, operator.imul, torch.mul, "mul", "mul_")),
    *((f, _divide) for f in (operator.truediv, operator.itruediv, torch.div, "div", "div_")),
    *((f, _same) for f in (F.dropout, F.dropout2d, "float", "contiguous")),
    *((f, _reshape(torch.flatten)) for f in (torch.flatten, "flatten")),
    *((f, _reshape(torch.Tensor.reshape)) for f in (torch.reshape, "reshape", "view")),
    *((f, _monotone(torch.mean, linear=True)) for f in (torch.mean, "mean")),
    (F.max_pool2d, _monotone(F.max_pool2d, linear=False)),
    (torch.max_pool2d, _monotone(torch.max_pool2d, linear=False)),
    (F.avg_pool2d, _monotone(F.avg_pool2d, linear=True)),
    (F.adaptive_avg_pool2d, _monotone(F.adaptive_avg_pool2d, linear=True)),
    (F.linear, _functional_linear),
    (F.conv2d, _functional_conv),
)
