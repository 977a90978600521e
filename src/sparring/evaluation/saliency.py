"""Maps of what a classifier's answer rests on, how alike two maps are, and how much of one lies where it should.

Attributions to pixels come from Captum (the extra `explain`), Grad-CAM from the core. A map being stable under attack
is no merit by itself: a constant map is perfectly stable. See `sparring.evaluation.explanations`, which never reports
the one without the other.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core import cam
from sparring.core.gradient import frozen
from sparring.core.standing import check_count
from sparring.evaluation.faithfulness import Fill, black

Method = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""`method(model, x [B, ...], target [B]) -> [B, ...]`: the attribution of every input number, model frozen."""


class ExplanationError(ValueError):
    """A method says that it has nothing to say about a model of this kind. The message is why, as a clause."""


def gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """|d logit_target / dx|, the shape of x: Simonyan et al., "Deep inside convolutional networks", 2014, section 3."""
    attribution: Tensor = _captum().Saliency(model).attribute(x.detach().clone().requires_grad_(), target=target)
    return attribution.detach()


def integrated_gradients(
    model: nn.Module, x: Tensor, target: Tensor, *, baseline: Fill = black, steps: int = 32, batch_size: int = 256
) -> Tensor:
    """(x - x0) times the mean of d logit_target / dx on the straight line from x0 to x, the shape of x.

    Sundararajan et al., "Axiomatic attribution for deep networks", 2017, eq. 1: signed, and summing over all of x to
    logit_target(x) - logit_target(x0) up to the error of the quadrature. It is zero wherever x is its baseline: from
    black, the energy inside a mask of bright ink says more about the ink than about the model.

    Args:
        model: `[B, ...] -> [B, K]` logits.
        x: inputs `[B, ...]`.
        target: the explained class `[B]`.
        baseline: gives x0, the input without evidence, from x; black by default.
        steps: nodes of the Gauss-Legendre quadrature.
        batch_size: inputs at a time, of the B x steps in all; at least B.
    """
    check_count("steps", steps)
    x = x.detach()
    method = _captum().IntegratedGradients(model)
    attribution: Tensor = method.attribute(
        x, baseline(x), target=target, n_steps=steps, internal_batch_size=max(len(x), batch_size)
    )
    return attribution.detach()


def grad_cam(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM of the model's last feature map, at least 0, the shape of x: each channel has its equal part of the map.

    `sparring.core.cam` gives the map and says which layer counts as the last; from its h x w it is interpolated
    bilinearly to the pixels of x, so nothing in it is finer than a cell of the feature map.

    Args:
        model: `[B, C, H, W] -> [B, K]` logits.
        x: images `[B, C, H, W]`.
        target: the explained class `[B]`.

    Raises:
        ExplanationError: where the inputs are no images, or no module of the model answers with a feature map.
    """
    if x.dim() != 4:
        raise ExplanationError(f"Grad-CAM needs images [B, C, H, W], and inputs here are {['B', *x.shape[1:]]}")
    try:
        name = cam.last_map(model, x[:1])
    except ValueError:
        raise ExplanationError("Grad-CAM needs a feature map, and no module of this model answers with one") from None
    _, coarse = cam.grad_cam(model, x, target, cam.layer_of(model, name))
    fine = F.interpolate(coarse[:, None], size=x.shape[2:], mode="bilinear", align_corners=False)
    return fine.expand_as(x) / x.shape[1]


METHODS: tuple[tuple[str, Method], ...] = (
    ("gradient", gradient),
    ("integrated-gradients", integrated_gradients),
    ("grad-cam", grad_cam),
)


def saliency(
    model: nn.Module, x: Tensor, target: Tensor, method: Method = gradient, *, batch_size: int = 256
) -> Tensor:
    """One map for each example: the method's attributions, summed over channels.

    The sum keeps what the methods promise: a map of integrated gradients still adds up to the difference of the logits,
    with evidence against the target below zero. (Simonyan et al. take the largest channel instead.)

    Args:
        model: `[B, ...] -> [B, K]` logits; asked in eval mode and without parameter gradients, left as it was.
        x: inputs `[B, C, *space]` or `[B, n]`.
        target: the class to explain `[B]`.
        method: what attributes; bind its parameters with `functools.partial`.
        batch_size: examples at a time.

    Returns:
        `[B, *space]` or `[B, n]`, in float32 or wider.

    Raises:
        ImportError: where Captum is not installed and the method needs it.
        ExplanationError: where the method has nothing to say about such a model.
    """
    check_count("batch_size", batch_size)
    if len(x) == 0:
        return x.new_zeros(0, *(x.shape[2:] if x.dim() > 2 else x.shape[1:]))
    with frozen(model):
        parts = [method(model, *part) for part in zip(x.split(batch_size), target.split(batch_size), strict=True)]
    attribution = torch.cat(parts)
    attribution = attribution.to(torch.promote_types(attribution.dtype, torch.float32))
    return attribution.sum(1) if x.dim() > 2 else attribution


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """The cosine between two maps of each example, `[B]` in [-1, 1]; two maps of zeros count as equal."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    size = a.norm(dim=1) * b.norm(dim=1)
    alike = (a * b).sum(1) / torch.where(size > 0, size, 1.0)
    return torch.where(size > 0, alike.clamp(-1, 1), (a == b).all(1).double())


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """The correlation between the ranks in two maps of each example, `[B]` in [-1, 1]; equal values share their mean
    rank, and two maps that are constant count as equal (Spearman, "The proof and measurement of association", 1904)."""
    a, b = (_mean_ranks(maps.flatten(1)) for maps in (first, second))
    return cosine(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))


