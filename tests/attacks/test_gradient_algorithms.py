"""The loops of Auto-PGD and MI-FGSM, written out step by step for comparison, and the schedules of the papers."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sparring.attacks.apgd import apgd, checkpoints
from sparring.attacks.apgd_l1 import highest, schedule
from sparring.attacks.momentum import mi_fgsm
from sparring.core.pgd import pgd
from sparring.core.threat import L1, L2, Linf

Seeded = Callable[..., torch.Generator]


def rugged(z: Tensor) -> Tensor:
    """A gain with many local maxima, on which steps of every size fail at times."""
    return (torch.sin(40 * z) + torch.cos(25 * z.roll(1, 1) * z)).sum(1)


def auto_pgd_by_hand(gain: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, eps: float, steps: int) -> Tensor:
    """Algorithm 1 of Croce & Hein 2020 for one example `[1, n]` in Linf, alpha = rho = 0.75, as the paper counts."""

    def step(z: Tensor) -> tuple[float, Tensor]:
        z = z.clone().requires_grad_(True)
        value = gain(z)
        return value.item(), torch.autograd.grad(value.sum(), z)[0].sign()

    def onto(z: Tensor) -> Tensor:
        return z.clamp(x - eps, x + eps).clamp(0, 1)

    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    w = [math.ceil(round(share * steps, 9)) for share in p]
    eta, xs, z = 2 * eps, [start], start
    f_max, sign = step(start)
    fs, x_max, sign_max = [f_max], start, sign
    maxima, held, j = {0: f_max}, True, 1
    for k in range(steps):
        aim = onto(z + eta * sign)
        ahead = aim if k == 0 else onto(z + 0.75 * (aim - z) + 0.25 * (z - xs[-2]))
        f, sign = step(ahead)
        xs.append(ahead)
        fs.append(f)
        if f > f_max:
            f_max, x_max, sign_max = f, ahead, sign
        z = ahead
        if k + 1 == w[j]:
            rises = sum(fs[i + 1] > fs[i] for i in range(w[j - 1], w[j]))
            maxima[j] = f_max
            if rises < 0.75 * (w[j] - w[j - 1]) or (held and maxima[j - 1] == f_max):
                eta, z, sign, xs[-1], fs[-1], held = eta / 2, x_max, sign_max, x_max, f_max, False
            else:
                held = True
            j += 1
    return x_max


@pytest.mark.parametrize("steps", [10, 40, 100])
def test_apgd_is_algorithm_1(steps: int, seeded: Seeded) -> None:
    x = torch.rand((24, 6), generator=seeded(0), dtype=torch.float64)
    start = Linf(0.2).sample(x, seeded(3))
    z = apgd(rugged, x, Linf(0.2), steps=steps, rng=seeded(3))
    by_hand = [auto_pgd_by_hand(rugged, x[i, None], start[i, None], 0.2, steps) for i in range(len(x))]
    torch.testing.assert_close(z, torch.cat(by_hand), rtol=0, atol=1e-9)


@pytest.mark.parametrize("period", [5, 8, 60])
def test_a_gain_that_rises_often_and_gets_nowhere_halves_the_step(period: int, seeded: Seeded) -> None:
    """Its value is a sawtooth of the call: with teeth of 5 or more it rises in three steps of four (condition 1), yet
    only those longer than an interval set new records (condition 2). Its slope is a random sign."""

    def sawtooth() -> Callable[[Tensor], Tensor]:
        calls, rng = iter(range(1000)), seeded(1)

        def gain(z: Tensor) -> Tensor:
            sign = torch.randint(0, 2, z.shape, generator=rng) * 2 - 1
            return next(calls) % period + 1e-4 * (sign * z).sum(1)

        return gain

    points = []
    for attack in (apgd, auto_pgd_by_hand):
        seen, inner = [], sawtooth()

        def gain(z: Tensor, seen: list[Tensor] = seen, inner: Any = inner) -> Tensor:
            seen.append(z.detach().clone())
            return inner(z)

        x = torch.full((1, 3), 0.5, dtype=torch.float64)
        if attack is apgd:
            apgd(gain, x, Linf(0.3), steps=100, rng=seeded(0))
        else:
            auto_pgd_by_hand(gain, x, Linf(0.3).sample(x, seeded(0)), 0.3, 100)
        points.append(torch.cat(seen))
    torch.testing.assert_close(points[0], points[1], rtol=0, atol=1e-12)


def test_the_last_steps_in_l1_start_from_the_best_point(seeded: Seeded) -> None:
    """With ten steps, on radii 3, 2 and 1 times eps for 3, 3 and 4, the one before the end is followed by a step to the
    highest point of the gain linearised where it was highest."""
    x = torch.rand((16, 6), generator=seeded(0), dtype=torch.float64)
    seen: list[Tensor] = []

    def gain(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return rugged(z)

    apgd(gain, x, L1(0.6), steps=10, rng=seeded(1))
    final = torch.stack(seen[8:12])
    values = torch.stack([rugged(z) for z in final])
    best = final[values.argmax(0), torch.arange(len(x))].requires_grad_(True)
    assert (values.argmax(0) < 3).any()
    (gradient,) = torch.autograd.grad(rugged(best).sum(), best)
    torch.testing.assert_close(seen[12], highest(gradient, x, L1(0.6)))
    assert len(seen) == 13
    assert not L1(1.3).contains(seen[2], x).all()


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []
    for steps in range(1, 60):
        assert all(0 < w < steps for w in checkpoints(steps))


def test_the_three_radii_share_the_steps() -> None:
    assert schedule(100) == [(3.0, 30), (2.0, 30), (1.0, 40)]
    assert schedule(1) == [(1.0, 1)]
    for steps in range(1, 60):
        assert sum(n for _, n in schedule(steps)) == steps
        assert schedule(steps)[-1][0] == 1.0


def test_mi_fgsm_without_momentum_is_pgd(seeded: Seeded) -> None:
    x = torch.rand((24, 6), generator=seeded(0), dtype=torch.float64)
    for threat in (Linf(0.2), L2(0.4)):
        plain = pgd(rugged, x, threat, steps=6, step_size=threat.eps / 6, random_start=False)
        torch.testing.assert_close(mi_fgsm(rugged, x, threat, steps=6, mu=0.0), plain)
        assert not torch.equal(mi_fgsm(rugged, x, threat, steps=6), plain)


@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_mi_fgsm_is_equations_6_and_7(mu: float, seeded: Seeded) -> None:
    x = torch.rand((24, 6), generator=seeded(0), dtype=torch.float64)
    z, g, values, points = x, torch.zeros_like(x), [rugged(x)], [x]
    for _ in range(10):
        z = z.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(rugged(z).sum(), z)
        g = mu * g + gradient / gradient.abs().sum(1, keepdim=True)
        z = (z.detach() + 0.02 * g.sign()).clamp(x - 0.2, x + 0.2).clamp(0, 1)
        points.append(z)
        values.append(rugged(z))
    best = torch.stack(points)[torch.stack(values).argmax(0), torch.arange(len(x))]
    torch.testing.assert_close(mi_fgsm(rugged, x, Linf(0.2), mu=mu), best, rtol=0, atol=1e-12)
