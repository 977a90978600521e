"""Several attacks on the same texts (or anything else that no gradient moves), and an account of them that takes no
attack's word for anything: every answer is held to its threat model and judged again here.

The checks at the end are those that published numbers on text have failed for want of.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from sparring.attacks.lockstep import sloping
from sparring.core.discrete import Discrete, DiscreteAttack, DiscreteGain
from sparring.core.seeds import derive
from sparring.core.standing import check_count
from sparring.evaluation.sanity import SLACK, Check, check

T = TypeVar("T")


@dataclass(frozen=True)
class DiscreteChallenge(Generic[T]):
    """An attack as it is reported.

    Args:
        name: the key in the results.
        attack: `(gain, x, threat, rng=...) -> z`, hyper-parameters bound.
        threat: what it is allowed; the attacks of a battery need not share it.
        parameters: everything that its strength depends on, as JSON types.
    """

    name: str
    attack: DiscreteAttack
    threat: Discrete[T]
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What an attack achieved on N examples.

    Attributes:
        z: verified answers, the original where the attack's was not allowed.
        right: whether each example still stands at z `[N]`.
        value: the gain at z `[N]`, recomputed.
        queries: texts that the attack asked about `[N]`, a gradient counting as one, answers from a cache too.
        changes: words of z that are changed or added `[N]`.
        refused: which answers were not allowed `[N]`.
        seconds: wall time of the attack.
    """

    z: list[T]
    right: Tensor
    value: Tensor
    queries: Tensor
    changes: Tensor
    refused: Tensor
    seconds: float


@dataclass(frozen=True)
class Battery(Generic[T]):
    """The same N examples without an attack and under several.

    Attributes:
        clean: whether each example is right as it is `[N]`; the others are lost under every attack.
        value: the gain there `[N]`.
        outcomes: by the challenge's name.
    """

    clean: Tensor
    value: Tensor
    outcomes: dict[str, Outcome[T]]

    @property
    def worst(self) -> Tensor:
        """Which examples stand under all of the attacks `[N]`."""
        return torch.stack([self.clean, *(each.right for each in self.outcomes.values())]).all(0)

    def success(self, name: str | None = None) -> float:
        """The share of the examples right when clean that an attack, or the worst of all, takes; NaN where none is."""
        right = self.worst if name is None else self.outcomes[name].right
        return (self.clean & ~right).sum().item() / n if (n := int(self.clean.sum())) else float("nan")


def battery(
    gain: DiscreteGain[T],
    x: Sequence[T],
    challenges: Sequence[DiscreteChallenge[T]],
    *,
    seed: int,
    batch_size: int = 256,
) -> Battery[T]:
    """Run every challenge on every example and verify what it answers.

    Args:
        gain: of the model in eval mode, over the examples' rows.
        x: the originals.
        challenges: with different names, at least one.
        seed: of the attacks; an example's outcome does not depend on who is beside it, nor on the batch size.
        batch_size: examples attacked at once: what bounds memory.
    """
    check_count("batch_size", batch_size)
    names = [challenge.name for challenge in challenges]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"A battery needs challenges with different names, at least one. Got {names}.")
    value, lost = gain.judge(x, range(len(x)))
    outcomes = {each.name: _outcome(gain, x, each, seed, batch_size, ~lost) for each in challenges}
    return Battery(~lost, value, outcomes)


def joined(parts: Sequence[Battery[T]]) -> Battery[T]:
    """Batteries of the same challenges on different examples, at least one, as one."""

    def all_of(name: str) -> Outcome[T]:
        each = [part.outcomes[name] for part in parts]
        tensors = ("right", "value", "queries", "changes", "refused")
        found = {field: torch.cat([getattr(one, field) for one in each]) for field in tensors}
        return Outcome(z=[z for one in each for z in one.z], seconds=sum(one.seconds for one in each), **found)

    clean, value = (torch.cat([getattr(part, field) for part in parts]) for field in ("clean", "value"))
    return Battery(clean, value, {name: all_of(name) for name in parts[0].outcomes})


def _outcome(
    gain: DiscreteGain[T], x: Sequence[T], challenge: DiscreteChallenge[T], seed: int, batch_size: int, clean: Tensor
) -> Outcome[T]:
    queries = torch.zeros(len(x), dtype=torch.long)
    answers = list(x)
    start = time.perf_counter()
    for some in clean.nonzero().squeeze(1).cpu().split(batch_size):
        rows = some.tolist()
        if not rows:
            break
        rng = torch.Generator().manual_seed(derive(seed, challenge.name))
        found = challenge.attack(_Metered(gain, rows, queries), [x[i] for i in rows], challenge.threat, rng=rng)
        for i, z in zip(rows, found, strict=True):
            answers[i] = z
    seconds = time.perf_counter() - start
    allowed = [challenge.threat.contains(z, original) for z, original in zip(answers, x, strict=True)]
    z = [answer if fine else original for answer, original, fine in zip(answers, x, allowed, strict=True)]
    value, lost = gain.judge(z, range(len(x)))
    changes = torch.tensor([challenge.threat.changes(each, original) for each, original in zip(z, x, strict=True)])
    return Outcome(z, ~lost, value, queries, changes, ~torch.tensor(allowed, dtype=torch.bool), seconds)


