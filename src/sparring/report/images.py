"""Adversarial examples as small PNGs inside the page: the image, what was added to it, and the two together."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

SHOWN = 9
"""Examples of one run at most."""

LARGEST = 64
"""Pixels along an image's longer side; a larger one is shown reduced, which keeps a page of photographs small."""


@dataclass(frozen=True)
class Example:
    """One attacked example. Images are data URIs; the labels are class numbers, confidences in [0, 1]."""

    row: int
    clean: str
    change: str
    attacked: str
    label: int
    clean_prediction: int
    attacked_prediction: int
    clean_confidence: float
    attacked_confidence: float


@dataclass(frozen=True)
class Grid:
    """The examples drawn from k stored ones.

    Args:
        examples: in stored order.
        stored: how many there were to draw from.
        factor: what the perturbation was multiplied with before it was drawn around mid-grey.
        reduced: whether the images are shown smaller than they are.
        averaged: whether channels were averaged, for images with neither one nor three.
    """

    examples: Sequence[Example]
    stored: int
    factor: int
    reduced: bool
    averaged: bool


def draw(tensors: Mapping[str, Array], seed: int) -> Grid:
    """Draw examples at random, blind to what became of them, and turn them into pictures."""
    x, z = (np.nan_to_num(tensors[name].astype(np.float64)) for name in ("x", "z"))
    k, channels, height, width = x.shape
    rows = sorted(np.random.default_rng(seed).permutation(k)[:SHOWN].tolist())
    factor = _factor(float(np.abs(z - x).max()))

    def example(row: int) -> Example:
        return Example(
            row=row,
            clean=uri(x[row]),
            change=uri(0.5 + factor * (z[row] - x[row])),
            attacked=uri(z[row]),
            label=int(tensors["y"][row]),
            clean_prediction=int(tensors["clean_prediction"][row]),
            attacked_prediction=int(tensors["adversarial_prediction"][row]),
            clean_confidence=float(tensors["clean_confidence"][row]),
            attacked_confidence=float(tensors["adversarial_confidence"][row]),
        )

    return Grid([example(row) for row in rows], k, factor, max(height, width) > LARGEST, channels not in (1, 3))


def _factor(largest: float) -> int:
    """The largest round factor that keeps the largest change within what grey leaves room for, 0.5."""
    return max((f for f in (1, 2, 3, 5, 10, 15, 20, 30, 50) if f * largest <= 0.5), default=1)


def uri(image: Array) -> str:
    """A `[C, H, W]` image in [0, 1] as a PNG data URI."""
    if image.shape[0] not in (1, 3):
        image = image.mean(axis=0, keepdims=True)
    levels = (image.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
