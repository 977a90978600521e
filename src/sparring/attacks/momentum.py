"""MI-FGSM: steepest ascent along an accumulated gradient, which passes small local maxima and transfers better.

Dong et al., "Boosting adversarial attacks with momentum", 2018, Algorithm 1 and, in other norms, equation 8.
"""

import torch
from torch import Tensor

from sparring.attacks.climb import Climb
from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, floating, per_example
from sparring.core.threat import Threat, flat


def mi_fgsm(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 10,
    step_size: float | None = None,
    mu: float = 1.0,
    random_start: bool = False,
    early_stop: bool = False,
    rng: torch.Generator | None = None,
) -> Tensor:
    """g <- mu g + gradient / ||gradient||_1, z <- project(z + step_size steepest(g)), from g = 0.

    Args:
        gain: `z [B, ...] -> [B]`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: where z may be; its steepest step replaces the sign of the paper.
        steps: gradient steps; one forward pass more values the last iterate.
        step_size: in input units; by default eps / steps.
        mu: the decay of the accumulated gradient, in [0, inf); at 0 this is PGD from x.
        random_start: start from a random allowed point instead of x.
        early_stop: leave out examples that are already lost; needs a gain that can judge.
        rng: source of the random start.

    Returns:
        z `[B, ...]`, allowed by the threat: of the start and all iterates, the one with the highest gain; with
        `early_stop` the first that is lost.

    Raises:
        DeadStartError: when no example's gradient at the start is above rounding level.
    """
    x = floating(x)
    check_count("steps", steps)
    step_size = threat.eps / steps if step_size is None else step_size
    check_positive("step_size", step_size)
    if isinstance(mu, bool) or not isinstance(mu, (int, float)) or not 0 <= mu < float("inf"):
        raise ValueError(f"The 'mu' parameter must be a number in the range [0, inf). Got {mu!r} instead.")
    if len(x) == 0:
        return x
    start = threat.sample(x, rng) if random_start else x
    climb = Climb.start(gain, x, threat, start, early_stop=early_stop)
    g = torch.zeros_like(x)
    for step in range(1, steps + 1):
        g = g[climb.narrow()]
        if len(climb) == 0:
            return climb.result()
        size = per_example(flat(climb.gradient.abs()).sum(1), g).clamp(min=torch.finfo(g.dtype).tiny)
        g = mu * g + climb.gradient / size
        z = climb.threat.project(climb.z + step_size * climb.threat.steepest(g, climb.z), climb.x)
        climb.visit(z, with_gradient=step < steps)
    climb.narrow()
    return climb.result()
