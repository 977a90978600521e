"""A view: the same function made cheaper for an attack to look at, and told anew when the weights change.

An attack asks an eval-mode model for input gradients, many times over for the same weights. So a copy may fold
BatchNorm into the convolutions before it, keep its weights in bfloat16 and channels-last, and be compiled: together
they cost a fraction of float32 on hardware with matrix units. What a view finds is only a candidate: training uses it
as it is, evaluation verifies it on the model itself.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, fx, nn

from sparring.core.gradient import View


@dataclass(frozen=True)
class Speed:
    """What a view does to its copy of the model; each part alone or with the others."""

    channels_last: bool = False
    """Convolutions in channels-last memory layout: the same sums in another order."""
    bfloat16: bool = False
    """All but the last linear layer in bfloat16: its logits would have three significant digits."""
    folded: bool = False
    """BatchNorm that directly follows a convolution or linear layer becomes part of its weights."""
    compiled: bool = False
    """Through torch.compile; with CUDA graphs on a GPU."""

    def __str__(self) -> str:
        return " + ".join(name.replace("_", "-") for name, on in asdict(self).items() if on) or "as it is"


class Fast:
    """A cheaper copy of one model, used as the `view` of an attack: `with fast(model) as seen: seen(z)`.

    Every entry brings the copy's weights up to the model's. The model itself is not touched at all.

    Args:
        model: what is copied; `[B, ...] -> [B, K]` logits.
        x: a few inputs, to find the layer that is called last.
        speed: what is done to the copy.
        within: the module that the attack is handed, where that is a wrapper of `model` (autocast, DDP).
    """

    def __init__(self, model: nn.Module, x: Tensor, speed: Speed, *, within: nn.Module | None = None) -> None:
        self.model, self.speed = model, speed
        self.handed = model if within is None else within
        inner = copy.deepcopy(model).eval().requires_grad_(False)
        inner.zero_grad(set_to_none=True)
        copies: dict[str, Tensor] = {**dict(inner.named_parameters()), **dict(inner.named_buffers())}
        self._updates: list[tuple[Tensor, Callable[[], Tensor]]] = []
        if speed.folded:
            for before, norm in foldable(inner):
                copies = self._fold(inner, copies, before, norm)
        last = _last_linear(inner, x)
        if speed.channels_last:
            inner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if speed.bfloat16:
            _narrow(inner, last)
        _swap(inner, lambda module: _quick(module, last if speed.bfloat16 else None))
        sources: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._pairs = [(copies[name], sources[name]) for name in copies]
        self.refresh()
        seen = Seen(inner, speed).eval()
        self.seen: nn.Module = Compiled(seen) if speed.compiled else seen

    @contextmanager
    def __call__(self, model: nn.Module) -> Iterator[nn.Module]:
        """The view of `model`, up to date. Raises ValueError for any other model than the one it was made of."""
        if model is not self.handed:
            raise ValueError("A view shows the model that it was made of. Got another model.")
        self.refresh()
        yield self.seen

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring the copy's weights up to the model's."""
        if self._pairs:
            torch._foreach_copy_([target for target, _ in self._pairs], [source for _, source in self._pairs])
        for target, value in self._updates:
            target.copy_(value())

    def _fold(self, inner: nn.Module, copies: dict[str, Tensor], before: str, norm: str) -> dict[str, Tensor]:
        """Make `norm` of the copy an identity and `before` their composition; what is left to copy as it is."""
        layer, source = inner.get_submodule(before), self.model.get_submodule(before)
        batch_norm = self.model.get_submodule(norm)
        assert isinstance(batch_norm, nn.modules.batchnorm._BatchNorm)
        assert isinstance(source, nn.Conv2d | nn.Linear)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert batch_norm.running_mean is not None
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros_like(batch_norm.running_mean), requires_grad=False)
        parent, _, name = norm.rpartition(".")
        setattr(inner.get_submodule(parent), name, nn.Identity())

        def weight() -> Tensor:
            return source.weight * _scale(batch_norm).view(-1, *[1] * (source.weight.dim() - 1))

        def bias() -> Tensor:
            assert batch_norm.running_mean is not None
            mean = batch_norm.running_mean if source.bias is None else batch_norm.running_mean - source.bias
            shift = -mean * _scale(batch_norm)
            return shift if batch_norm.bias is None else batch_norm.bias + shift

        self._updates += [(layer.weight, weight), (layer.bias, bias)]
        gone = {f"{before}.weight", f"{before}.bias"}
        return {key: value for key, value in copies.items() if key not in gone and not key.startswith(f"{norm}.")}


