"""Words by the classes that they occur in: harmless words to append, and words that mark a class.

A word counts once in each text that holds it. With d_k of the n_k texts of class k, its rate there is
(d_k + 1) / (n_k + 2).
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sparring.domains.text.words import Text


def neutral(strings: Sequence[str], y: Tensor, count: int, *, least: int = 20) -> tuple[str, ...]:
    """The words that say least about the class: those whose largest and smallest rates are nearest, the nearest first.

    Args:
        strings: texts.
        y: their classes, `[N]`.
        count: words, at most.
        least: texts that a word is in, at least; only words of letters are taken.
    """
    rates = _rates(strings, y, least)
    spread = {word: max(each) - min(each) for word, each in rates.items()}
    return tuple(sorted(spread, key=lambda word: (spread[word], word))[:count])


def marking(strings: Sequence[str], y: Tensor, label: int, count: int, *, least: int = 20) -> tuple[str, ...]:
    """The words that say most for a class: those whose rate is highest beside that in the other classes together.

    Args:
        strings, y, count, least: as for `neutral`.
        label: the class.
    """
    rates = _rates(strings, (y == label).long(), least)
    lean = {word: each[1] - each[0] for word, each in rates.items()}
    return tuple(sorted(lean, key=lambda word: (-lean[word], word))[:count])


def _rates(strings: Sequence[str], y: Tensor, least: int) -> dict[str, list[float]]:
    """The logarithm of each word's rate in every class."""
    classes = int(y.max()) + 1
    held = [Counter[str]() for _ in range(classes)]
    for string, label in zip(strings, y.tolist(), strict=True):
        held[label].update({word.lower() for word in Text.of(string).words})
    total = Counter[str]()
    for each in held:
        total.update(each)
    sizes = torch.bincount(y, minlength=classes).tolist()
    return {
        word: [math.log((each[word] + 1) / (size + 2)) for each, size in zip(held, sizes, strict=True)]
        for word, n in total.items()
        if n >= least and word.isalpha()
    }
