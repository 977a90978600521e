"""A view: the same classifier made cheaper for the attack to look at. What is found is verified on the model itself.

Convolutions in channels-last layout and in bfloat16 cost a fraction of what they cost in float32 on processors and GPUs
with instructions for it, and more elsewhere; which is fastest differs by model and machine, so it is measured, not
assumed.
"""

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.core.gradient import frozen, value_and_gradient
from sparring.core.payoff import margin
from sparring.evaluation.subject import Subject

WORTH = 0.9
"""A view has to take less than this share of the model's own time: less is within what timing can tell."""


class ChannelsLast(nn.Module):
    """The model with its convolutions in channels-last memory layout: the same sums in another order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for parent in self.model.modules():
            for name, module in parent.named_children():
                if isinstance(module, nn.MaxPool2d) and _halves(module):
                    setattr(parent, name, Pool())

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.model(z.to(memory_format=torch.channels_last) if z.dim() == 4 else z)
        return logits


class Pool(nn.Module):
    """2x2 max-pooling; where no gradient is asked for, as the largest of four strided slices, which is faster."""

    def forward(self, z: Tensor) -> Tensor:
        if z.requires_grad or z.shape[-1] % 2 or z.shape[-2] % 2:
            return nn.functional.max_pool2d(z, 2)
        top, bottom = z[..., ::2, :], z[..., 1::2, :]
        rows = torch.maximum(top, bottom)
        return torch.maximum(rows[..., ::2], rows[..., 1::2])


class Brain16(nn.Module):
    """The model in channels-last layout and bfloat16, but for its last linear layer.

    The last layer stays in float32, because a bfloat16 logit has three significant digits: a search that accepts small
    improvements would stand still on so coarse a scale.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.inner = ChannelsLast(model)
        last = _last_linear(self.inner, x)
        if last is not None:
            last.register_forward_pre_hook(lambda _, inputs: tuple(value.float() for value in inputs))
            plain = last.forward

            def in_float32(input: Tensor) -> Tensor:
                with torch.autocast(input.device.type, enabled=False):
                    return plain(input)

            last.forward = in_float32  # type: ignore[method-assign]

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, torch.bfloat16):
            logits: Tensor = self.inner(z)
        return logits.float()


def fastest(subject: Subject) -> nn.Module | None:
    """The view whose forward and backward pass is fastest on this machine; None where the model itself is."""
    return _choose(subject, (ChannelsLast, lambda model: Brain16(model, subject.x[:2])))


def brain16(subject: Subject) -> nn.Module | None:
    """The view in bfloat16, whether it is faster or not; None where the model cannot be copied or run so."""
    return _try(subject, lambda model: Brain16(model, subject.x[:2]))


def seconds(model: nn.Module, subject: Subject, *, repeats: int = 3) -> float:
    """The least time of a few gradients of the margin on a batch."""
    rows = torch.arange(min(len(subject.y), subject.batch_size, 128), device=subject.y.device)
    x, best = subject.x[rows], float("inf")
    gain = subject.gain(rows)
    with frozen(model):
        for _ in range(repeats + 1):
            _synchronise(x)
            begun = time.perf_counter()
            value_and_gradient(lambda z: margin(model(z), gain.y), x)
            _synchronise(x)
            best = min(best, time.perf_counter() - begun)
    return best


def _choose(subject: Subject, makers: tuple[Callable[[nn.Module], nn.Module], ...]) -> nn.Module | None:
    if not subject.differentiable or subject.x.dtype != torch.float32:
        return None
    best, time_to_beat = None, WORTH * seconds(subject.model, subject)
    for maker in makers:
        view = _try(subject, maker)
        if view is not None and (taken := seconds(view, subject)) < time_to_beat:
            best, time_to_beat = view, WORTH * taken
    return best


def _try(subject: Subject, maker: Callable[[nn.Module], nn.Module]) -> nn.Module | None:
    """The view, if the model can be copied and answers alike: most clean examples get the same class."""
    try:
        view = maker(subject.model).eval().requires_grad_(False)
        with frozen(view), torch.no_grad():
            answer = view(subject.x[:64])
    except Exception:  # a user's model may refuse to be copied or cast in any way it likes: then it is used as it is
        return None
    agree = (answer.argmax(1) == subject.logits[:64].argmax(1)).double().mean().item()
    return view if agree >= 0.9 and bool(answer.isfinite().all()) else None


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
    with frozen(model), torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return called[-1] if called else None


def _synchronise(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
