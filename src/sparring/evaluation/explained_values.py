"""Figures of explanations, example by example: what a paired comparison between models needs.

Every example is explained for its true class, which is the same class for every model, and none is left out. Stability
stands in one table with what a map that says nothing fails at: a constant map is perfectly stable.
"""

import torch
from torch import Tensor, nn

from sparring.core.seeds import derive
from sparring.evaluation.faithfulness import METRICS, ranks
from sparring.evaluation.saliency import Method, cosine, energy_inside, grad_cam, saliency
from sparring.evaluation.ssim import ssim


def explanation_values(
    model: nn.Module,
    x: Tensor,
    z: Tensor,
    y: Tensor,
    masks: Tensor | None = None,
    method: Method = grad_cam,
    *,
    seed: int,
    batch_size: int = 256,
) -> dict[str, Tensor]:
    """By figure, its value for each example, float64 `[N]`.

    `insertion`, `deletion`, `sufficiency`, `comprehensiveness`: of the map of x (see
    `sparring.evaluation.faithfulness`). `stability`, `stability ssim`: the cosine and the structural similarity of the
    maps of x and z. `blank maps`: 1 where the map of x is constant, which says nothing and is stable for free. With
    masks `energy in mask`: of the map of x.

    Args:
        model: `[B, ...] -> [B, K]` logits; asked in eval mode, left as it was.
        x: clean inputs `[N, C, *space]` or `[N, n]`.
        z: the attacked ones; where z equals x the map is as stable as can be.
        y: labels `[N]`, the class of every map and of every probability.
        masks: foreground of each example, bool `[N, *space]`; NaN stands for the energy in an empty one.
        method: what attributes.
        seed: of the order among pixels of equal importance; the same for all models that are compared.
        batch_size: examples at a time.

    Raises:
        ValueError: where a map is not finite.
        ExplanationError: where the method has nothing to say about such a model.
    """
    clean, attacked = (saliency(model, inputs, y, method, batch_size=batch_size) for inputs in (x, z))
    rng = torch.Generator().manual_seed(derive(seed, "order"))
    draw = torch.rand(clean.flatten(1).shape, generator=rng).to(x.device)
    rank = ranks(clean, draw)
    found = {name: metric(model, x, y, rank, batch_size=batch_size) for name, metric, _ in METRICS}
    found |= {"stability": cosine(clean, attacked), "stability ssim": ssim(clean, attacked)}
    flat = clean.flatten(1)
    found["blank maps"] = flat.amax(1) == flat.amin(1)
    if masks is not None:
        there = masks.flatten(1).any(1)
        found["energy in mask"] = torch.where(there, energy_inside(clean, masks), torch.nan)
    return {name: value.double() for name, value in found.items()}
