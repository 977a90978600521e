"""The attack of Carlini & Wagner in L2."""

import math
from functools import partial

import torch
from torch import Tensor

from sparring.attacks.constant import State, search_constant
from sparring.attacks.nearest import Nearest, euclidean, leader, prepared
from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, per_example
from sparring.core.threat import Threat

BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8
"""Adam's own defaults, which the paper uses."""


def carlini_wagner(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 1000,
    search_steps: int = 9,
    lr: float = 0.01,
    confidence: float = 0.0,
    initial_constant: float = 1e-3,
    rng: torch.Generator | None = None,  # noqa: ARG001
) -> Tensor:
    """The nearest lost point that Adam finds on ||z - x||^2 + c max(confidence - ahead, 0), with z = tanh(w) scaled to
    the box and ahead = the strongest rival's lead; c is searched for per example.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", 2017, section VI.A (their f_6 and the
    change of variable of section V.B).

    Args:
        gain: with `rivals`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: an `L2` with a bounded box; eps plays no part.
        steps: Adam steps per constant; a descent that makes no progress ends early. The paper takes 10 000.
        search_steps: how many constants are tried.
        lr: Adam's learning rate, in units of w.
        confidence: how far the rival must be ahead, in logits, in the range [0, inf).
        initial_constant: the first c.
        rng: has no use here: the attack draws nothing.

    Returns:
        z `[B, ...]`: the nearest lost point, or x where none was found or x itself is lost.

    Raises:
        TypeError: when the gain has no rivals, or the threat is no L2.
        ValueError: when a parameter is out of its range, or the box is not bounded.
    """
    gain, x, metric = prepared("carlini_wagner", gain, x, threat)
    ball = euclidean("carlini_wagner", metric)
    for name, count in (("steps", steps), ("search_steps", search_steps)):
        check_count(name, count)
    for name, value in (("lr", lr), ("initial_constant", initial_constant)):
        check_positive(name, value)
    if not 0 <= confidence < math.inf:
        raise ValueError(f"The 'confidence' parameter must be in the range [0, inf). Got {confidence!r} instead.")
    if not (math.isfinite(ball.low) and math.isfinite(ball.high)):
        raise ValueError(
            f"carlini_wagner changes variables on a bounded box. Got low={ball.low!r}, high={ball.high!r}; use ddn."
        )
    if len(x) == 0:
        return x
    run, rows = Nearest.start(gain, x, ball, leader)
    if len(run) == 0:
        return x
    middle, half = (ball.low + ball.high) / 2, (ball.high - ball.low) / 2
    w = ((run.origin - middle) / half * (1 - 1e-6)).atanh()
    move = partial(_move, middle=middle, half=half, lr=lr, confidence=confidence, steps=steps)
    begin = (w, torch.zeros_like(w), torch.zeros_like(w), w.tanh())
    search = partial(search_constant, steps=steps, search_steps=search_steps, initial_constant=initial_constant)
    search(run, move, begin, confidence=confidence)
    return run.into(x, rows)


def _move(
    part: Nearest,
    c: Tensor,
    state: State,
    step: int,
    *,
    middle: float,
    half: float,
    lr: float,
    confidence: float,
    steps: int,
) -> tuple[State, Tensor]:
    """One step of Adam in w, from where the part is: the objective's gradient is the rival's, put together by hand."""
    w, mean, square, place = state
    z = middle + half * place
    pull = c * (part.ahead < confidence if confidence > 0 else part.ahead <= 0)
    g = torch.addcmul(2 * (z - part.origin), part.gradient, per_example(pull, z), value=-1)
    g = g.mul_(torch.addcmul(torch.full_like(place, half), place, place, value=-half))
    mean = mean.lerp(g, 1 - BETA_1)
    square = (BETA_2 * square).addcmul_(g, g, value=1 - BETA_2)
    size = (square.sqrt() / math.sqrt(1 - BETA_2 ** (step + 1))).add_(TINY)
    w = w.addcdiv(mean, size, value=-lr / (1 - BETA_1 ** (step + 1)))
    place = w.tanh()
    z = (middle + half * place).clamp_(middle - half, middle + half)
    part.visit(z, with_gradient=step < steps - 1, confidence=confidence)
    objective = part.size.square() + c * (confidence - part.ahead).clamp(min=0)
    return (w, mean, square, place), objective
