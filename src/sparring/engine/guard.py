"""Catastrophic overfitting, noticed while training: robust accuracy that was there and is suddenly gone.

A model trained on a one-step attack can learn to defeat that step and nothing else. Its training loss and clean
accuracy look better than ever, while a stronger attack finds an adversarial example of every input (Wong et al., "Fast
is better than free", 2020; Andriushchenko & Flammarion, "Understanding and improving fast adversarial training", 2020).
So a few times an epoch the guard runs PGD on the same held-out examples and compares with the best it has seen.

Everything that decides is a pure function of readings; what a guard remembers is a plain dict. The state of the run
after a rollback is a function of how often it was rolled back, so a resumed run repeats it exactly.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core.seeds import derive
from sparring.core.threat import Threat
from sparring.engine.machines import Team
from sparring.engine.stream import Source
from sparring.engine.validation import validate

SIGMAS = 4.0
"""A fall counts where it is more than this many standard errors of the difference."""
SHARE = 0.5
"""A collapse leaves less than this share of the best accuracy."""
ROLLBACKS = 3
"""A run is rolled back at most this often."""
RATE = 0.5
"""What a rollback multiplies the learning rate by."""

Policy = Literal["off", "warn", "stop", "rollback"]
Kind = Literal["sound", "falling", "collapse", "divergence"]
Action = Literal["keep", "continue", "warn", "stop", "rollback"]
Snapshot = dict[str, Any]
"""A state to go back to, made by `take`: plain values and tensors of its own, fit for a checkpoint."""


@dataclass(frozen=True)
class Reading:
    """Accuracies in [0, 1] on n held-out examples after `step` optimiser steps: clean, and under the guard's PGD."""

    step: int
    clean: float
    robust: float
    n: int


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Args:
        kind: "sound": no fall that chance does not explain; "falling": a fall short of a collapse; "collapse": robust
            accuracy is gone and clean accuracy is not, which is catastrophic overfitting; "divergence": clean
            accuracy is gone.
        now: this check.
        best: the reading it was compared with: the highest robust accuracy so far; None on the first check.
        news: False where the check before found the same trouble.
        message: what to tell the user; empty unless there is trouble.
    """

    kind: Kind
    now: Reading
    best: Reading | None
    news: bool = True
    message: str = ""

    @property
    def trouble(self) -> bool:
        """Whether it is a collapse or a divergence."""
        return self.kind in ("collapse", "divergence")


def standard_error(before: float, after: float, n: int) -> float:
    """Of the difference of two shares of n each, pooled: under "nothing changed" both estimate their mean p, and the
    difference has variance 2 p (1 - p) / n. Without pooling, a fall from 1 to 0 on two examples would have none.

    The two checks see the same examples, so their true difference varies less: this errs on the side of silence.
    """
    p = (before + after) / 2
    return math.sqrt(2 * p * (1 - p) / n)


def fell(before: float, after: float, n: int) -> bool:
    """Whether a share fell by more than `SIGMAS` standard errors of the difference."""
    return before - after > SIGMAS * standard_error(before, after, n)


def collapsed(before: float, after: float, n: int) -> bool:
    """Whether a share fell by more than chance explains and to less than `SHARE` of what it was."""
    return after < SHARE * before and fell(before, after, n)


def judge(now: Reading, best: Reading | None, constant: float) -> Kind:
    """What a reading means beside the best so far.

    Args:
        now: the reading.
        best: the reading with the highest robust accuracy before it; None is none.
        constant: accuracy of the best constant answer, the largest class's share. A model that always answers the
            same is robust at any eps, and in the first epochs of healthy runs both accuracies go up and down around
            this level. Until robust accuracy has stood clear of it there is nothing to lose, and nothing is said.
    """
    if best is None:
        return "sound"
    n = min(now.n, best.n)
    if not fell(best.robust, constant, n):
        return "sound"
    # Where the model itself breaks, robust accuracy goes with clean accuracy; only the first alone is overfitting.
    if collapsed(best.clean, now.clean, n):
        return "divergence"
    if collapsed(best.robust, now.robust, n):
        return "collapse"
    return "falling" if fell(best.robust, now.robust, n) else "sound"


def decide(policy: Policy, verdict: Verdict, rollbacks: int, *, snapshot: bool) -> Action:
    """What to do about a verdict.

    Args:
        policy: the user's choice.
        verdict: of this check.
        rollbacks: how often this run was rolled back already.
        snapshot: whether there is a state to go back to.

    Returns:
        "keep": a sound state worth a snapshot (only "rollback" asks for it); "continue"; "warn"; "rollback"; or
        "stop", which under "rollback" means that `ROLLBACKS` were not enough: go back once more and end there.
    """
    if policy == "off":
        return "continue"
    if not verdict.trouble:
        return "keep" if policy == "rollback" and verdict.kind == "sound" else "continue"
    if policy == "warn":
        return "warn" if verdict.news else "continue"
    return "rollback" if policy == "rollback" and snapshot and rollbacks < ROLLBACKS else "stop"


def due(step: int, steps: int, checks: int) -> bool:
    """Whether to check after `step` steps of the run: `checks` times in every epoch of `steps`, evenly, and always
    after its last step. Never more often than every step."""
    index = (step - 1) % steps + 1
    return index * checks // steps > (index - 1) * checks // steps


def take(model: nn.Module, optimizer: torch.optim.Optimizer, step: int, **rest: Any) -> Snapshot:
    """A snapshot after `step` steps; `rest` is whatever else has to go back: a moving average, a player's state."""
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "rest": rest}
    return copy.deepcopy(state)


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, snapshot: Snapshot, rate: float) -> dict[str, Any]:
    """Put a snapshot back, its learning rates multiplied by `rate`, and return a copy of its `rest`.

    The snapshot stays as it was and can be restored again: `Optimizer.load_state_dict` alone would share its tensors
    with it and change them in the next step.
    """
    state = copy.deepcopy(snapshot)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * rate
    rest: dict[str, Any] = state["rest"]
    return rest


