"""Certified accuracy: the share of examples that no input in the ball can break, proved by bounds instead of attacked.

A certificate holds for the network in exact arithmetic. So that no attack in float32 contradicts one by rounding, the
bounds are computed in float64, on a box wider by what `Linf.contains` forgives, and have to exceed `SLACK` of the
largest logit. They are not rounded outwards, so this is evidence as good as float64, not a machine-checked proof.
"""

import copy
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparring.core import crown, interval
from sparring.core.game import Batch
from sparring.core.gradient import frozen
from sparring.core.threat import Linf
from sparring.core.traced import UnsupportedError
from sparring.evaluation.interval import accuracy
from sparring.evaluation.subject import Subject, Uniform, subject

SLACK = 1e-5
"""Of the largest logit: about a hundred roundings of float32."""

Bound = Literal["auto", "ibp", "crown-ibp"]


class ContradictionError(AssertionError):
    """An attack broke an example that was certified, or the bounds miss the model's own answers: a defect here."""


def certified(
    model: nn.Module,
    data: tuple[Tensor, Tensor] | Iterable[Batch],
    eps: float,
    *,
    bound: Bound = "auto",
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int = 256,
    broken: Tensor | None = None,
) -> dict[str, Any]:
    """The share of examples that are right, and stay right for every input within eps (Linf) inside [low, high].

    Args:
        model: `[B, ...] -> [B, K]` logits, of operations that have bounds; it is copied, and left as it was.
        data: test examples, `(x [N, ...], y [N])` or an iterable of such batches.
        eps: radius of the ball in input units.
        bound: "ibp", "crown-ibp", or "auto": an example is certified where either bound certifies it; intervals alone
            where the network has no linear bounds.
        low, high: bounds of an input.
        batch_size: examples at a time.
        broken: which examples an attack has broken, `[N]` bool.

    Returns:
        `{"accuracy", "low", "high", "n"}` with a 95 % Wilson interval, `"right"` `[N]` bool on the CPU, `"bound"`: what
        was used, and `"seconds"`.

    Raises:
        ValueError: where a parameter is not what it has to be; UnsupportedError, which is one, for a model without
            bounds.
        ContradictionError: an example is certified and broken.
    """
    made = subject(model, data, low=low, high=high, batch_size=batch_size)
    return certify(made, Linf(eps, low, high), bound=bound, broken=broken)


def certify(made: Subject, threat: Linf, *, bound: Bound = "auto", broken: Tensor | None = None) -> dict[str, Any]:
    """`certified` for a subject that is already made."""
    begun = time.perf_counter()
    if bound not in ("auto", "ibp", "crown-ibp"):
        raise ValueError(f"The 'bound' parameter must be 'auto', 'ibp' or 'crown-ibp'. Got {bound!r} instead.")
    if broken is not None and (broken.dtype != torch.bool or broken.shape != made.y.shape):
        got = f"{broken.dtype} of {list(broken.shape)}"
        raise ValueError(f"The 'broken' parameter must be bool of shape {list(made.y.shape)}. Got {got} instead.")
    exact = copy.deepcopy(_network(made)).double()
    right, used = [], bound
    with frozen(exact), torch.no_grad():
        for x, y in zip(made.x.split(made.batch_size), made.y.split(made.batch_size), strict=True):
            safe, used = _certificates(exact, x, y, threat, used)
            right.append(safe)
    answer = torch.cat(right).cpu()
    if broken is not None and (wrong := answer & broken.cpu()).any():
        raise ContradictionError(
            f"{int(wrong.sum())} certified examples were broken by an attack, the first of them example "
            f"{int(wrong.nonzero()[0])}: the bounds are not sound for this model, or the attack left the ball."
        )
    name = "ibp or crown-ibp" if used == "auto" else used
    return {**accuracy(answer), "right": answer, "bound": name, "seconds": time.perf_counter() - begun}


def check(made: Subject, threat: Linf) -> None:
    """Raises what `certify` would, after one example: before the attacks run, not after."""
    certify(replace(made, x=made.x[:1], y=made.y[:1]), threat)


def _network(made: Subject) -> nn.Module:
    """The user's own network, without the wrapper that makes it uniform for attacks."""
    if not isinstance(made.model, Uniform):
        return made.model
    if made.model.single or made.model.dtype not in (torch.float32, torch.float64):
        got = "one logit per example" if made.model.single else str(made.model.dtype)
        raise ValueError(f"Certificates need a model in float32 or float64 with a logit per class. Got {got}.")
    return made.model.model


def _certificates(model: nn.Module, x: Tensor, y: Tensor, threat: Linf, bound: Bound) -> tuple[Tensor, Bound]:
    """Which examples are certified `[B]`, and the bound that can be used."""
    logits = _own_answers(model, x)
    x, rounding = x.double(), torch.finfo(x.dtype).eps
    radius = threat.eps * (1 + 1e-6) + rounding * (x.abs().amax().item() + threat.eps)  # what `contains` forgives
    walk = interval.propagate(model, (x - radius).clamp(min=threat.low), (x + radius).clamp(max=threat.high))
    margins = []
    if bound in ("auto", "ibp"):
        margins.append(interval.margins(walk, y))
    if bound in ("auto", "crown-ibp"):
        try:
            margins.append(crown.margins(walk, y))
        except UnsupportedError:
            if bound == "crown-ibp":
                raise
            bound = "ibp"
    best = torch.stack(margins).amax(0).scatter(1, y[:, None], torch.inf).amin(1)
    return best > SLACK * logits.abs().amax(1), bound


def _own_answers(model: nn.Module, x: Tensor) -> Tensor:
    """The logits of x, which the bounds of a box without extent must be: else what was traced is another function."""
    logits: Tensor = model(x.double())
    low, high = interval.bounds(model, x.double(), x.double())
    gap = torch.maximum((low - logits).abs(), (high - logits).abs()).amax()
    if not gap <= 1e-6 * logits.abs().amax().clamp(min=1.0):
        raise ContradictionError(
            f"The bounds at the examples themselves differ from the model's logits by {gap:.3g}: its forward pass does "
            "something that a trace does not show (a hook, a branch on what it sees). Nothing is certified."
        )
    return logits
