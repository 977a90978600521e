"""What a method offers: the record that closes every file of `sparring.systems`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sparring.core.game import Game
from sparring.core.threat import Threat
from sparring.engine.training import Training


@dataclass(frozen=True)
class System:
    """One method.

    Args:
        name: as on the command line.
        config: the frozen dataclass of the method's own scalars.
        game: `game(config, *, model, optimizer=None, threat=None, tools=Tools()) -> Game`.
        threat: what a configuration trains against, and is measured against.
        citation: BibTeX of what a run of it uses.
        training: the outer half's defaults.
        card: the method card, which is the docstring of the method's file.
    """

    name: str
    config: type[Any]
    game: Callable[..., Game]
    threat: Callable[[Any], Threat]
    citation: str
    card: str
    training: Training = field(default_factory=Training)
