"""DeepFool: step onto the nearest linearised boundary until the class changes, and a search back."""

import torch
from torch import Tensor

from sparring.attacks.minimal import boxed, closer, widened
from sparring.attacks.nearest import prepared
from sparring.attacks.plane import Plane, nearest_plane
from sparring.core.gain import Gain
from sparring.core.standing import check_count, check_positive, per_example
from sparring.core.threat import Metric, Threat, flat


def deepfool(
    gain: Gain,
    x: Tensor,
    threat: Threat,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    rng: torch.Generator | None = None,  # noqa: ARG001 - nothing here is random, and every attack is called alike
) -> Tensor:
    """A near lost point of each example. Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep
    neural networks", 2016, algorithm 2, for any norm (section 3.3) and inside the box.

    The total step r grows by the shortest step from z to the nearest linearised boundary, z = x + (1 + overshoot) r;
    an example leaves at its first lost z. Departs from the paper in the box, which the steps know of, and in a
    search back for a nearer lost point (`minimal.closer`), of seven forward passes.

    Args:
        gain: what is climbed; needs `rivals`.
        x: clean inputs `[B, ...]`, inside the threat's box.
        threat: whose norm is made small and whose box is kept; its eps plays no part.
        steps: linearisations, each of one forward pass and one backward pass for every candidate.
        overshoot: how much farther than the linearised boundary, as a share of the whole way.
        candidates: how many rivals, the strongest, are linearised.
        rng: unused.

    Returns:
        z `[B, ...]` in the box: lost, or x where no lost point was found or x itself was lost.

    Raises:
        TypeError: when the gain has no rivals, or the threat measures no distances.
        ValueError: when a parameter is out of its range.
    """
    standing, x, ball = prepared("deepfool", gain, x, threat)
    check_count("steps", steps)
    check_count("candidates", candidates)
    check_positive("overshoot", overshoot)
    if len(x) == 0:
        return x
    best, found = x.clone(), []
    rows = torch.arange(len(x), device=x.device)
    start = z = widened(x)
    total, here, space = torch.zeros_like(z), standing, ball
    for step in range(steps + 1):
        asked = z.to(x.dtype).detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            ahead = here.rivals(asked)
        lost = (ahead.detach() > 0).any(1)
        stand = (~lost).nonzero().squeeze(1)
        if step > 0 and len(stand) < len(rows):
            best[rows[lost]] = asked.detach()[lost]
            found.append(rows[lost])
        if len(stand) == 0 or step == steps:
            break
        rivals = ahead.detach().topk(min(candidates, ahead.shape[1] - 1), dim=1).indices
        plane = nearest_plane(ahead, asked, rivals, space, stand)
        start, rows = start[stand], rows[stand]
        if len(stand) < len(lost):
            here, space = here.take(stand), space.take(stand)
        total = total[stand] + _trusted(plane, widened(asked.detach()[stand]), space)
        z = boxed(start + (1 + overshoot) * total, space)
    if found:
        won = torch.cat(found)
        best[won] = closer(standing.take(won), best[won], x[won], ball.take(won))
    return best


def _trusted(plane: Plane, z: Tensor, threat: Metric) -> Tensor:
    """The step onto the plane; what the box leaves of the steepest step onto it, where that is less than a fifth as
    long.

    Where the steepest coordinates are at their bounds the linear model asks for a step across the whole picture, far
    beyond where it means anything; the paper's step, clipped, comes less far and asks again.
    """
    steep = threat.steepest(plane.normal, z)
    slope = flat(steep * plane.normal).sum(1)
    size = (plane.rise.clamp(min=0) / slope.clamp(min=torch.finfo(slope.dtype).tiny)).clamp(max=1e6)
    clipped = boxed(z + per_example(size, z) * steep, threat) - z
    nothing = torch.zeros_like(z)
    far = threat.distance(plane.step, nothing) > 5 * threat.distance(clipped, nothing)
    return torch.where(per_example(far, z), clipped, plane.step)