class Seen(nn.Module):
    """The copy, fed in its layout and under its autocast, answering in float32."""

    def __init__(self, inner: nn.Module, speed: Speed) -> None:
        super().__init__()
        self.inner, self.speed = inner, speed

    def forward(self, z: Tensor) -> Tensor:
        if self.speed.channels_last and z.dim() == 4:
            z = z.to(memory_format=torch.channels_last)
        if not self.speed.bfloat16:
            logits: Tensor = self.inner(z)
            return logits
        with torch.autocast(z.device.type, torch.bfloat16):
            logits = self.inner(z)
        return logits.float()


class Compiled(nn.Module):
    """A module through torch.compile for the first batch size that it sees, and as it is for any other.

    A compilation takes from seconds to a minute, so the last, smaller batch of an epoch is not worth one. Where the
    compiler fails the module itself answers from then on, and `failure` is why.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.failure: Exception | None = None
        self._size: int | None = None
        self._compiled: Callable[[Tensor], Tensor] | None = None

    def forward(self, z: Tensor) -> Tensor:
        if self._size is None:
            self._size = len(z)
        if self.failure is None and len(z) == self._size:
            try:
                if self._compiled is None:
                    graphs = "reduce-overhead" if z.is_cuda else "default"
                    self._compiled = torch.compile(self.module, dynamic=False, mode=graphs)
                logits = self._compiled(z)
                return logits.clone() if z.is_cuda else logits  # a CUDA graph writes its next answer over this one
            except Exception as error:  # a compiler may fail in any way: there is always the module itself
                self.failure = error
        answer: Tensor = self.module(z)
        return answer


def eager(view: View) -> View:
    """The same view without its compilation, for an attack that looks at what happens inside the model."""

    @contextmanager
    def uncompiled(model: nn.Module) -> Iterator[nn.Module]:
        with view(model) as seen:
            yield seen.module if isinstance(seen, Compiled) else seen

    return uncompiled


class Pool(nn.Module):
    """2x2 max-pooling; where no gradient is asked for, as the largest of four strided slices, which is faster."""

    def forward(self, z: Tensor) -> Tensor:
        if z.requires_grad or z.shape[-1] % 2 or z.shape[-2] % 2:
            return nn.functional.max_pool2d(z, 2)
        top, bottom = z[..., ::2, :], z[..., 1::2, :]
        rows = torch.maximum(top, bottom)
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class InFloat32(nn.Module):
    """A layer that autocast leaves alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            answer: Tensor = self.layer(z.float())
        return answer


def foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs (layer, BatchNorm) by name, where the BatchNorm reads that layer alone and nothing else reads the layer.

    A model that cannot be traced, because its forward pass depends on the values it sees, has none.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # a user's forward pass may do anything
        return []
    modules = dict(model.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0] if node.args else None, fx.Node):
            continue
        before, norm = node.args[0], modules[node.target]
        if before.op != "call_module" or calls[before.target] != 1 or calls[node.target] != 1:
            continue
        plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d) and norm.track_running_stats
        layer = type(modules[before.target]) in (nn.Conv2d, nn.Linear)  # exactly: a subclass may compute anything
        if plain and layer and len(before.users) == 1 and not hasattr(modules[before.target], "parametrizations"):
            pairs.append((before.target, node.target))
    return pairs


def disagreement(seen: nn.Module, logits: Tensor, x: Tensor) -> float:
    """How far a view's logits are from the model's `logits` on x, relative to their spread over the classes."""
    with torch.no_grad():
        error = (seen(x) - logits).norm() / (logits - logits.mean(1, keepdim=True)).norm().clamp(min=1e-12)
    return float(error.nan_to_num(float("inf")))


def _scale(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else norm.weight * scale


def _narrow(model: nn.Module, last: nn.Linear | None) -> None:
    """Keep the weights of convolutions and linear layers in bfloat16, so that autocast finds nothing left to cast."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not last:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()


def _quick(module: nn.Module, last: nn.Linear | None) -> nn.Module | None:
    """What takes a module's place; None for nothing."""
    if module is last:
        return InFloat32(module)
    return Pool() if isinstance(module, nn.MaxPool2d) and _halves(module) else None


def _swap(model: nn.Module, instead: Callable[[nn.Module], nn.Module | None]) -> None:
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if (other := instead(module)) is not None:
                setattr(parent, name, other)


def _halves(pool: nn.MaxPool2d) -> bool:
    """Whether it is plain 2x2 pooling."""
    plain = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    return plain in ((2, 2, 0, 1), ((2, 2), (2, 2), (0, 0), (1, 1))) and not (pool.ceil_mode or pool.return_indices)


def _last_linear(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """The linear layer that is called last."""
    called: list[nn.Linear] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: called.append(module))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return called[-1] if called else None
