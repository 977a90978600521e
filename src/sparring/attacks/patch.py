"""An attack on threats that are free in one place of many, such as a square somewhere in a picture: which place, and
what to put there."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sparring.core.compose import Masked
from sparring.core.gain import Gain, JudgingGain
from sparring.core.standing import (
    alive_start,
    check_count,
    check_positive,
    floating,
    judged,
    judging,
    keep,
    refuse_dead,
)
from sparring.core.threat import Threat


@runtime_checkable
class Placed(Threat, Protocol):
    """A threat that is the union of P others, one per place, each free in the box on its own coordinates."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    def at(self, place: Tensor, x: Tensor) -> Masked:
        """The threat at this place `[B]`, in [0, P), of each example."""
        ...

    def mass(self, amount: Tensor) -> Tensor:
        """The sum of `amount [B, ...]` over the coordinates of each place, `[B, P]`."""
        ...

    def rise(self, gradient: Tensor, z: Tensor) -> Tensor:
        """How much each coordinate alone can add to a linear gain before it meets the box."""
        ...


def patch(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 40,
    locations: int = 10,
    step_size: float | None = None,
    guided: bool = True,
    random_start: bool = True,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Sign ascent on a patch's content at several places in turn, keeping each example's best; lost examples leave.

    Brown et al., "Adversarial patch", 2017, for one picture at a time; the search over places as in Rao et al.,
    "Adversarial training against location-optimized adversarial patches", 2020, with fresh content at every place
    instead of moving one patch. `guided` takes the places in falling order of what they could add to the gain if it
    were linear (sum |gradient| room, at the clean point), those that are half covered by an earlier one after all
    others: exact for linear gains. Otherwise places are drawn at random without repetition.

    At most 1 + locations (steps + 1) forward and 1 + locations steps backward passes; an example that is lost spends
    no more.

    Args:
        gain: `z [B, ...] -> [B]`, one that can judge.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: a `Placed` threat, such as `sparring.domains.image.patch.Patch`.
        steps: gradient steps at each place.
        locations: places tried for each example, at most all there are.
        step_size: in input units; by default 2.5 (high - low) / steps, which can cross the box from anywhere in it.
        guided: choose places by the gradient at the clean point.
        random_start: start from uniform content; otherwise from the picture's own.
        rng: source of places and contents.

    Returns:
        z `[B, ...]`, allowed by the threat.

    Raises:
        TypeError: for a threat without places, or a gain that cannot judge.
        DeadStartError: when no example's gradient is above rounding level at the start of any place.
    """
    x = floating(x)
    check_count("steps", steps)
    check_count("locations", locations)
    if not isinstance(threat, Placed):
        raise TypeError(f"patch needs a threat with places ('at', 'mass', 'rise'). Got {type(threat).__name__}.")
    if step_size is None:
        step_size = 2.5 * (threat.high - threat.low) / steps
    check_positive("step_size", step_size)
    standing = judging(gain)
    if len(x) == 0:
        return x
    value, lost, gradient = judged(standing, x, with_gradient=guided)
    best, record = x.clone(), value
    rows = (~lost).nonzero().squeeze(1)
    places = _places(threat, x, gradient if guided else None, locations, rng)
    alive = torch.full((), len(rows) == 0, device=x.device)
    for place in places.unbind(1):
        if len(rows) == 0:
            break
        here, inside = standing.take(rows), threat.take(rows)
        start, local = x[rows], inside.at(place[rows], x[rows])
        if random_start:
            noise = torch.rand(start.shape, generator=rng, device=x.device, dtype=x.dtype)
            start = local.project(threat.low + (threat.high - threat.low) * noise, start)
        rows, record, awake = _fill(here, start, local, x, rows, best, record, steps, step_size)
        alive = alive | awake
    refuse_dead(alive)
    return best


def _fill(
    gain: JudgingGain,
    z: Tensor,
    local: Threat,
    x: Tensor,
    rows: Tensor,
    best: Tensor,
    record: Tensor,
    steps: int,
    step_size: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ascent from z at the rows' places, written into best: the rows that stand, the record, whether it was alive."""
    alive = torch.zeros((), dtype=torch.bool, device=x.device)
    for step in range(steps + 1):
        value, lost, gradient = judged(gain, z, with_gradient=step < steps)
        record = keep(z, value, lost, rows, best, record)
        if step == 0:
            alive = alive_start(gradient) | lost.any()  # whoever is lost at the start needs no gradient
        if lost.any():
            left = (~lost).nonzero().squeeze(1)
            rows, z, gain, local = rows[left], z[left], gain.take(left), local.take(left)
            gradient = gradient[left] if step < steps else gradient
        if len(rows) == 0 or step == steps:
            break
        z = local.project(z + step_size * local.steepest(gradient, z), x[rows])
    return rows, record, alive


def _places(threat: Placed, x: Tensor, gradient: Tensor | None, locations: int, rng: torch.Generator | None) -> Tensor:
    """The places to try, in order, `[B, count]`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    chance = threat.mass(torch.zeros_like(x, dtype=wide))
    count = min(locations, chance.shape[1])
    chance = torch.rand(chance.shape, generator=rng, device=x.device, dtype=wide)
    if gradient is None:
        return chance.argsort(dim=1, descending=True)[:, :count]
    score = threat.mass(threat.rise(gradient, x).to(wide))
    top = score.amax(1, keepdim=True)
    score = torch.where(top > 0, score / top, chance)  # a gradient of zero prefers no place
    if count == chance.shape[1]:
        return score.argsort(dim=1, descending=True, stable=True)
    return _apart(threat, x.to(wide), score, count)


def _apart(threat: Placed, x: Tensor, score: Tensor, count: int) -> Tensor:
    """The best places in falling order of score in [0, 1], those half covered by an earlier one after all others."""
    full = threat.mass(torch.ones_like(x))
    order = []
    for _ in range(count):
        place = score.argmax(1)
        order.append(place)
        shared = threat.mass(threat.at(place, x).mask.expand_as(x).to(x.dtype))
        near = (shared >= 0.5 * full) & (score >= 0)
        score = torch.where(near, score - 2, score).scatter(1, place[:, None], -torch.inf)
    return torch.stack(order, 1)
