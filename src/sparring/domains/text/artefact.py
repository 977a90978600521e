"""A text classifier as one file: weights, tokenizer, classes, length, threshold. Nothing is pickled.

The file is safetensors. Its tensors are the model's; its metadata has one entry, `sparring.text`, which is JSON:

    format           1
    spec             name of the classifier, as `models.build` takes it
    classes          their names, in the order of the logits
    length           tokens of a text, at most
    tokenizer        what its `to_bytes` gave, as a string
    folding          whether look-alike letters are undone before the tokenizer reads a text
    threshold        null, or: a text whose probability of the last class is above it is flagged
    false_positives  null, or the share of held-out benign texts that the threshold was fixed at
    neighbours       where the substitutes that it was trained with are from, or null
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from sparring.domains.text import models, tokens
from sparring.domains.text.folding import Folding
from sparring.domains.text.tokens import ByteTokenizer, WordTokenizer

FILE = "classifier.safetensors"
"""Its name in a run folder."""

FORMAT = 1
"""Of the metadata."""

KEY = "sparring.text"
"""The entry of the safetensors metadata."""


class ArtefactError(ValueError):
    """A file that is no text classifier, or one whose parts do not fit together."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier with all that it needs to answer about a string.

    Args:
        spec: its name (`models.SPECS`).
        model: `[B, L]` ids to `[B, K]` logits.
        tokenizer: without the filter.
        classes: K names.
        length: tokens of a text, at most.
        folding: whether strings are folded first (`sparring.domains.text.folding`).
        threshold: on the probability of the last class, or None.
        false_positives: share of held-out benign texts that the threshold was fixed at, in (0, 1), or None.
        neighbours: provenance of the substitutes it was trained with (`Neighbours.describe`), or None.

    Raises:
        ArtefactError: where the parts do not fit together or hold numbers that are not finite.
    """

    spec: str
    model: nn.Module
    tokenizer: WordTokenizer | ByteTokenizer
    classes: tuple[str, ...]
    length: int
    folding: bool = False
    threshold: float | None = None
    false_positives: float | None = None
    neighbours: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("threshold", "false_positives"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)
            ):
                raise ArtefactError(f"The {name!r} parameter must be None or a finite number. Got {value!r} instead.")
        state = self.model.state_dict()
        broken = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise ArtefactError(f"Tensors must hold finite numbers. {', '.join(broken[:5])} do not.")
        own = _empty(self.spec, self.tokenizer, self.classes, self.length).state_dict()
        wrong = [
            name
            for name in {*own, *state}
            if name not in own or name not in state or own[name].shape != state[name].shape
        ]
        if wrong:
            raise ArtefactError(
                f"The weights must be those of the model {self.spec!r} for {self.tokenizer.vocab_size} tokens and "
                f"{len(self.classes)} classes: the tokenizer is another model's, or the weights are. "
                f"{', '.join(sorted(wrong)[:5])} do not fit."
            )

    @property
    def reader(self) -> WordTokenizer | ByteTokenizer | Folding:
        """What strings go through: the tokenizer, behind the filter where there is one."""
        return Folding(self.tokenizer) if self.folding else self.tokenizer

    @torch.no_grad()
    def probabilities(self, strings: Sequence[str], batch_size: int = 256) -> Tensor:
        """Of each class, float64 `[N, K]`."""
        parts = [strings[i : i + batch_size] for i in range(0, len(strings), batch_size)]
        found = [self.model(self.reader.encode(part, self.length)).double().softmax(1) for part in parts]
        return torch.cat(found) if found else torch.empty(0, len(self.classes), dtype=torch.float64)

    def to_bytes(self) -> bytes:
        """The file's content: the same for the same classifier."""
        facts = {
            "format": FORMAT,
            "spec": self.spec,
            "classes": list(self.classes),
            "length": self.length,
            "tokenizer": self.tokenizer.to_bytes().decode(),
            "folding": self.folding,
            "threshold": self.threshold,
            "false_positives": self.false_positives,
            "neighbours": self.neighbours,
        }
        tensors = {name: each.detach().cpu().contiguous().clone() for name, each in self.model.state_dict().items()}
        return save_tensors(tensors, {KEY: json.dumps(facts, allow_nan=False)})


def load(path: str | Path) -> Classifier:
    """The classifier in a file. Raises ArtefactError where there is none, or one that cannot be used."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path} must be a file that holds a text classifier. {error.strerror}.") from error
    return from_bytes(content, str(path))


def from_bytes(content: bytes, name: str = "the file") -> Classifier:
    """The classifier in a file's content, its model on the CPU, in eval mode, without gradients of weights.

    Args:
        content: of a file.
        name: of the file, for messages.

    Raises:
        ArtefactError: for another format, missing metadata, an unreadable tokenizer, or weights that do not fit.
    """
    try:
        state = load_tensors(content)
    except SafetensorError as error:
        raise ArtefactError(
            f"{name} is not a whole safetensors file ({error}). Pickled models are not read."
        ) from error
    try:
        facts = _facts(content, name)
        tokenizer = tokens.from_bytes(str(facts["tokenizer"]).encode())
        classes, length = tuple(map(str, facts["classes"])), int(facts["length"])
        model = _empty(str(facts["spec"]), tokenizer, classes, length)
        model.load_state_dict(state)
        return Classifier(
            str(facts["spec"]), model, tokenizer, classes, length,
            bool(facts["folding"]), facts["threshold"], facts["false_positives"], facts["neighbours"],
        )  # fmt: skip
    except KeyError as error:
        raise ArtefactError(f"{name} lacks {error.args[0]!r} in what it says about its classifier.") from error
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ArtefactError):
            raise
        raise ArtefactError(f"{name} cannot be used: {error}") from error


def _facts(content: bytes, name: str) -> dict[str, Any]:
    """What the metadata says, of a content that is known to be whole."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    text = header.get("__metadata__", {}).get(KEY)
    if text is None:
        raise ArtefactError(f"{name} holds weights but no text classifier: its metadata must have {KEY!r}.")
    facts = json.loads(text)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        got = facts.get("format") if isinstance(facts, dict) else facts
        raise ArtefactError(f"{name} must be a text classifier of format {FORMAT}. Got format {got!r} instead.")
    return facts


def _empty(spec: str, tokenizer: WordTokenizer | ByteTokenizer, classes: Sequence[str], length: int) -> nn.Module:
    """A model to load weights into; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return models.build(spec, tokenizer.vocab_size, len(classes), length).eval().requires_grad_(False)
