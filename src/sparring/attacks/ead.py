"""The elastic-net attack: sparse perturbations, small in L1."""

import math
from functools import partial

import torch
from torch import Tensor

from sparring.attacks.constant import State, search_constant
from sparring.attacks.nearest import Nearest, leader, prepared, slope
from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, per_example
from sparring.core.threat import Threat, flat


def ead(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 1000,
    search_steps: int = 9,
    lr: float = 0.01,
    beta: float = 1e-3,
    confidence: float = 0.0,
    initial_constant: float = 1e-3,
    elastic_rule: bool = False,
    rng: torch.Generator | None = None,  # noqa: ARG001
) -> Tensor:
    """The nearest lost point that FISTA finds on ||z - x||_2^2 + beta ||z - x||_1 + c max(confidence - ahead, 0), with
    ahead = the strongest rival's lead; c is searched for per example.

    Chen et al., "EAD: elastic-net attacks to deep neural networks via adversarial examples", 2018, algorithm 1.

    Args:
        gain: with `rivals`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: any ball, whose distance decides which lost point is nearest; `L1` is the paper's L1 rule. Its eps
            plays no part.
        steps: FISTA steps per constant, each of one gradient and one forward pass more; a descent that makes no
            progress ends early.
        search_steps: how many constants are tried.
        lr: the first step size; it falls with the square root of what is left of the steps.
        beta: weight of the L1 norm, and how much each step shrinks every coordinate of z - x, in input units.
        confidence: how far the rival must be ahead, in logits, in the range [0, inf).
        initial_constant: the first c.
        elastic_rule: keep the lost point with the least beta ||z - x||_1 + ||z - x||_2^2 instead: the paper's EN rule.
        rng: has no use here: the attack draws nothing.

    Returns:
        z `[B, ...]`: the nearest lost point, or x where none was found or x itself is lost.

    Raises:
        TypeError: when the gain has no rivals, or the threat no metric.
        ValueError: when a parameter is out of its range.
    """
    gain, x, metric = prepared("ead", gain, x, threat)
    for name, count in (("steps", steps), ("search_steps", search_steps)):
        check_count(name, count)
    for name, value in (("lr", lr), ("beta", beta), ("initial_constant", initial_constant)):
        check_positive(name, value)
    if not 0 <= confidence < math.inf:
        raise ValueError(f"The 'confidence' parameter must be in the range [0, inf). Got {confidence!r} instead.")
    if len(x) == 0:
        return x
    run, rows = Nearest.start(gain, x, metric, leader)
    if len(run) == 0:
        return x
    move = partial(_move, lr=lr, beta=beta, confidence=confidence, elastic_rule=elastic_rule, steps=steps)
    begin = (run.origin, run.origin, run.ahead, run.gradient)
    search = partial(search_constant, steps=steps, search_steps=search_steps, initial_constant=initial_constant)
    search(run, move, begin, confidence=confidence)
    return run.into(x, rows)


def _move(
    part: Nearest,
    c: Tensor,
    state: State,
    step: int,
    *,
    lr: float,
    beta: float,
    confidence: float,
    elastic_rule: bool,
    steps: int,
) -> tuple[State, Tensor]:
    """From y, where the state's lead and gradient are, to the next z, which is judged, and the y beyond it."""
    z, y, ahead, gradient = state
    x = part.origin
    pull = c * (ahead < confidence if confidence > 0 else ahead <= 0)
    g = torch.addcmul(2 * (y - x), gradient, per_example(pull, y), value=-1)
    d = y.sub(g, alpha=lr * math.sqrt(1 - step / steps)).sub_(x)
    d = torch.nn.functional.softshrink(d, beta)
    before, z = z, part.boxed(x + d)
    d = flat(z - x)
    elastic = d.square().sum(1).add(d.abs().sum(1), alpha=beta)
    part.visit(z, with_gradient=False, confidence=confidence, size=elastic if elastic_rule else None)
    objective = elastic + c * (confidence - part.ahead).clamp(min=0)
    y = z + step / (step + 3) * (z - before)
    if step < steps - 1:
        ahead, gradient = slope(part.gain, y.to(part.x.dtype), leader)
    return (z, y, ahead, gradient.to(x.dtype)), objective
