"""Sparring: train models against the worst an adversary can do, and prove how much that helped.

Names are imported when they are first used, so that `import sparring` and `sparring --help` load nothing heavy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring import systems as systems
    from sparring.core.attack import best_of as best_of
    from sparring.core.attack import restarts as restarts
    from sparring.core.compose import Intersection as Intersection
    from sparring.core.compose import Masked as Masked
    from sparring.core.compose import Union as Union
    from sparring.core.game import Game as Game
    from sparring.core.game import play as play
    from sparring.core.pgd import fgsm as fgsm
    from sparring.core.pgd import pgd as pgd
    from sparring.core.threat import L1 as L1
    from sparring.core.threat import L2 as L2
    from sparring.core.threat import Linf as Linf
    from sparring.evaluation.evaluate import Evaluation as Evaluation
    from sparring.evaluation.evaluate import evaluate as evaluate
    from sparring.runs import load as load

__version__ = "0.1.0"

_HOME = {
    "Evaluation": "sparring.evaluation.evaluate",
    "Game": "sparring.core.game",
    "Intersection": "sparring.core.compose",
    "L1": "sparring.core.threat",
    "L2": "sparring.core.threat",
    "Linf": "sparring.core.threat",
    "Masked": "sparring.core.compose",
    "Union": "sparring.core.compose",
    "best_of": "sparring.core.attack",
    "evaluate": "sparring.evaluation.evaluate",
    "fgsm": "sparring.core.pgd",
    "load": "sparring.runs",
    "pgd": "sparring.core.pgd",
    "play": "sparring.core.game",
    "restarts": "sparring.core.attack",
    "systems": "sparring",
}

__all__ = [  # noqa: RUF022 - classes, then functions, then packages
    "Evaluation",
    "Game",
    "Intersection",
    "L1",
    "L2",
    "Linf",
    "Masked",
    "Union",
    "best_of",
    "evaluate",
    "fgsm",
    "load",
    "pgd",
    "play",
    "restarts",
    "systems",
]


def __getattr__(name: str) -> Any:
    if name == "systems":
        return importlib.import_module("sparring.systems")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'sparring' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
