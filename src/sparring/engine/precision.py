"""A model that computes in lower precision and answers in float32."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


class Autocast(nn.Module):
    """Each forward pass of `model` under a fresh autocast context; weights, gradients and outputs stay float32.

    A context per pass, because autocast keeps its copies of the weights until it is left: one context around a
    training loop would compute with the weights of its first step for ever.

    Args:
        model: what computes.
        context: makes the context of one pass.
        channels_last: hand images over in channels-last memory layout.
    """

    def __init__(
        self,
        model: nn.Module,
        context: Callable[[], AbstractContextManager[object]],
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.context = context
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last and x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        with self.context():
            output: Tensor = self.model(x)
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output
