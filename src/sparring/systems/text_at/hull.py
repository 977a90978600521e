"""ASCC: each word is anywhere in the convex hull of its substitutes, and the adversary chooses where.

    v_i = sum_j w_ij e(c_ij),   w_i = softmax(u_i),   max_u  L(f(v), y) - alpha mean_i H(w_i)

The entropy H pushes the weights to the corners of the hull, which are words. Dong, Luu, Ji, Liu, "Towards robustness
against natural language word substitutions", ICLR 2021.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.core.game import Batch, Payoff
from sparring.core.gradient import View, frozen
from sparring.core.payoff import cross_entropy
from sparring.systems.text_at.offsets import embed
from sparring.systems.text_at.substitutes import PAD, choices


def corners(model: nn.Module, candidates: Tensor) -> Tensor:
    """The embeddings `[B, L, T, D + 1]` of candidates `[B, L, T]`."""
    B, L, T = candidates.shape
    return embed(model, candidates.reshape(B, L * T)).reshape(B, L, T, -1)


def mixed(corners: Tensor, weights: Tensor) -> Tensor:
    """The embedded texts `[B, L, D + 1]` at weights `[B, L, T]` of their corners `[B, L, T, D + 1]`."""
    return (weights[..., None].to(corners) * corners).sum(2)


def entropy(u: Tensor) -> Tensor:
    """H(softmax(u)) over the last dimension, in nats; entries of -inf, whose weight is zero, add nothing."""
    log = u.log_softmax(-1).masked_fill(u == -torch.inf, 0.0)
    return -(u.softmax(-1) * log).sum(-1)


def penalty(u: Tensor, real: Tensor) -> Tensor:
    """The mean entropy of a text's words, `[B]`, of `u [B, L, T]` and real `[B, L]`, 1 at words and 0 at padding."""
    return (entropy(u) * real).sum(1) / real.sum(1).clamp(min=1)


def placed(table: Tensor, model: nn.Module, weights: Tensor, ids: Tensor) -> Tensor:
    """The embedded texts that a move, the weights `[B, L, T]`, stands for; the gradient reaches every corner."""
    return mixed(corners(model, choices(ids, table)[0]), weights)


def payoff(table: Tensor) -> Payoff:
    """The cross-entropy at a move."""
    return lambda model, weights, batch: cross_entropy(model(placed(table, model, weights, batch[0])), batch[1])


@dataclass(frozen=True)
class Hull:
    """The adversary: gradient ascent on u, each word's gradient at length one.

    Its move is the weights w `[B, L, T]`, each word's in the simplex and zero where a word has fewer substitutes.

    Args:
        table: `[V, T - 1]`, the substitutes of each id; own ids where there are fewer.
        steps: of ascent.
        step_size: length of a word's step in u, where one is a factor of e between two weights.
        sparsity: alpha.
        rng: source of the random start, a standard normal draw of u.
        view: how the attack sees the model.
    """

    table: Tensor
    steps: int
    step_size: float
    sparsity: float
    rng: torch.Generator | None = None
    view: View = frozen

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        ids, y = batch[0], batch[1]
        candidates, allowed = choices(ids, self.table)
        with torch.no_grad():
            hull = corners(model, candidates)
        real = (ids != PAD).to(hull)
        u = torch.randn(candidates.shape, generator=self.rng, device=ids.device, dtype=hull.dtype)
        u = u.masked_fill(~allowed, -torch.inf)
        with self.view(model) as seen:
            for _ in range(self.steps):
                u = u.detach().requires_grad_(True)
                value = cross_entropy(seen(mixed(hull, u.softmax(-1))), y) - self.sparsity * penalty(u, real)
                (gradient,) = torch.autograd.grad(value.sum(), u)
                length = gradient.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
                u = u.detach() + self.step_size * gradient / length
        return u.detach().softmax(-1)
