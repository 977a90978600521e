"""Maps of importance as small PNGs: pale where a pixel counts for nothing, orange for the answer, blue against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparring.report.images import Array, uri
from sparring.report.tensors import STATES

SHOWN = 6
"""Examples of one run at most: the first ones, which were drawn at random when they were stored."""

NOTHING, FOR, AGAINST = (
    np.array([0.965, 0.955, 0.93]),
    np.array([[0.98, 0.72, 0.38], [0.86, 0.33, 0.05], [0.42, 0.08, 0.0]]),
    np.array([[0.53, 0.73, 0.90], [0.13, 0.42, 0.72], [0.02, 0.13, 0.38]]),
)
"""Colours of a weight of 0, and of 1/3, 2/3 and 1 of the largest: lightness falls alike on both sides, so that a map
can be read without seeing the hue, on a light and on a dark page."""


@dataclass(frozen=True)
class Explained:
    """One example: images by state, and maps by method and state, as data URIs."""

    label: int
    images: Mapping[str, str]
    maps: Mapping[tuple[str, str], str]


def draw(stored: Mapping[str, Array], methods: Sequence[str]) -> list[Explained]:
    """The first stored examples as pictures, with the maps of these methods."""
    images = {"clean": stored["x"], "attacked": stored["z"]}
    return [
        Explained(
            label=int(stored["y"][row]),
            images={state: uri(finite(images[state][row])) for state in STATES},
            maps={(name, state): coloured(stored[f"{name}/{state}"][row]) for name in methods for state in STATES},
        )
        for row in range(min(SHOWN, len(stored["y"])))
    ]


def coloured(weights: Array) -> str:
    """A map `[H, W]` as a PNG data URI, on a scale from minus to plus its largest absolute value."""
    weights = finite(weights)
    largest = np.abs(weights).max()
    share = weights / largest if largest > 0 else weights
    return uri(_colours(share).transpose(2, 0, 1))


def _colours(share: Array) -> Array:
    """Weights in [-1, 1] as colours in [0, 1], one more axis."""
    stops = np.linspace(0, 1, 4)
    sides = []
    for colours in (FOR, AGAINST):
        ramp = np.vstack([NOTHING, colours])
        sides.append(np.stack([np.interp(np.abs(share), stops, ramp[:, channel]) for channel in range(3)], axis=-1))
    found: Array = np.where((share >= 0)[..., None], sides[0], sides[1])
    return found


def finite(values: Array) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The same values in float64, with 0 for NaN and infinities."""
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
