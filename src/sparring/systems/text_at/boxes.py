"""IBP over substitutions: all texts that substitutes can make lie in one box of embeddings, their logits in another.

    box_i = [ min_j e(c_ij), max_j e(c_ij) ],   loss = kappa L(f(x), y) + (1 - kappa) L(worst logits over the box, y)

Jia, Raghunathan, Goksel, Liang, "Certified robustness to adversarial word substitutions", EMNLP 2019; Huang et al.,
"Achieving verified robustness to symbol substitutions via interval bound propagation", EMNLP 2019. The box allows every
word to change at once, so what is certified holds for any number of exchanged words.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core import interval
from sparring.core.game import Batch, Payoff
from sparring.core.payoff import cross_entropy
from sparring.core.players import Objective
from sparring.core.traced import UnsupportedError
from sparring.domains.text.embedded import parts
from sparring.domains.text.models import BagOfWords, Convolution, mean
from sparring.systems.text_at.hull import corners
from sparring.systems.text_at.offsets import bare, clean_logits, embed
from sparring.systems.text_at.substitutes import choices


def box(model: nn.Module, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The least box around the embeddings of candidates `[B, L, T]` at each position, two embedded texts. What stands
    for a word is one of them; the same id may be there more than once."""
    around = corners(model, candidates)
    return around.amin(2), around.amax(2)


def margins(model: nn.Module, low: Tensor, high: Tensor, y: Tensor) -> Tensor:
    """Lower bounds on logits_y - logits_k over a box of embedded texts, `[B, K]`, of the model in eval mode.

    Args:
        model: a bag of words or a convolution of `sparring.domains.text.models`: the mean and the maximum over real
            tokens, which are the same all over the box, rise with every input, so each end of the box gives an end.
        low, high: corners `[B, L, D + 1]`, their last channels equal.
        y: classes `[B]`.

    Raises:
        UnsupportedError: for any other model. Attention multiplies two boxes, and the bounds of that are vacuous.
    """
    network = bare(model)
    if isinstance(network, BagOfWords):
        bottom, top = (mean(*parts(network.embedding, end)) for end in (low, high))
        return interval.margin_bounds(network.layers, bottom, top, y)
    if isinstance(network, Convolution):
        (bottom, real), (top, _) = (parts(network.embedding, end) for end in (low, high))
        layer = network.convolution
        centre = layer((bottom + top).transpose(1, 2) / 2)
        radius = F.conv1d((top - bottom).transpose(1, 2) / 2, layer.weight.abs(), padding=layer.padding)
        bottom, top = ((F.relu(end) * real[:, None]).amax(2) for end in (centre - radius, centre + radius))
        return interval.margin_bounds(nn.Sequential(network.head), bottom, top, y)
    raise UnsupportedError(
        f"Bounds over substitutions exist for the models bow and cnn. Got {type(network).__name__} instead."
    )


def worst_loss(model: nn.Module, ids: Tensor, y: Tensor, table: Tensor, share: float = 1.0) -> Tensor:
    """The largest cross-entropy that the bounds allow, `[B]`, with the box shrunk towards the text to a share of it."""
    low, high = box(model, choices(ids, table)[0])
    if share < 1:
        x = embed(model, ids)
        low, high = x + share * (low - x), x + share * (high - x)
    return interval.worst_cross_entropy(margins(model, low, high, y))


def objective(table: Tensor, stage: Callable[[], tuple[float, float]]) -> Objective:
    """kappa L(f(x), y) + (1 - kappa) worst loss, with `stage() -> (share of the box, kappa)`."""

    def mixed(model: nn.Module, _: Tensor, batch: Batch) -> Tensor:
        share, kappa = stage()
        clean = cross_entropy(clean_logits(model, batch), batch[1])
        if kappa == 1:
            return clean
        return kappa * clean + (1 - kappa) * worst_loss(model, batch[0], batch[1], table, share)

    return mixed


def payoff(table: Tensor) -> Payoff:
    """The largest cross-entropy over the whole box."""
    return lambda model, _, batch: worst_loss(model, batch[0], batch[1], table)


@torch.no_grad()
def certified(model: nn.Module, candidates: Tensor, y: Tensor) -> Tensor:
    """Whether no choice among the candidates `[B, L, T]` of each position changes the prediction from y, `[B]` bool."""
    low, high = box(model, candidates)
    bounds = margins(model, low, high, y)
    others = bounds.scatter(1, y[:, None], torch.inf)
    return others.amin(1) > 0
