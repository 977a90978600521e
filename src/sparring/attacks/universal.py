"""Universal perturbations: one step that is added to every example."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, floating, judging
from sparring.core.threat import Metric, Threat


def universal(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    step_size: float | None = None,
    ceiling: float = 9.0,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Every example moved by the same perturbation, and then into the box.

    Moosavi-Dezfooli et al., "Universal adversarial perturbations", 2017, found as in Shafahi et al., "Universal
    adversarial training", 2020, algorithm 2: projected steepest ascent of one delta on the mean over a batch of
    min(gain, ceiling), so that no example that is long lost decides the direction.

    The perturbation depends on all examples together: an evaluation in batches finds one per batch. To use one on other
    examples, see `shared_perturbation`.

    Args:
        gain: `z [B, ...] -> [B]`; with more examples than `batch_size` it needs `take`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: a ball, the same for every example.
        epochs: passes over the examples; each ends with one more forward pass, which values its delta.
        batch_size: examples in one step, in an order drawn anew in each epoch.
        step_size: in input units; by default 2.5 eps / (epochs times batches).
        ceiling: the gain above which an example counts no more; Shafahi et al. take 9 for cross-entropy, inf is none.
        rng: source of the order, on x's device.

    Returns:
        z `[B, ...]`, allowed by the threat: x + delta, cut to the box, for the delta of the best epoch.

    Raises:
        ValueError: for a parameter out of its range.
        TypeError: for a threat that is no ball, or more examples than `batch_size` and a gain that has no `take`.
    """
    x = floating(x)
    if len(x) == 0:
        return x
    delta = shared_perturbation(
        gain, x, threat, epochs=epochs, batch_size=batch_size, step_size=step_size, ceiling=ceiling, rng=rng
    )
    return threat.project(x + delta, x)


def shared_perturbation(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    epochs: int = 10,
    batch_size: int = 128,
    step_size: float | None = None,
    ceiling: float = 9.0,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The delta `[1, ...]` of `universal`, inside the ball around zero; see there for the arguments."""
    x, (ball, free) = floating(x), _boxed_and_free(threat)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if ceiling != float("inf"):
        check_positive("ceiling", ceiling)
    if step_size is None:
        step_size = 2.5 * threat.eps / (epochs * -(-len(x) // batch_size))
    check_positive("step_size", step_size)
    zero = torch.zeros_like(x[:1])
    best, record = zero, torch.full((), -torch.inf, device=x.device)
    delta = zero
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=rng, device=x.device).split(batch_size):
            moved = delta.clone().requires_grad_(True)
            here, start = _narrowed(gain, x, rows)
            value = here((start + moved).clamp(ball.low, ball.high))
            (slope,) = torch.autograd.grad(value.clamp(max=ceiling).mean(), moved)
            delta = free.project(delta + step_size * free.steepest(slope, delta), zero)
        mean = _mean(gain, (x + delta).clamp(ball.low, ball.high), ceiling, batch_size)
        best, record = torch.where(mean > record, delta, best), torch.maximum(mean, record)
    return best


@torch.no_grad()
def _mean(gain: Gain, z: Tensor, ceiling: float, batch_size: int) -> Tensor:
    values = []
    for rows in torch.arange(len(z), device=z.device).split(batch_size):
        here, points = _narrowed(gain, z, rows)
        values.append(here(points).clamp(max=ceiling))
    return torch.cat(values).mean()


def _narrowed(gain: Gain, x: Tensor, rows: Tensor) -> tuple[Gain, Tensor]:
    """The gain and x of these rows; of all of them in their own order, for which a gain without `take` serves."""
    return (gain, x) if len(rows) == len(x) else (judging(gain).take(rows), x[rows])


def _boxed_and_free(threat: Threat) -> tuple[Metric, Metric]:
    """The threat, and its ball without the box: what a delta is held to that is not yet added to any example."""
    if not isinstance(threat, Metric):
        raise TypeError(
            "A universal perturbation needs a ball that is the same for every example, such as "
            f"sparring.core.threat.Linf. Got {type(threat).__name__}."
        )
    free: Metric = replace(cast(Any, threat), low=-torch.inf, high=torch.inf)
    return threat, free
