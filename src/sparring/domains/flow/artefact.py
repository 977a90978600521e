"""A detector as one file: weights, fitted preprocessing, threshold, and what explains an alarm. Nothing is pickled.

The file is safetensors. Its tensors are `classifier.*`, `reference` and, for each further layer, `layers.K.*`; its
metadata has one entry, `sparring.detector`, which is JSON:

    format           1
    spec             name of the classifier: one that `models.build` takes, or stack
    preprocessing    as `Preprocessing.to_dict` gives it, with the schema
    threshold        a flow whose score is above it is an attack
    false_positives  share of held-out benign flows that the threshold was fixed at
    layers           [{"name", "threshold"}, ...]: asked in turn about what the layers before them let pass
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from sparring.domains.flow import models, stack
from sparring.domains.flow.preprocessing import Preprocessing

FILE = "detector.safetensors"
"""Its name in a run folder."""

FORMAT = 1
"""Of the metadata."""

KEY = "sparring.detector"
"""The entry of the safetensors metadata."""

LAYERS = ("autoencoder",)
"""What can stand behind the classifier."""


class ArtefactError(ValueError):
    """A file that is no detector, or a detector whose parts do not fit together."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What is asked about a flow that the classifier lets pass.

    Args:
        name: autoencoder: a flow whose mean squared reconstruction error is above the threshold is an attack.
        model: `[B, d] -> [B, d]`.
        threshold: on that error.
    """

    name: str
    model: nn.Module
    threshold: float


@dataclass(frozen=True, eq=False)
class Detector:
    """A classifier of flows with all that it needs to answer about a file.

    Args:
        spec: name of the classifier (`models.SPECS`, or `stack.SPEC`).
        model: the classifier, `[B, d] -> [B, 2]` logits of benign and malicious.
        preprocessing: from rows to vectors `[N, d]`.
        threshold: a flow whose probability of malicious is above it is an attack.
        false_positives: share of held-out benign flows that the threshold was fixed at, in (0, 1).
        reference: the mean benign training vector, float32 `[d]`: what contributions to a score are measured from.
        layers: asked in turn about the flows that everything before them let pass.

    Raises:
        ArtefactError: where the parts do not fit together or hold numbers that are not finite.
    """

    spec: str
    model: nn.Module
    preprocessing: Preprocessing
    threshold: float
    false_positives: float
    reference: Tensor
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        width = self.preprocessing.width
        if list(self.reference.shape) != [width]:
            raise ArtefactError(f"The 'reference' must have shape [{width}]. Got {list(self.reference.shape)} instead.")
        for value in (self.threshold, *(layer.threshold for layer in self.layers)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise ArtefactError(f"The 'threshold' parameter must be a finite number. Got {value!r} instead.")
        rate = self.false_positives
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
            raise ArtefactError(f"The 'false_positives' parameter must be a number in (0, 1). Got {rate!r} instead.")
        broken = [name for name, tensor in self.tensors().items() if not bool(tensor.isfinite().all())]
        if broken:
            raise ArtefactError(f"Tensors must hold finite numbers. {_listed(broken)} do not.")

    def tensors(self) -> dict[str, Tensor]:
        """All of them, by their names in the file."""
        found = {"reference": self.reference}
        for prefix, part in self._parts():
            found |= {f"{prefix}.{name}": tensor for name, tensor in part.state_dict().items()}
        return found

    def to_bytes(self) -> bytes:
        """The file's content: the same for the same detector."""
        facts = {
            "format": FORMAT,
            "spec": self.spec,
            "preprocessing": self.preprocessing.to_dict(),
            "threshold": float(self.threshold),
            "false_positives": float(self.false_positives),
            "layers": [{"name": layer.name, "threshold": float(layer.threshold)} for layer in self.layers],
        }
        tensors = {name: each.detach().cpu().contiguous().clone() for name, each in self.tensors().items()}
        return save_tensors(tensors, {KEY: json.dumps(facts, allow_nan=False)})

    def _parts(self) -> list[tuple[str, nn.Module]]:
        return [("classifier", self.model), *((f"layers.{k}", layer.model) for k, layer in enumerate(self.layers))]


def to_bytes(
    model: nn.Module,
    *,
    spec: str,
    preprocessing: Preprocessing,
    threshold: float,
    false_positives: float,
    reference: Tensor,
    layers: tuple[Layer, ...] = (),
) -> bytes:
    """The content of a file that `from_bytes` reads; the arguments are those of `Detector`.

    Whoever calls this writes it, atomically: `sparring.engine.checkpoint.write(path, to_bytes(...))`.

    Raises:
        ArtefactError: where the parts do not fit together: the file could not be read back.
    """
    width, state = preprocessing.width, model.state_dict()
    _check_fit("The model", state, _classifier(spec, width, state).state_dict())
    for layer in layers:
        _check_fit(f"The {layer.name}", layer.model.state_dict(), _behind(layer.name, width).state_dict())
    return Detector(spec, model, preprocessing, threshold, false_positives, reference, layers).to_bytes()