class Guard:
    """Watches one run.

    Args:
        source: where examples come from.
        rows: the held-out rows; the guard looks at `examples` of them, chosen by the seed, the same in every check.
        threat: what robustness is measured against.
        seed: of the run.
        device: where the model is.
        policy: what the run does about trouble.
        steps: of PGD.
        examples: how many to look at.
    """

    def __init__(
        self,
        source: Source,
        rows: Tensor,
        threat: Threat,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        policy: Policy = "warn",
        steps: int = 10,
        examples: int = 256,
    ) -> None:
        if policy not in ("off", "warn", "stop", "rollback"):
            raise ValueError(
                f"The 'policy' parameter must be 'off', 'warn', 'stop' or 'rollback'. Got {policy!r} instead."
            )
        chance = torch.Generator().manual_seed(derive(seed, "guard"))
        self.source, self.threat, self.seed, self.policy, self.steps = source, threat, seed, policy, steps
        self.rows = rows[torch.randperm(len(rows), generator=chance)[:examples]]
        self.constant = int(source.y[self.rows].unique(return_counts=True)[1].max()) / len(self.rows)
        self.rng = torch.Generator(device)  # its own: a check leaves the run's draws as they would have been
        self.best: Reading | None = None
        self.trouble: Kind | None = None
        self.history: list[dict[str, Any]] = []
        self.rollbacks = 0
        self.snapshot: Snapshot | None = None

    @property
    def rate(self) -> float:
        """What the rollbacks so far multiply the learning rate by."""
        return RATE**self.rollbacks

    @property
    def stream_seed(self) -> int:
        """The seed of the run's random draws: another one after every rollback, the run's own before the first."""
        return derive(self.seed, "rollback", self.rollbacks) if self.rollbacks else self.seed

    def check(self, model: nn.Module, step: int, *, team: Team | None = None, lockstep: bool = False) -> Verdict:
        """Measure the model after `step` steps, compare, and remember. It is left as it was found.

        `team` and `lockstep` are `validate`'s: every process of a team gets the same reading, so all decide the same.
        """
        found = validate(
            model,
            self.source,
            self.rows,
            self.threat,
            steps=self.steps,
            seed=self.seed,
            rng=self.rng,
            team=team,
            lockstep=lockstep,
        )
        return self.read(Reading(step, found["clean"], found["robust"], found["n"]))

    def read(self, now: Reading) -> Verdict:
        """Compare a reading with the best so far, and remember it."""
        best = self.best
        kind = judge(now, best, self.constant)
        verdict = Verdict(kind, now, best)
        if verdict.trouble and best is not None:
            message = describe(kind, now, best, self.threat, self.steps)
            verdict = Verdict(kind, now, best, self.trouble != kind, message)
        self.trouble = kind if verdict.trouble else None
        if best is None or (now.robust, now.clean) > (best.robust, best.clean):
            self.best = now
        self.history.append({**asdict(now), "kind": kind})
        return verdict

    def act(self, verdict: Verdict, model: nn.Module, optimizer: torch.optim.Optimizer, **rest: Any) -> Action:
        """Decide on a verdict, and where the decision is to keep the state, keep it."""
        action = decide(self.policy, verdict, self.rollbacks, snapshot=self.snapshot is not None)
        if action == "keep":
            self.snapshot = take(model, optimizer, verdict.now.step, **rest) | {"rollbacks": self.rollbacks}
        return action

    def roll_back(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, Any]]:
        """Restore the last sound snapshot, at half the learning rate for every rollback, under another seed.

        Returns:
            The step to go on from, and the snapshot's `rest`. The caller takes `rate` and `stream_seed` from now on.
        """
        if self.snapshot is None:
            raise RuntimeError("There is no snapshot to go back to: no check has found the run sound.")
        self.rollbacks += 1
        self.trouble = None
        # The snapshot's learning rates hold the rollbacks before it, and not those that came back to it since.
        rate = RATE ** (self.rollbacks - self.snapshot["rollbacks"])
        return self.snapshot["step"], restore(model, optimizer, self.snapshot, rate)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values and tensors."""
        return {
            "best": None if self.best is None else asdict(self.best),
            "trouble": self.trouble,
            "history": [dict(entry) for entry in self.history],
            "rollbacks": self.rollbacks,
            "snapshot": self.snapshot,
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Continue from a saved state."""
        self.best = None if state["best"] is None else Reading(**state["best"])
        self.trouble, self.rollbacks, self.snapshot = state["trouble"], state["rollbacks"], state["snapshot"]
        self.history = [dict(entry) for entry in state["history"]]


