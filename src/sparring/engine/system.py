"""What a method offers: the record that closes every file of `sparring.systems`, and what the method promises."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from sparring.core.game import Game
from sparring.core.threat import Threat
from sparring.engine.training import Training

Scalar = int | float | str | bool | None
Changes = tuple[tuple[str, Scalar], ...]
"""Fields of a frozen record and the values they are given: `(("steps", 5), ("eps_warmup", 0.3))`."""


@dataclass(frozen=True)
class Settings:
    """What is spent on putting a promise to the test.

    Args:
        data: the data set.
        epochs: of the baseline; None is the data set's recipe.
        seeds: runs of each arm.
        suite: attacks of the evaluation, as `sparring evaluate --suite` names them.
        examples: training images; 0 uses all.
        n: test images; 0 uses all.
        arms: how long the method trains: with the baseline's epochs, with its seconds, or each.
        controls: labels of the promise's controls to train as well; None is all of them.
    """

    data: str = "digits"
    epochs: int | None = None
    seeds: int = 5
    suite: str = "standard"
    examples: int = 0
    n: int = 1000
    arms: tuple[str, ...] = ("equal-epochs", "equal-time")
    controls: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Control:
    """A further way to train, which tells what the gain of a method is due to; with the baseline's epochs.

    Args:
        label: as a reader calls it.
        system: its name.
        config, training: fields that differ from the defaults.
        against: label of the control that it is held against instead of the baseline.
    """

    label: str
    system: str
    config: Changes = ()
    training: Changes = ()
    against: str = ""


@dataclass(frozen=True)
class Promise:
    """What a method promises against a baseline, as plain data that `sparring reproduce` turns into runs.

    The default is what every training method owes its user: at equal wall-clock, at least as robust as PGD-AT.

    Args:
        question: in words.
        baseline: the system it is held against. A system that is its own baseline, unchanged, is held against
            standard training instead.
        config, training: fields of the method's configuration and training that differ from the defaults.
        baseline_config, baseline_training: the same of the baseline.
        baseline_label: as a reader calls it; by default the system's name.
        controls: further arms, each held against the baseline and the method against each.
        decisive: label of the control that the method has to beat too: a gain that this control has as well is not the
            method's own, and the promise is then not kept. Empty where there is none.
        measures: what else is measured of every run, names of `sparring.commands.measures`.
        metric: a share in [0, 1]; "overfitting gap" is the best checkpoint's robust accuracy minus the last one's.
        direction: whether a higher or a lower metric is better.
        arm: the method with the baseline's epochs, or with as many as take the baseline's seconds.
        least_effect: by how much at least the method is better, as a share; a negative one allows it to be that much
            worse. With 0, two equal methods end inconclusive.
        quick, full: what is spent, with and without `--quick`.
    """

    question: str = "At equal wall-clock, is it at least as robust as PGD-AT?"
    baseline: str = "pgd-at"
    config: Changes = ()
    training: Changes = ()
    baseline_config: Changes = ()
    baseline_training: Changes = ()
    baseline_label: str = ""
    controls: tuple[Control, ...] = ()
    decisive: str = ""
    measures: tuple[str, ...] = ()
    metric: Literal["robust accuracy", "clean accuracy", "overfitting gap"] = "robust accuracy"
    direction: Literal["higher", "lower"] = "higher"
    arm: Literal["equal-epochs", "equal-time"] = "equal-time"
    least_effect: float = 0.0
    quick: Settings = Settings(epochs=12, seeds=3, suite="quick", n=300)
    full: Settings = Settings()


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
        claim: what the method promises; `sparring reproduce NAME` puts it to the test.
        domain: the field whose data it trains on.
        masks: whether a configuration trains with foreground masks: its batches are `(x, y, masks)`.
    """

    name: str
    config: type[Any]
    game: Callable[..., Game]
    threat: Callable[[Any], Threat]
    citation: str
    card: str
    training: Training = field(default_factory=Training)
    claim: Promise = Promise()
    masks: Callable[[Any], bool] = lambda _: False
    domain: Literal["image", "flow", "text", "chat"] = "image"