def load(path: str | Path) -> Detector:
    """The detector in a file. Raises ArtefactError where there is none, or one that cannot be used."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path} must be a file that holds a detector. {error.strerror}.") from error
    return from_bytes(content, str(path))


def from_bytes(content: bytes, name: str = "the file") -> Detector:
    """The detector in a file's content, its models on the CPU, in evaluation mode, without gradients of weights.

    Args:
        content: of a file.
        name: of the file, for messages.

    Raises:
        ArtefactError: for another format, missing metadata, a preprocessing that cannot be read, or weights that do not
            fit the model or the columns, which are named.
    """
    try:
        tensors = load_tensors(content)
    except SafetensorError as error:
        raise ArtefactError(
            f"{name} is not a whole safetensors file ({error}). Pickled models are not read."
        ) from error
    facts = _facts(content, name)
    try:
        preprocessing = Preprocessing.from_dict(facts["preprocessing"])
        _check_lengths(preprocessing)
        spec, layers = facts["spec"], facts["layers"]
        kept = [(str(each["name"]), each["threshold"]) for each in layers]
        threshold, rate = facts["threshold"], facts["false_positives"]
    except KeyError as error:
        raise ArtefactError(f"{name} lacks {error.args[0]!r} in what it says about its detector.") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{name} holds a preprocessing or layers that cannot be read: {error}") from error
    try:
        model = _classifier(spec, preprocessing.width, _part("classifier", tensors))
        behind = tuple(Layer(layer, _behind(layer, preprocessing.width), at) for layer, at in kept)
        parts: dict[str, nn.Module] = {"classifier": model}
        parts |= {f"layers.{k}": layer.model for k, layer in enumerate(behind)}
        own = {f"{prefix}.{key}": each for prefix, part in parts.items() for key, each in part.state_dict().items()}
        own["reference"] = torch.zeros(preprocessing.width)
        _check_fit("The file", tensors, own)
        for prefix, part in parts.items():
            part.load_state_dict({key: tensors[f"{prefix}.{key}"] for key in part.state_dict()})
        if isinstance(model, stack.Stack):
            model.check(preprocessing.width)
        return Detector(spec, model, preprocessing, threshold, rate, tensors["reference"], behind)
    except (ArtefactError, models.ModelError, stack.StackError) as error:
        raise ArtefactError(f"{name} cannot be used: {error}") from error


def _facts(content: bytes, name: str) -> dict[str, Any]:
    """What the metadata says, of a content that is known to be whole."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header.get("__metadata__", {}).get(KEY)
    if text is None:
        raise ArtefactError(f"{name} holds weights but no detector: its metadata must have {KEY!r}.")
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise ArtefactError(f"{name} says about its detector what is no JSON: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        got = facts.get("format") if isinstance(facts, dict) else facts
        raise ArtefactError(f"{name} must be a detector of format {FORMAT}. Got format {got!r} instead.")
    return facts


def _classifier(spec: str, width: int, state: Mapping[str, Tensor]) -> nn.Module:
    """A model to load this state into; torch's global generator is left as it was."""
    if spec == stack.SPEC:
        return stack.blank(state, width).eval().requires_grad_(False)
    if spec not in models.SPECS:
        known = ", ".join((*models.SPECS, stack.SPEC))
        raise ArtefactError(f"The classifier must be one of {known}. Got {spec!r} instead.")
    with torch.random.fork_rng(devices=[]):
        return models.build(spec, width).eval().requires_grad_(False)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of one part, by their names in it."""
    start = f"{prefix}."
    return {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}


def _behind(name: str, width: int) -> nn.Module:
    """A layer's model to load weights into. Raises ArtefactError for a name that is not in `LAYERS`."""
    if name not in LAYERS:
        raise ArtefactError(f"A layer must be one of {', '.join(LAYERS)}. Got {name!r} instead.")
    with torch.random.fork_rng(devices=[]):
        return models.autoencoder(width).eval().requires_grad_(False)


def _check_lengths(made: Preprocessing) -> None:
    numeric, words = len(made.numeric), len(made.schema.fields) - len(made.numeric)
    if {len(made.low), len(made.high)} != {numeric} or len(made.categories) != words:
        got = f"{len(made.low)}, {len(made.high)} and {len(made.categories)}"
        raise ValueError(f"'low', 'high' and 'categories' must be {numeric}, {numeric} and {words} long. Got {got}.")
    if not all(isinstance(value, int | float) and isfinite(value) for value in (*made.low, *made.high)):
        raise ValueError("'low' and 'high' must be finite numbers.")


def _check_fit(whose: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises ArtefactError naming the tensors that do not fit."""
    wrong = [f"{name} is not in the model" for name in state if name not in own]
    wrong += [f"{name} is missing" for name in own if name not in state]
    wrong += [
        f"{name} is {_shape(state[name])} and must be {_shape(own[name])}"
        for name in own
        if name in state and (state[name].shape, state[name].dtype) != (own[name].shape, own[name].dtype)
    ]
    if wrong:
        raise ArtefactError(f"{whose} has weights that do not fit: {_listed(wrong, '; ')}.")


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _listed(names: list[str], between: str = ", ") -> str:
    return between.join(names[:5]) + (f"{between}and {len(names) - 5} more" if len(names) > 5 else "")
