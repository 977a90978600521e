"""Adversaries that move embedded texts: what FGM, PGD, VAT, SMART and NEFTune answer, and how a learner plays it.

An embedded text is `[B, L, D + 1]`, its last channel 1 at real tokens and 0 at padding
(`sparring.domains.text.embedded`). A move is such a tensor. The learner trains its embeddings too, so it plays the move
as an offset from what its own embeddings are in that pass: `along`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.attack import Attack
from sparring.core.gain import Gain
from sparring.core.game import Batch, Payoff
from sparring.core.gradient import View, frozen, value_and_gradient
from sparring.core.payoff import kl, wide
from sparring.core.pgd import pgd
from sparring.core.players import Attacker
from sparring.core.standing import per_example
from sparring.core.threat import Threat
from sparring.domains.text.ball import SentenceBall

Within = Callable[[nn.Module], Threat]
"""The threat model as the model's embeddings have it now: a radius relative to their size is another one each step."""


def bare(model: nn.Module) -> nn.Module:
    """The network inside DDP's wrapper, which hides `embed`."""
    return bare(model.module) if isinstance(model, nn.parallel.DistributedDataParallel) else model


def embed(model: nn.Module, ids: Tensor) -> Tensor:
    """The embedded text `[B, L, D + 1]` of ids `[B, L]`."""
    look: Any = bare(model).embed
    embedded: Tensor = look(ids)
    return embedded


def along(model: nn.Module, z: Tensor, ids: Tensor) -> Tensor:
    """z in value, as the model's own embeddings of ids plus a constant: the gradient reaches the embeddings."""
    x = embed(model, ids)
    return x + (z - x).detach()


@dataclass(frozen=True)
class Embedding:
    """An adversary that attacks the embedded texts of a batch `(ids, y)` against the frozen model.

    Args:
        payoff: what it ascends, `(model, z, batch) -> [B]`.
        within: the threat model around the embedded texts.
        attack: `(gain, x, threat, rng=...) -> z`.
        rng, view, reference: as of `sparring.core.players.Attacker`.
    """

    payoff: Payoff
    within: Within
    attack: Attack
    rng: torch.Generator | None = None
    view: View = frozen
    reference: Callable[[nn.Module, Batch], Tensor] | None = None

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            x = embed(model, batch[0])
        threat = self.within(bare(model))
        attacker = Attacker(
            self.payoff, threat, self.attack, self.rng, start=lambda _: x, view=self.view, reference=self.reference
        )
        return attacker.respond(model, batch)


def ascent(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    /,
    *,
    steps: int,
    step_size: float | None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """PGD from a random start to its last iterate; `step_size` in radii, by default 2.5 / steps."""
    length = None if step_size is None else step_size * threat.eps
    return pgd(gain, x, threat, steps=steps, step_size=length, keep_best=False, rng=rng)


def noise(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """NEFTune's noise: each entry of a real token's embedding moves by U(-1, 1) alpha / sqrt(n D), for n real tokens.

    It looks at no gradient. The offset of a text is at most alpha long in the Frobenius norm, about alpha / sqrt(3),
    however long the text.

    Args:
        gain: not asked.
        x: embedded texts `[B, L, D + 1]`.
        threat: a ball whose radius is alpha, in its unit.
        rng: source of the noise.
    """
    assert isinstance(threat, SentenceBall)
    real = x[..., -1:]
    entries = real.flatten(1).sum(1) * (x.shape[-1] - 1)
    draw = torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype) * 2 - 1
    draw = torch.cat([draw[..., :-1] * real, torch.zeros_like(real)], -1)
    return x + draw * per_example(threat.eps * threat.unit / entries.clamp(min=1).sqrt(), x)


def virtual(gain: Gain, x: Tensor, threat: Threat, /, *, xi: float = 0.1, rng: torch.Generator | None = None) -> Tensor:
    """The direction of largest curvature, by one power iteration: d <- normalise(grad gain(x + xi d)), z = x + eps d.

    Miyato et al., "Virtual adversarial training", 2018. At x itself a divergence is at its minimum and has no gradient.

    Args:
        gain: a divergence from the answer at x, `[B]`.
        x: embedded texts.
        threat: whose radius is eps.
        xi: how far along the first, random direction the gradient is taken, in radii.
        rng: source of that direction.
    """
    start = threat.steepest(threat.sample(x, rng) - x, x)
    _, gradient = value_and_gradient(gain, x + xi * threat.eps * start)
    return threat.project(x + threat.eps * threat.steepest(gradient, x), x)


def started(gain: Gain, x: Tensor, threat: Threat, /, *, rng: torch.Generator | None = None) -> Tensor:  # noqa: ARG001
    """A random allowed point: where FreeLB's learner, which ascends by itself, begins."""
    return threat.sample(x, rng)


def symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """KL(p || q) + KL(q || p) of two sets of logits `[B, K]`, `[B]`: sum_k (p_k - q_k)(log p_k - log q_k)."""
    log_p, log_q = F.log_softmax(wide(logits), 1), F.log_softmax(wide(others), 1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)


def divergence(of: Callable[[Tensor, Tensor], Tensor]) -> Payoff:
    """`of(logits at z, logits at x)`, the latter given as the last part of the batch."""
    return lambda model, z, batch: of(model(z), batch[-1])


def clean_logits(model: nn.Module, batch: Batch) -> Tensor:
    """The answer at the texts as they are."""
    logits: Tensor = model(batch[0])
    return logits


def towards_clean(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(p || q) whose target p is a constant: virtual adversarial training needs no label, and moves q only."""
    return kl(logits, clean.detach())
