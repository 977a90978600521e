"""What every attack shares: keeping each example's best z, judging, narrowing to who still stands, checking arguments.

Attacks are written over *rows*: the indices, in the batch they were given, of the examples that still stand.
"""

import torch
from torch import Tensor

from sparring.core.gain import Gain, JudgingGain


class DeadStartError(ValueError):
    """The gradient at an attack's start is at rounding level for every example: following it would follow noise."""


def better(z: Tensor, value: Tensor, best: Tensor, record: Tensor) -> tuple[Tensor, Tensor]:
    """Of each example's z and best, the one with the higher value, and that value: without waiting for the device."""
    wins = value > record
    return torch.where(per_example(wins, z), z, best), torch.where(wins, value, record)


def keep(z: Tensor, value: Tensor, lost: Tensor, rows: Tensor, best: Tensor, record: Tensor) -> Tensor:
    """Write into best, at these rows, each z that is lost or higher than the record; returns the new record."""
    record = record.to(torch.promote_types(record.dtype, value.dtype))
    rise = lost | (value > record[rows])
    best[rows[rise]], record[rows[rise]] = z[rise], value[rise].to(record.dtype)
    return record


def judged(gain: JudgingGain, z: Tensor, *, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The value `[B]` at z, whether each example is lost `[B]`, and the gradient, empty without `with_gradient`."""
    z = z.detach().requires_grad_(with_gradient)
    with torch.set_grad_enabled(with_gradient):
        value, lost = gain.judge(z)
    gradient = torch.autograd.grad(value.sum(), z)[0] if with_gradient else torch.empty(0)
    return value.detach(), lost, gradient


def alive_start(gradient: Tensor) -> Tensor:
    """Whether any example's gradient stands above rounding level (of logits of order ten, whose softmax it passed).

    Losses widen half precision to float32, so that is the finest rounding there is to follow. A gradient of NaN is not
    dead but broken, and left to show in the loss.
    """
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return (~(gradient.abs() <= 8 * torch.finfo(wide).eps)).any()


def refuse_dead(alive: Tensor) -> None:
    """Raises DeadStartError unless `alive`, a bool tensor; reading it waits for the device."""
    if not alive:
        raise DeadStartError(
            "The start of an attack must have a gradient above rounding level for some example. Got none: a gain at "
            "its own minimum needs random_start=True (TRADES' KL at the clean point), a saturated model the margin "
            "payoff."
        )


def judging(gain: Gain) -> JudgingGain:
    """The gain, once it is known that it can judge."""
    if not isinstance(gain, JudgingGain):
        raise TypeError(
            "An attack that drops lost examples (early_stop=True, black box, minimal norm) needs a gain with 'judge' "
            "and 'take', such as sparring.core.gain.ClassifierGain. "
            f"Got {type(gain).__name__}."
        )
    return gain


def floating(x: Tensor) -> Tensor:
    """x detached. Raises TypeError for integers."""
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor in input units. Got {x.dtype}.")
    return x.detach()


def per_example(value: Tensor, like: Tensor) -> Tensor:
    """`[B]` shaped so that it broadcasts over `like`, `[B, ...]`."""
    return value.reshape(-1, *[1] * (like.dim() - 1))


def check_count(name: str, value: int) -> None:
    """Raises ValueError unless value is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"The {name!r} parameter must be an int in the range [1, inf). Got {value!r} instead.")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"The {name!r} parameter must be a number in the range (0, inf). Got {value!r} instead.")
