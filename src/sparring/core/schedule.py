"""Schedules: functions of training progress in [0, 1] that return a factor. Learning rates and curricula share them."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


class Progress:
    """A number in [0, 1] that whoever drives the training moves, and that schedules read."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def __call__(self) -> float:
        return self.value


def constant(progress: float) -> float:  # noqa: ARG001
    """Always 1."""
    return 1.0


def piecewise(progress: float) -> float:
    """1, then 0.1 from half way, then 0.01 from three quarters: the drops of Rice et al., "Overfitting in
    adversarially robust deep learning", 2020 (epochs 100 and 150 of 200)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov & Hutter, "SGDR", 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float, peak: float = 0.3) -> float:
    """Linearly up to 1 at `peak`, then linearly down to 0: Wong et al., "Fast is better than free", 2020."""
    return progress / peak if progress < peak else (1 - progress) / (1 - peak) if peak < 1 else 1.0


def ramp(progress: float, until: float, start: float = 0.1) -> float:
    """From `start` linearly up to 1 at progress `until`, then 1: a curriculum. `until=0` is no curriculum."""
    return 1.0 if progress >= until else start + (1 - start) * progress / until


SCHEDULES: tuple[tuple[str, Schedule], ...] = (
    ("constant", constant),
    ("piecewise", piecewise),
    ("cosine", cosine),
    ("one-cycle", one_cycle),
)
"""The names that a command line uses."""
