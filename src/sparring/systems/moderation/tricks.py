"""What people do to a text to get it past a filter, on ids: paraphrase, misspell, append something harmless.

Each trick is a function of the ids and a generator, drawn anew for every batch; `Tricks` is the adversary that draws
several and plays the one of the highest loss. To a tokenizer of words a misspelt word is an unknown one, whichever way
it is misspelt, so that is what training sees of all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.game import Batch
from sparring.core.gradient import View, frozen
from sparring.core.payoff import cross_entropy
from sparring.systems.text_at.substitutes import PAD, drawn

UNKNOWN = 1
"""The id of a word that is in no vocabulary."""

Trick = Callable[[Tensor, torch.Generator | None], Tensor]
"""`trick(ids [B, L], rng) -> ids [B, M]`, M >= L."""


def misspelt(ids: Tensor, rng: torch.Generator | None, *, share: float) -> Tensor:
    """Each word becomes the unknown one with probability `share`."""
    draw = torch.rand(ids.shape, generator=rng, device=ids.device)
    return torch.where((draw < share) & (ids != PAD), UNKNOWN, ids)


def appended(ids: Tensor, rng: torch.Generator | None, *, pool: Tensor, most: int, length: int) -> Tensor:
    """One to `most` words of the pool `[P]` after the last word of each text, as many as `length` leaves room for."""
    room = max(0, min(most, length - ids.shape[1]))
    z = F.pad(ids, (0, room), value=PAD)
    words = (ids != PAD).sum(1, keepdim=True)
    count = torch.randint(1, most + 1, (len(ids), 1), generator=rng, device=ids.device)
    which = torch.randint(len(pool), z.shape, generator=rng, device=ids.device)
    place = torch.arange(z.shape[1], device=ids.device)
    return torch.where((place >= words) & (place < words + count), pool[which], z)


def swapped(ids: Tensor, rng: torch.Generator | None, *, terms: Tensor, share: float) -> Tensor:
    """Each word that is among the terms `[I]` becomes another one of them with probability `share`, drawn evenly.

    A text about one group says as much of another: Garg et al., "Counterfactual fairness in text classification through
    robustness", 2019. It is no trick of an adversary; it is played on every text.
    """
    if len(terms) == 0:
        return ids
    draw = torch.rand(ids.shape, generator=rng, device=ids.device)
    which = torch.randint(len(terms), ids.shape, generator=rng, device=ids.device)
    return torch.where((draw < share) & torch.isin(ids, terms), terms[which], ids)


@dataclass(frozen=True)
class Tricks:
    """The adversary that draws a few tricks for each text and plays the one that the frozen model likes least.

    Args:
        tricks: drawn in turn: draw k is trick k modulo their number.
        draws: how many; the text as it is is one more.
        rng: source of the draws.
        view: how the attack sees the model.
    """

    tricks: tuple[Trick, ...]
    draws: int
    rng: torch.Generator | None = None
    view: View = frozen

    def respond(self, model: nn.Module, batch: Batch) -> Tensor:
        best, y = batch[0], batch[1]
        with self.view(model) as seen, torch.no_grad():
            record = cross_entropy(seen(best), y)
            for k in range(self.draws):
                z = self.tricks[k % len(self.tricks)](batch[0], self.rng)
                value = cross_entropy(seen(z), y)
                wins = value > record
                width = max(z.shape[1], best.shape[1])
                z, best = (F.pad(each, (0, width - each.shape[1]), value=PAD) for each in (z, best))
                best, record = torch.where(wins[:, None], z, best), torch.where(wins, value, record)
        return best


def tricks(
    table: Tensor, pool: Tensor, *, words: float, misspellings: float, append: int, length: int
) -> tuple[Trick, ...]:
    """Misspelling, paraphrase and benign append, with whatever they draw from bound.

    Args:
        table: `[V, T]` substitutes; empty for no paraphrase.
        pool: `[P]` harmless words; empty for no append.
        words, misspellings: share of a text's words, in [0, 1].
        append: words, at most.
        length: of a text, at most.
    """
    found: list[Trick] = [partial(misspelt, share=misspellings)]
    if len(table):
        found.append(lambda ids, rng: drawn(ids, table, words, rng))
    if len(pool) and append:
        found.append(partial(appended, pool=pool, most=append, length=length))
    return tuple(found)
