"""From a run folder back to its model and its data."""

from pathlib import Path
from typing import Any, Literal

from torch import nn

from sparring import trust
from sparring.domains.image import data as image_data
from sparring.domains.image import models as image_models
from sparring.domains.image.source import DataError, Dataset
from sparring.engine import checkpoint, record


def load(
    run: str | Path, *, model: nn.Module | str | None = None, weights: Literal["best", "last"] = "best"
) -> nn.Module:
    """The trained model of a run, in eval mode on the CPU.

    Args:
        run: the run folder.
        model: a module to load the weights into, or `"package.module:factory"` to make one; needed only where the run
            used a factory that this user has not named on this machine, because importing it would run its code.
        weights: the checkpoint with the best robust validation accuracy, or the last.

    Raises:
        RecordError: not a run folder. CheckpointError: no such weights, or they do not fit. ModelError: no such model.
    """
    folder = Path(run)
    facts = record.read(folder)
    if not isinstance(model, nn.Module):
        spec = facts["model"]["spec"] if model is None else model
        if model is None and ":" in spec and spec not in trust.known():
            raise image_models.ModelError(
                f"The run {folder} names the model factory {spec!r}, which you have not used here. If you trust it, "
                f"pass it: --model {spec}, or sparring.load(run, model={spec!r})."
            )
        model = make_model(spec, facts)
    checkpoint.load_weights(folder / f"{weights}.safetensors", model)
    return model.eval()


def make_model(spec: str, facts: record.Record) -> nn.Module:
    """The untrained model of a spec, for the data set that a record describes."""
    shape, classes = tuple(facts["data"]["shape"]), len(facts["data"]["classes"])
    if ":" in spec:
        return image_models.from_factory(spec, shape, classes)
    return image_models.build(spec, shape, classes, facts["data"]["mean"], facts["data"]["std"])


def load_data(facts: record.Record, root: Path | None) -> Dataset:
    """The data set of a run. Raises DataError where what is found now is not what the run saw."""
    data = image_data.load(facts["data"]["name"], root or facts.get("data_root"), facts["data"]["size"])
    if data.fingerprint != facts["data"]["fingerprint"]:
        raise DataError(
            f"The data set {data.name} must be what the run saw (fingerprint {facts['data']['fingerprint'][:12]}). "
            f"Found {data.fingerprint[:12]}."
        )
    return data


def describe_data(data: Dataset, size: int | None) -> dict[str, Any]:
    """A data set as a record names it."""
    return {
        "name": data.name,
        "size": size,
        "classes": list(data.classes),
        "shape": list(data.shape),
        "train": len(data.train),
        "test": len(data.test),
        "mean": list(data.mean),
        "std": list(data.std),
        "fingerprint": data.fingerprint,
    }
