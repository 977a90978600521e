"""Per-example losses of a classifier: each takes logits `[B, K]` and labels `[B]` and returns `[B]`.

Labels are classes (int64 `[B]`); where training mixes or smooths them they are probabilities (float `[B, K]`), which
cross-entropy takes as they are and whatever needs one class reads through `hard`.

High is good for the adversary. Nothing here reduces over the batch: reduction happens once, in the player.
Half-precision logits are widened to float32 first, because exp and log lose everything that matters below it.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.game import Batch, Payoff

Loss = Callable[[Tensor, Tensor], Tensor]
"""`loss(logits [B, K], y [B]) -> [B]`."""


TargetedLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`loss(logits [B, K], y [B], target [B]) -> [B]`: high where the target beats y."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log softmax(logits)_y, or its mean under soft labels `[B, K]`. In [0, inf).

    Its gradient vanishes when the model is confident and right.
    """
    logits = wide(logits)
    return F.cross_entropy(logits, y.to(logits.dtype) if y.is_floating_point() else y, reduction="none")


def hard(y: Tensor) -> Tensor:
    """Classes `[B]`: y itself, or the most probable class of soft labels `[B, K]`."""
    return y.argmax(dim=1) if y.is_floating_point() else y


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k != y} logits_k - logits_y: positive exactly when the example is misclassified.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", 2017, f_6 without the clamp. Unlike
    cross-entropy its gradient does not vanish on confident predictions.
    """
    logits = wide(logits)
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(dim=1) - own


def margin_towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """logits_target - logits_y: positive when the target is ahead of the true class."""
    logits = wide(logits)
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def dlr_towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The margin towards the target divided by (largest - mean of third and fourth largest logit).

    Croce & Hein, "Reliable evaluation of adversarial robustness", 2020, eq. 7. Raises ValueError with fewer than four
    classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(
            f"'dlr_towards' needs logits of at least 4 classes. Got {logits.shape[1]}; use 'margin_towards' instead."
        )
    top = wide(logits).topk(4, dim=1).values
    return margin_towards(logits, y, target) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The difference-of-logits ratio: the margin divided by (largest - third largest logit).

    Invariant to shifting and scaling the logits, so a model cannot hide by rescaling them. Croce & Hein, "Reliable
    evaluation of adversarial robustness", 2020, eq. 6. Raises ValueError with fewer than three classes.
    """
    logits = wide(logits)
    if logits.shape[1] < 3:
        raise ValueError(f"'dlr' needs logits of at least 3 classes. Got {logits.shape[1]}; use 'margin' instead.")
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def kl(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), both `[B, K]`: the inner objective of TRADES (Zhang et al. 2019).

    At logits = reference the value is at its minimum and the gradient is zero: an attack on it has to start elsewhere.
    """
    log_p, log_q = F.log_softmax(wide(reference), dim=1), F.log_softmax(wide(logits), dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def zero_one(logits: Tensor, y: Tensor) -> Tensor:
    """1.0 where the prediction is wrong, 0.0 where it is right: what robustness is measured in."""
    return (logits.argmax(dim=1) != y).to(wide(logits).dtype)


def of_model(loss: Loss) -> Payoff:
    """The payoff of a classifier: `payoff(model, z, (x, y)) = loss(model(z), y)`."""

    def payoff(model: nn.Module, z: Tensor, batch: Batch) -> Tensor:
        return loss(model(z), batch[1])

    return payoff


def wide(logits: Tensor) -> Tensor:
    """Half-precision logits in float32, others as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