def describe(kind: Kind, now: Reading, best: Reading, threat: Threat, steps: int) -> str:
    """The trouble in words: which step, accuracies before and after, against what, and what usually helps."""
    where = f"PGD-{steps}, eps {threat.eps:.4g}, {now.n} held-out examples"
    robust = f"robust accuracy from {_percent(best.robust)} (step {best.step}) to {_percent(now.robust)}"
    clean = f"clean accuracy from {_percent(best.clean)} to {_percent(now.clean)}"
    if kind == "divergence":
        return (
            f"Training diverged by step {now.step}: {clean}, {robust} ({where}). "
            "A lower --learning-rate, --clip 1 or a longer --eps-warmup usually helps."
        )
    return (
        f"Catastrophic overfitting by step {now.step}: {robust}, {clean} ({where}). The model beats the attack it is "
        "trained on and not a stronger one. What usually helps: n-fgsm or gradalign instead, a smaller --step-size, "
        "or pgd-at with several --steps."
    )


def consequence(action: Action, guard: Guard, kept: int | None = None) -> str:
    """What is done about it, to say after the message; `kept` is the step of the weights that a stop leaves."""
    if action == "rollback" and guard.snapshot is not None:
        return (
            f"Back to step {guard.snapshot['step']} at {guard.rate:g} of the learning rate "
            f"(rollback {guard.rollbacks} of {ROLLBACKS})."
        )
    if action == "stop":
        tried = f" after rollback {guard.rollbacks} of {ROLLBACKS}" if guard.rollbacks else ""
        return f"Stopped{tried}." + ("" if kept is None else f" The weights kept are those of step {kept}.")
    return "The run goes on." if action == "warn" else ""


def last_sound(history: Sequence[dict[str, Any]]) -> int | None:
    """The step of the last sound check in a guard's history; None where there is none."""
    return next((entry["step"] for entry in reversed(history) if entry["kind"] == "sound"), None)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
