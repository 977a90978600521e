"""What the command line starts from on each data set: the radius that the field uses there, and a training recipe.

Any flag overrides its part. From Python nothing is guessed: `Config` and `Training` have one default each.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sparring.domains.image.data import customary
from sparring.engine.training import Training

_CIFAR = Training(
    epochs=30,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,  # Pang et al., "Bag of tricks for adversarial training", 2021: the value that matters most
    augment="pad-crop-flip",
)
_IDX = Training(epochs=14, batch_size=128, validation=0.02, validation_steps=20)

RECIPES = (
    ("digits", Training(epochs=60, learning_rate=8e-3)),
    ("mnist", _IDX),
    ("fashion-mnist", _IDX),
    ("cifar10", _CIFAR),
    ("cifar100", _CIFAR),
)
"""Data sets whose recipe is not `Training()`; digits and mnist are measured in docs/results.md."""

ONE_WAY_ROUND = ("digits", "mnist", "digits-on-textures", "mnist-on-textures")
"""Data sets whose images mean something else in a mirror, or nothing: augmentation that flips elsewhere does not."""


def starting_point(config: Any, training: Training, arguments: Sequence[str]) -> tuple[Any, Training]:
    """The defaults of config and training for the `--data` and `--threat` that a command line names."""
    data = _value(arguments, "--data", "digits")
    config = replace(config, threat=_value(arguments, "--threat", config.threat))
    radii = customary(data)
    fields = {"eps": radii.get("linf" if config.threat == "union" else config.threat, config.eps)}
    fields |= {f"eps_{norm}": eps for norm, eps in radii.items() if hasattr(config, f"eps_{norm}")}  # a union's others
    recipe = dict(RECIPES).get(data, training)
    if replays := getattr(config, "replays", 0):  # each epoch is that many passes
        recipe = replace(recipe, epochs=math.ceil(recipe.epochs / replays))
    return replace(config, **fields), recipe


def _value(arguments: Sequence[str], flag: str, default: str) -> str:
    """The last value given to a flag, before the command line is parsed."""
    value = default
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            value = arguments[i + 1]
        elif word.startswith(f"{flag}="):
            value = word.removeprefix(f"{flag}=")
    return value
