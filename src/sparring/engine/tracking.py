"""A run's curves in somebody's experiment tracker, beside its own record, which holds the same numbers.

Logged: the configuration as hyper-parameters, and after every epoch the loss, the learning rate, the seconds and the
clean and robust accuracy on the images held out. A resumed run goes on in the same place.
"""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from sparring.engine import checkpoint

Name = Literal["none", "tensorboard", "mlflow", "wandb"]

NOTE = "tracking.json"
"""Where a run folder says which run of a tracker is its own."""


class Tracker(Protocol):
    """What a tracker is told."""

    def log(self, metrics: dict[str, float], step: int) -> None: ...
    def close(self, *, done: bool) -> None: ...


class Silent:
    """Nobody is told."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Nothing."""

    def close(self, *, done: bool) -> None:
        """Nothing."""


class TensorBoard:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger

        self._logger = TensorBoardLogger(folder, name="tensorboard", version="")
        self._logger.log_hyperparams(parameters)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """One point of every curve."""
        self._logger.log_metrics(metrics, step)
        self._logger.save()

    def close(self, *, done: bool) -> None:
        """Write what is left."""
        self._logger.finalize("success" if done else "aborted")


class MLflow:
    """An MLflow run, in the tracking server or folder that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        import mlflow

        known = _noted(folder).get("mlflow")
        mlflow.set_experiment("sparring")
        self._mlflow = mlflow
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=folder.name)
        if not known:
            _note(folder, "mlflow", run.info.run_id)
            mlflow.log_params(parameters)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """One point of every curve."""
        self._mlflow.log_metrics(metrics, step=step)

    def close(self, *, done: bool) -> None:
        """End the run."""
        self._mlflow.end_run("FINISHED" if done else "KILLED")


class WandB:
    """A Weights & Biases run; WANDB_MODE=offline writes it into the run folder only."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        import wandb

        known = _noted(folder).get("wandb")
        self._run = wandb.init(
            project="sparring", name=folder.name, dir=str(folder), config=parameters, id=known, resume="allow"
        )
        _note(folder, "wandb", self._run.id)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """One point of every curve."""
        self._run.log(metrics, step=step)

    def close(self, *, done: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if done else 1)


TRACKERS: tuple[tuple[str, Callable[[Path, dict[str, Any]], Tracker]], ...] = (
    ("tensorboard", TensorBoard),
    ("mlflow", MLflow),
    ("wandb", WandB),
)


def tracker(name: Name, folder: Path, parameters: dict[str, Any]) -> Tracker:
    """What a name stands for, opened for the run in a folder.

    Args:
        name: none, tensorboard, mlflow or wandb.
        folder: of the run.
        parameters: hyper-parameters, nested dicts of scalars; nested names are joined by a dot.

    Raises:
        ImportError: as `check`.
    """
    check(name)
    return Silent() if name == "none" else dict(TRACKERS)[name](folder, flat(parameters))


def check(name: Name) -> None:
    """Raises ImportError where a tracker's package is not installed, naming the extra that brings it."""
    if name != "none" and find_spec(name) is None:
        raise ImportError(f"--log {name} needs the extra '{name}': pip install 'sparring[{name}]'.")


def flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def _noted(folder: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return {}
    return known


def _note(folder: Path, name: str, run: str) -> None:
    checkpoint.write(folder / NOTE, json.dumps({**_noted(folder), name: run}).encode())
