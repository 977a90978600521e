"""Words in the place of words, on ids: the adversaries of A2T and of random substitution.

A table of substitutes is `[V, T]`: row v holds the ids that may stand where v stands, v itself where there are fewer
(`sparring.domains.text.neighbours.Neighbours.table`). One id is one word, so a site is a position.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.core.game import Batch
from sparring.core.gradient import View, frozen
from sparring.core.payoff import cross_entropy
from sparring.systems.text_at.offsets import embed

PAD = 0
"""The id of padding: no word, and nobody's substitute."""


def choices(ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """What may stand at each position: ids `[B, L, 1 + T]`, the word itself first, and which of them count, bool: each
    once."""
    own = ids[..., None]
    candidates = torch.cat([own, table[ids]], -1)
    allowed = candidates != own
    allowed[..., 0] = True
    return candidates, allowed


def budget(ids: Tensor, share: float, least: int) -> Tensor:
    """How many words of each text may change, `[B]`: `share` of them, rounded down, but `least` where there are so
    many."""
    words = (ids != PAD).sum(1)
    return torch.minimum(words, (share * words + 1e-6).long().clamp(min=least))


@dataclass(frozen=True)
class Substituted:
    """The threat model on ids: every word that changed is a substitute of the original, and few enough changed.

    Args:
        table: `[V, T]`.
        share: of a text's words that may change, in (0, 1].
        least: words that may change at least.
    """

    table: Tensor
    share: float = 1.0
    least: int = 0

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether each text of ids z `[B, L]` is allowed, `[B]`."""
        changed = z != x
        listed = (self.table[x] == z[..., None]).any(-1)
        return ~(changed & ~listed).any(1) & (changed.sum(1) <= budget(x, self.share, self.least))


@dataclass(frozen=True)
class Ranked:
    """The adversary of A2T: words in the order of the gradient at them, each replaced by the best of its substitutes.

    One backward pass ranks the words, then each of them in turn is tried with all its substitutes at once; a
    replacement stays where the loss rises. Yoo & Qi, "Towards improving adversarial training of NLP models", 2021.

    Args:
        threat: the table and the budget.
        view: how the attack sees the model.
    """

    threat: Substituted
    view: View = frozen

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        ids, y = batch[0], batch[1]
        with self.view(model) as seen:
            with torch.no_grad():
                x = embed(model, ids)
            value, slope = steepness(seen, x, y)
            useless = (self.threat.table[ids] == ids[..., None]).all(-1)  # padding, and words without substitutes
            order = slope.masked_fill(useless, -1.0).sort(dim=1, descending=True, stable=True).indices
            rounds = budget(ids, self.threat.share, self.threat.least)
            z = ids.clone()
            with torch.no_grad():
                for k in range(int(rounds.max()) if len(ids) else 0):
                    rows = (rounds > k).nonzero().squeeze(1)
                    z[rows], value[rows] = self._replaced(seen, z[rows], y[rows], order[rows, k], value[rows])
        return z

    def _replaced(self, seen: nn.Module, z: Tensor, y: Tensor, site: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Each text with the word at its site exchanged for the substitute of the highest loss, if that is higher."""
        words = self.threat.table[z.gather(1, site[:, None]).squeeze(1)]
        B, T = words.shape
        tried = z[:, None, :].repeat(1, T, 1).scatter(2, site[:, None, None].expand(B, T, 1), words[..., None])
        losses = cross_entropy(seen(tried.reshape(B * T, -1)), y.repeat_interleave(T, 0)).reshape(B, T)
        best, which = losses.max(1)
        rose = best > value
        chosen = tried[torch.arange(B, device=z.device), which]
        return torch.where(rose[:, None], chosen, z), torch.where(rose, best, value)


def steepness(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss `[B]` at embedded texts, and the norm of its gradient at each position `[B, L]`."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = cross_entropy(model(x), y)
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient[..., :-1].norm(dim=-1)


@dataclass(frozen=True)
class Drawn:
    """Random substitution, the control: each word is exchanged with probability `share` for one of its substitutes,
    drawn evenly; a word that has none stays.

    Args:
        table: `[V, T]`.
        share: of the words, in [0, 1].
        rng: source of the draws, on the batch's device.
    """

    table: Tensor
    share: float
    rng: torch.Generator | None = None

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        return drawn(batch[0], self.table, self.share, self.rng)


def drawn(ids: Tensor, table: Tensor, share: float, rng: torch.Generator | None = None) -> Tensor:
    """Ids `[B, L]`, each with probability `share` another one of its row of the table, drawn evenly."""
    candidates, allowed = choices(ids, table)
    others = allowed[..., 1:].to(torch.float32)
    some = others.sum(-1, keepdim=True) > 0
    draw = torch.rand(ids.shape, generator=rng, device=ids.device)
    which = torch.multinomial(torch.where(some, others, 1.0).flatten(0, 1), 1, generator=rng).reshape(*ids.shape, 1)
    exchanged = (draw < share)[..., None] & some
    return torch.where(exchanged, candidates[..., 1:].gather(-1, which), ids[..., None]).squeeze(-1)
