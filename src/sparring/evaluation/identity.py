"""Which evaluation this is: a fingerprint of everything that its numbers depend on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.core.threat import Threat
from sparring.evaluation.exploit import Ledger
from sparring.evaluation.subject import Subject
from sparring.evaluation.suite import Suite


def fingerprint(subject: Subject, threats: Sequence[Threat], suites: Sequence[Suite], seed: int, view: str) -> str:
    """Sixteen hexadecimal digits that differ where the weights, examples, threat models, attacks, seed or view do."""
    digest = hashlib.sha256()
    for name, tensor in [*subject.model.state_dict().items(), ("x", subject.x), ("y", subject.y)]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    attacks = [[(c.name, c.parameters) for c in suite.challenges] for suite in suites]
    facts = [[t.describe() for t in threats], attacks, seed, subject.batch_size, subject.abstain, view]
    digest.update(json.dumps([str(type(subject.model)), *facts], sort_keys=True).encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Named:
    """A ledger whose keys begin with a name."""

    inner: Ledger
    name: str

    def read(self, key: str) -> dict[str, Tensor] | None:
        return self.inner.read(f"{self.name}-{key}")

    def write(self, key: str, chunk: dict[str, Tensor]) -> None:
        self.inner.write(f"{self.name}-{key}", chunk)