@dataclass(frozen=True)
class _Metered(Generic[T]):
    """The gain of some of the examples, counting what each is asked about."""

    gain: DiscreteGain[T]
    rows: Sequence[int]
    queries: Tensor

    def __call__(self, z: Sequence[T], rows: Sequence[int], /) -> Tensor:
        return self.gain(z, self._counted(rows))

    def judge(self, z: Sequence[T], rows: Sequence[int], /) -> tuple[Tensor, Tensor]:
        return self.gain.judge(z, self._counted(rows))

    def slopes(self, z: Sequence[T], rows: Sequence[int], /) -> list[Tensor]:
        return sloping(self.gain).slopes(z, self._counted(rows))

    def estimates(self, z: Sequence[T], rows: Sequence[int], candidates: Sequence[Sequence[T]], /) -> list[Tensor]:
        return sloping(self.gain).estimates(z, self._counted(rows), candidates)

    def _counted(self, rows: Sequence[int]) -> list[int]:
        own = [self.rows[row] for row in rows]
        self.queries.add_(torch.bincount(torch.tensor(own, dtype=torch.long), minlength=len(self.queries)))
        return own


@contextmanager
def watched(model: nn.Module) -> Iterator[list[str]]:
    """While inside, the names of those parts of the model that were in train mode at any of its forward passes."""
    seen: list[str] = []

    def look(module: nn.Module, _: object) -> None:
        seen.extend(name or "the model" for name, part in module.named_modules() if part.training and name not in seen)

    handle = model.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def verified(found: Battery[Any]) -> Check:
    """Every text that an attack returned was inside its threat model."""
    refused = sum(int(each.refused.sum()) for each in found.outcomes.values())
    total = sum(len(each.z) for each in found.outcomes.values())
    return check(
        "verified",
        refused == 0,
        f"{refused} of {total} adversarial texts refused",
        "An attack left its threat model: its numbers are those of the clean text there. Look at `edits`.",
    )


def never_falls(found: Battery[Any]) -> Check:
    """No attack's answer is worth less to it than the text that it started from."""
    fell = {name: int((each.value < found.value - 1e-6).sum()) for name, each in found.outcomes.items()}
    worse = {name: count for name, count in fell.items() if count}
    return check(
        "value-never-falls",
        not worse,
        "no answer is below its original" if not worse else f"below their originals: {worse}",
        "The attack reports a value that another look does not confirm: a random model, a stale cache, or a text that "
        "its tokens do not stand for.",
    )


def wide_breaks(found: Battery[Any], name: str) -> Check:
    """A threat model that allows nearly everything takes nearly every example; `name` is the attack that was given
    it."""
    share = found.success(name)
    return check(
        "wide-threat",
        not share < 1 - SLACK,
        f"{name} takes {share:.1%} of the examples that are right when clean",
        "With so much allowed every prediction can be changed; an attack that cannot is broken by this model.",
    )


def caches_agree(cached: Outcome[Any], fresh: Outcome[Any]) -> Check:
    """The same attack finds the same, whether or not what was asked before is remembered."""
    differ = sum(a != b for a, b in zip(cached.z, fresh.z, strict=True))
    apart = (cached.value - fresh.value).abs().max().item() if len(cached.z) else 0.0
    return check(
        "cache-agrees",
        differ == 0 and apart < 1e-4,
        f"{differ} of {len(cached.z)} answers differ, values by at most {apart:.1g}",
        "A cache that changes answers changes attack success: look at what its keys leave out.",
    )


def eval_mode(seen: Sequence[str]) -> Check:
    """The model was in eval mode at every look of the attacks; `seen` is what `watched` collected."""
    return check(
        "eval-mode",
        not seen,
        "every part was in eval mode" if not seen else f"in train mode: {', '.join(seen[:3])}",
        "Dropout makes a model answer at random: call model.eval() before the attack.",
    )


def undefended_falls(undefended: Battery[Any]) -> Check:
    """The attacks take something from a model without a defence; else they say nothing about one with it."""
    share = undefended.success()
    return check(
        "undefended-falls",
        share > 0,
        f"{share:.1%} of the undefended model's right answers are taken",
        "Attacks that take nothing from a plain model are broken or too weak to measure a defence.",
    )