def top_intersection(first: Tensor, second: Tensor, share: float = 0.1) -> Tensor:
    """Which part of the most important pixels two maps have in common, `[B]` in [0, 1].

    |top(first) & top(second)| / |top|, after Ghorbani et al., "Interpretation of neural networks is fragile", 2019.

    Args:
        first, second: maps `[B, *space]`.
        share: of the pixels that count as the top, in (0, 1]; equal values in their order of place.
    """
    if not 0 < share <= 1:
        raise ValueError(f"The 'share' parameter must be a number in the range (0, 1]. Got {share!r} instead.")
    k = max(1, round(share * first[0].numel())) if len(first) else 1
    tops = []
    for maps in (first.flatten(1), second.flatten(1)):
        best = maps.argsort(dim=1, descending=True, stable=True)[:, :k]
        tops.append(torch.zeros_like(maps, dtype=torch.bool).scatter(1, best, True))
    return (tops[0] & tops[1]).sum(1).double() / k


def energy_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """How much of what speaks for the class lies inside the mask, `[B]` in [0, 1].

    sum_inside max(m, 0) / sum max(m, 0): the energy-based pointing game of Wang et al., "Score-CAM", 2020, section 4.3.
    A map without anything positive has the mask's own share of the pixels, as a constant map has.

    Args:
        maps: `[B, *space]`.
        mask: the foreground, bool `[B, *space]`.
    """
    flat, inside = maps.flatten(1).double().clamp(min=0), mask.flatten(1).double()
    total = flat.sum(1)
    return torch.where(total > 0, (flat * inside).sum(1) / torch.where(total > 0, total, 1.0), inside.mean(1))


def pointing(maps: Tensor, mask: Tensor) -> Tensor:
    """Whether the map's highest pixel is inside the mask, `[B]`; of several highest, which share of them is.

    The pointing game of Zhang et al., "Top-down neural attention by excitation backprop", 2016, without its margin of
    15 pixels. Arguments as for `energy_inside`.
    """
    flat = maps.flatten(1)
    highest = (flat == flat.amax(1, keepdim=True)).double()
    return (highest * mask.flatten(1).double()).sum(1) / highest.sum(1)


def _mean_ranks(flat: Tensor) -> Tensor:
    """Ranks from 0.5, each value's mean over its equals, `[B, n]`."""
    ordered = flat.sort(dim=1).values
    below = torch.searchsorted(ordered, flat.contiguous())
    upto = torch.searchsorted(ordered, flat.contiguous(), right=True)
    return (below + upto).double() / 2


def _captum() -> Any:
    try:
        return import_module("captum.attr")
    except ImportError as error:
        raise ImportError("Attributions need captum. pip install 'sparring[explain]'") from error
