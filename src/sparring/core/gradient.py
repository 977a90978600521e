"""Gradients of a gain with respect to the move, and a model that an attack cannot disturb."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

View = Callable[[nn.Module], AbstractContextManager[nn.Module]]
"""How an attack sees a model: a context that yields a module which computes the model's eval-mode function, cannot be
disturbed by the attack, and has no parameter gradients. `frozen` is the model itself."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode and without parameter gradients; everything is as before on leaving.

    Eval mode keeps BatchNorm's running statistics and dropout out of the attack's reach. The training flag is restored
    module by module, so a BatchNorm layer that the user froze inside a training model stays frozen; so is each
    parameter's `requires_grad`, and no parameter's `.grad` is touched.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)


def value_and_gradient(gain: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """The gain `[B]` at z and its gradient with respect to z, one backward pass for the whole batch.

    The examples of a batch do not interact (in eval mode), so the gradient of the sum holds each example's own.
    """
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        value = gain(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
