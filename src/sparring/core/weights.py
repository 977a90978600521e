"""The weight-space adversary: move the weights to where the loss is higher, take the gradient there, move them back.

    min_theta  max_{v in V(theta)}  E[ L(f_{theta + v}, z) ]

AWP and SAM differ in V and in which weights may move, so each is one function of (weights, gradients); any learner
takes either, on top of whatever adversary plays the inputs, whose move is computed once and reused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

TINY = 1e-20
"""Against a division by a zero gradient, as in the authors' code of AWP."""


@dataclass(frozen=True)
class Perturbation:
    """Finds the offset of the weights that one normalised ascent step gives, and differentiates the loss there.

    Args:
        kind: "awp": layer by layer, v_l = gamma ||w_l|| g_l / ||g_l||, for weights of at least two dimensions only (no
            bias, no BatchNorm). Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS
            2020, equation 10 with one step, as the authors' code has it. "sam": v = rho g / ||g|| over all parameters
            together. Foret et al., "Sharpness-aware minimization", ICLR 2021, equation 2. "asam": the same in
            coordinates scaled by |w|: v = rho w^2 g / ||w g||. Kwon et al., "ASAM", ICML 2021, without its eta.
        size: gamma of awp (the paper: 0.005 to 0.01), rho of sam (0.05) and of asam (0.5); at least 0.
        start: called for each update; while it returns False the weights are left alone (AWP warms up without).
    """

    kind: Literal["awp", "sam", "asam"]
    size: float
    start: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        if self.kind not in ("awp", "sam", "asam"):
            raise ValueError(f"The 'kind' parameter must be 'awp', 'sam' or 'asam'. Got {self.kind!r} instead.")
        if not 0 <= self.size < float("inf"):
            raise ValueError(f"The 'size' parameter must be a number in the range [0, inf). Got {self.size!r} instead.")

    def __call__(self, model: nn.Module, differentiate: Callable[[], Tensor]) -> Tensor:
        """Leave in `.grad` the gradient at the moved weights, and the weights as they were.

        Args:
            model: its parameters move.
            differentiate: computes the loss, fills `.grad` (overwriting it) and returns the loss; called twice.

        Returns:
            The loss at the moved weights. BatchNorm's running statistics follow one of the two passes: the one at the
            moved weights for AWP, the one at the weights themselves for SAM, as the authors' codes do.
        """
        if self.size == 0 or not self.start():
            return differentiate()
        with still_statistics(model) if self.kind == "awp" else nullcontext():
            differentiate()
        with torch.no_grad():
            moves = self.offsets([p for p in model.parameters() if p.grad is not None])
            kept = [(p, p.detach().clone()) for p, _ in moves]
            for p, v in moves:
                p.add_(v)
        try:
            with nullcontext() if self.kind == "awp" else still_statistics(model):
                return differentiate()
        finally:
            with torch.no_grad():
                for p, before in kept:
                    p.copy_(before)  # not `sub_`: the weights come back bit for bit

    def offsets(self, parameters: list[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter that moves, with v, from the gradients that the parameters hold."""
        pairs = [(p, p.grad) for p in parameters if p.grad is not None]
        if self.kind == "awp":
            return [(p, self.size * p.norm() / (g.norm() + TINY) * g) for p, g in pairs if p.dim() > 1]
        scaled = [(p, p.abs() * g if self.kind == "asam" else g) for p, g in pairs]
        norm = torch.stack([g.norm() for _, g in scaled]).norm() + TINY
        return [(p, self.size / norm * (p.abs() * g if self.kind == "asam" else g)) for p, g in scaled]


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """In train mode, but BatchNorm's running statistics stay as they are."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(buffers, kept, strict=True):
                buffer.copy_(before)
