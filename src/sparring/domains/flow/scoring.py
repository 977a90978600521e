"""What a detector says about vectors of flows: attack or not, how sure, which layer said so, which columns matter."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparring.domains.flow.artefact import Detector

TOP = 3
"""Columns that are named for each flow."""

BATCH = 1024
"""Vectors that go through a model at once: few enough for what is between its layers to stay near the processor."""

CLASSIFIER = "classifier"


@runtime_checkable
class Explaining(Protocol):
    """A classifier that gradients do not explain, and that explains itself."""

    def explained(self, u: Tensor, reference: Tensor, /) -> tuple[Tensor, Tensor]:
        """The logits `[B, 2]`, and what each coordinate, away from the reference `[d]`, gave the margin, `[B, d]`."""
        ...


@dataclass(frozen=True, eq=False)
class Answer:
    """About N flows.

    Args:
        score: probability of malicious that the classifier gives, float64 `[N]`.
        attack: the verdict, bool `[N]`.
        layer: which of `Scorer.layers` called it an attack, int64 `[N]`; 0 also for what none of them did.
        columns: the columns that contributed most, by size, as indices of `Scorer.columns`, int64 `[N, k]`, k <= 3.
        contributions: of these, float32 `[N, k]`. From the classifier, in logits: above zero speaks for an attack.
            From the autoencoder, the column's part of the squared error.
    """

    score: Tensor
    attack: Tensor
    layer: Tensor
    columns: Tensor
    contributions: Tensor


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores vectors with a detector.

    The contribution of coordinate i of a vector u to the margin m = logit(malicious) - logit(benign) is

        dm/du_i (u) (u_i - r_i)

    with r the mean benign training vector: gradient times input, from a baseline (Shrikumar et al., "Not just a black
    box", 2016). It is exact for a linear model, and first order for another. The coordinates of a category count
    together, as one column. A model that has no gradient says itself what contributed (`Explaining`), such as the
    stack.
    """

    detector: Detector

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of what may call a flow an attack."""
        return (CLASSIFIER, *(layer.name for layer in self.detector.layers))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: numeric ones, then categories."""
        made = self.detector.preprocessing
        return (*(field.name for field in made.numeric), *made.blocks)

    @cached_property
    def _members(self) -> Tensor:
        """Which category each coordinate behind the numeric ones belongs to, 0 or 1, `[d - n, categories]`."""
        made = self.detector.preprocessing
        n, blocks = len(made.numeric), made.blocks.values()
        members = torch.zeros(made.width - n, len(blocks))
        for k, block in enumerate(blocks):
            members[block.start - n : block.stop - n, k] = 1.0
        return members

    def __call__(self, u: Tensor) -> Answer:
        """The answer about vectors, float32 `[N, d]`, N >= 0."""
        found = [self._batch(part) for part in u.split(BATCH)]
        return Answer(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _batch(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        detector = self.detector
        logits, contributed = self._explained(u)
        logits = logits.double()
        score = (logits[:, 1] - logits[:, 0]).sigmoid()
        parts = self._by_column(contributed)
        attack = score > detector.threshold
        layer = torch.zeros(len(u), dtype=torch.int64)
        for k, behind in enumerate(detector.layers, start=1):
            rows = (~attack).nonzero().squeeze(1)
            with torch.no_grad():
                error = (behind.model(u[rows]) - u[rows]).square_()
            caught = error.double().mean(1) > behind.threshold
            rows = rows[caught]
            attack[rows], layer[rows] = True, k
            parts[rows] = self._by_column(error[caught])
        columns = parts.abs().topk(min(TOP, parts.shape[1]), dim=1).indices
        return score, attack, layer, columns, parts.gather(1, columns)

    def _explained(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The logits `[B, 2]`, and what each coordinate contributed `[B, d]`."""
        model, reference = self.detector.model, self.detector.reference
        if isinstance(model, Explaining):
            return model.explained(u, reference)
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            logits = model(at)
            (slope,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), at)
        return logits.detach(), slope.mul_(u - reference)

    def _by_column(self, parts: Tensor) -> Tensor:
        """Sums over the coordinates of each column, `[B, d] -> [B, columns]`."""
        n = len(self.detector.preprocessing.numeric)
        return torch.cat([parts[:, :n], parts[:, n:] @ self._members], dim=1)
