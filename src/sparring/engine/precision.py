"""A model that computes in lower precision and answers in float32."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor, nn


class Autocast(nn.Module):
    """Each forward pass of `model` under a fresh autocast context; weights, gradients and outputs stay float32.

    A context per pass, because autocast keeps its copies of the weights until it is left: one context around a
    training loop would compute with the weights of its first step for ever.
    """

    def __init__(self, model: nn.Module, context: Callable[[], AbstractContextManager[object]]) -> None:
        super().__init__()
        self.model = model
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            output: Tensor = self.model(x)
        return output.float()
