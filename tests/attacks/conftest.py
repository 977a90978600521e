"""Models that every attack is tried on: linear ones, whose answer is known exactly, and a small curved one."""

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def linear() -> nn.Module:
    """A linear classifier from `[B, 12]` to 2 logits, in float64."""
    torch.manual_seed(0)
    return nn.Linear(12, 2, dtype=torch.float64)


@pytest.fixture
def curved() -> nn.Module:
    """A small trained-looking network from images `[B, 1, 6, 6]` to 5 logits, in float32 and eval mode."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 32), nn.Tanh(), nn.Linear(32, 5)
    )
    return model.eval()


@pytest.fixture
def images(curved: nn.Module) -> tuple[Tensor, Tensor]:
    """24 images in the box, away from its edge, with the classes that `curved` gives them: all are standing."""
    rng = torch.Generator().manual_seed(2)
    x = 0.2 + 0.6 * torch.rand((24, 1, 6, 6), generator=rng)
    with torch.no_grad():
        return x, curved(x).argmax(1)
