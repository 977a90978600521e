"""Gaussian, shot and impulse noise at five severities; see `sparring.domains.image.corruptions`."""

import torch
from torch import Tensor

from sparring.domains.image.corruptions_setting import setting, shown, uniform


def gaussian_noise(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Normal noise on every value, as in poor light. The constant is its standard deviation."""
    sigma, _, wide = setting(x, severity, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
    noise = torch.randn(wide.shape, generator=rng, dtype=wide.dtype, device=x.device)
    return shown(wide + sigma * noise, x)


def shot_noise(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Poisson noise of counted photons. The constant is how many a value of 1 stands for."""
    photons, _, wide = setting(x, severity, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
    return shown(torch.poisson(wide * photons, generator=rng) / photons, x)


def impulse_noise(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    """Values replaced by 0 or by 1, as by bit errors. The constant is the share replaced, half of them each way."""
    share, _, wide = setting(x, severity, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
    draw = uniform(wide.shape, 0, 1, wide, rng)
    return shown(torch.where(draw < share, (draw < share / 2).to(wide), wide), x)
