"""Second-order statistics of a classifier: how its logits move together, and how its last layer's weights do.

Under a Laplace approximation with Kronecker factors the covariance of the last layer's weights is (A (x) H)^-1, with
A = E[a a^T] of the features a that enter the layer and H = E[diag(p) - p p^T] of the probabilities that leave it
(Ritter, Botev, Barber, "A scalable Laplace approximation for neural networks", 2018). Its correlation matrix is then
the Kronecker product of those of A^-1 and H^-1, and the Frobenius norm of the whole is the product of the two.
"""

import torch
from torch import Tensor, nn

from sparring.core.payoff import wide

DAMPING = 1e-3
"""What is added to the diagonal of a factor before it is inverted, as a share of the diagonal's mean."""


def with_features(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits `[B, K]` and the features `[B, d]` that enter the model's last linear layer, in one forward pass.

    Raises ValueError where the layer called last is fed anything else than one vector for each example.
    """
    entering: list[Tensor] = []

    def note(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entering.append(inputs[0])

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        logits: Tensor = model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not entering or entering[-1].dim() != 2:
        got = list(entering[-1].shape) if entering else "no linear layer"
        raise ValueError(f"The model must end in a linear layer fed with features [B, d]. Got {got}.")
    return logits, entering[-1]


def co_movement(logits: Tensor) -> Tensor:
    """|sum_b z_b z_b^T|, `[K, K]`: how much the logits of two classes move together over a batch `[B, K]`."""
    logits = wide(logits)
    return (logits.T @ logits).abs()


def decorrelating_targets(together: Tensor, mass: float) -> Tensor:
    """Row y is a label for class y: `mass` on y itself, and of the rest the more the less a class moves with y.

    B_ij = max_k C_ik - C_ij for j != i, scaled to sum to 1 - mass over j; B_ii = mass. A row without differences, as of
    logits that are all zero, spreads its rest evenly.

    Args:
        together: C, `[K, K]`, as `co_movement` gives it.
        mass: of the class itself, in (0, 1].

    Returns:
        `[K, K]`, every row a distribution.
    """
    classes = len(together)
    itself = torch.eye(classes, dtype=torch.bool, device=together.device)
    apart = (together.amax(dim=1, keepdim=True) - together).masked_fill(itself, 0.0)
    total = apart.sum(dim=1, keepdim=True)
    even = torch.full_like(apart, 1 / max(1, classes - 1))
    rest = torch.where(total > 0, apart / torch.where(total > 0, total, 1.0), even)
    return torch.where(itself, mass, (1 - mass) * rest)


def correlation_norm(features: Tensor, logits: Tensor, damping: float = DAMPING) -> Tensor:
    """The Frobenius norm of the correlation matrix of the last layer's weights, over that of independent weights.

    ||R_A||_F ||R_H||_F / sqrt(d K), at least 1, which is reached where neither features nor probabilities move
    together. Differentiable; waits for no device. Computed in float64: the factors of a batch are nearly singular.

    Args:
        features: `[B, d]`; the layer's bias is left out.
        logits: `[B, K]`.
        damping: see `DAMPING`.

    Returns:
        A scalar in float64.
    """
    a, p = features.double(), logits.double().softmax(dim=1)
    first = a.T @ a / len(a)
    second = torch.diag(p.mean(dim=0)) - p.T @ p / len(p)
    size = first.shape[0] * second.shape[0]
    norm: Tensor = _correlation_of_inverse(first, damping) * _correlation_of_inverse(second, damping) / size**0.5
    return norm


def _correlation_of_inverse(factor: Tensor, damping: float) -> Tensor:
    """The Frobenius norm of D^-1/2 S D^-1/2, S the inverse of the damped factor and D its diagonal."""
    diagonal = factor.diagonal().mean().clamp(min=1e-12)
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    covariance = torch.linalg.inv_ex(factor + damping * diagonal * identity).inverse
    spread = covariance.diagonal()
    correlation: Tensor = covariance.square() / (spread[:, None] * spread)
    return correlation.sum().sqrt()
