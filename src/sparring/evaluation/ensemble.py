"""A suite of attacks on a subject: in order, worst case per example, with what each attack achieved and cost."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparring.core.parametric import Parametric
from sparring.core.standing import per_example
from sparring.core.threat import Threat
from sparring.evaluation.exploit import Exploit, Ledger, exploit
from sparring.evaluation.grids import Watch
from sparring.evaluation.interval import accuracy
from sparring.evaluation.subject import Subject
from sparring.evaluation.suite import Suite


@dataclass(frozen=True)
class Outcome:
    """What a suite achieved.

    Attributes:
        exploits: every attack's, by name.
        right: which examples stand after all of them `[N]`.
        z: for each example the verified input that beat it, else the allowed one with the highest loss `[N, ...]`.
        results: `clean`, every attack, `worst`, as the record has them.
    """

    exploits: dict[str, Exploit]
    right: Tensor
    z: Tensor
    results: dict[str, dict[str, Any]]


def run(
    subject: Subject,
    threat: Threat | Parametric,
    suite: Suite,
    *,
    seed: int,
    watch: Watch,
    view: nn.Module | None = None,
    ledger: Ledger | None = None,
) -> Outcome:
    """Run the attacks of a suite; see `sparring.evaluation.exploit` for the arguments."""
    standing, z, exploits = subject.clean_right, subject.x, {}
    loss = torch.full_like(subject.y, -torch.inf, dtype=torch.float64)
    results: dict[str, dict[str, Any]] = {"clean": accuracy(standing)}
    for challenge in suite.challenges:
        tick = watch(f"{challenge.name}, at most {standing.double().mean().item():.1%} stand")
        targets = (standing if suite.sequential else subject.clean_right).nonzero().squeeze(1)
        found = exploit(
            subject, threat, challenge, seed=seed, targets=targets, view=view, ledger=ledger, tick=tick,
            start=z if suite.sequential else None,
        )  # fmt: skip
        better = (standing & ~found.right) | ((standing == found.right) & (found.loss > loss))
        z = torch.where(per_example(better, z), found.z, z)
        loss = torch.where(better, found.loss.double(), loss)
        before, standing = standing, standing & found.right
        exploits[challenge.name] = found
        row = accuracy(standing if suite.sequential else found.right)
        spent = {"attempted": len(targets), "broke": int((before & ~found.right).sum()), **_cost(found)}
        results[challenge.name] = {**row, "parameters": challenge.parameters, "refused": found.refused, **spent}
    results["worst"] = accuracy(standing)
    return Outcome(exploits, standing, z, results)


def _cost(found: Exploit) -> dict[str, Any]:
    """Seconds, and the forward and backward passes of the examples that were attacked: mean, median and largest."""
    spent = found.forwards[found.attempted].double()
    median = spent.median().item() if len(spent) else 0.0
    return {
        "seconds": found.seconds,
        "forwards": found.forwards.sum().item(),
        "backwards": found.backwards.sum().item(),
        "forwards_median": median,
        "forwards_largest": spent.amax().item() if len(spent) else 0.0,
    }
