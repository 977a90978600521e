"""A small robust classifier of handwritten digits, and peers' attacks beside ours on it: who leaves fewer standing?"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.core.pgd import fgsm
from sparring.core.threat import Linf

CLASSES = 10
TEST = 240


@pytest.fixture(scope="session")
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images `[N, 1, 8, 8]` in [0, 1] and their labels, shuffled from a seed."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[TEST:], order[:TEST]
    return (x[train], y[train]), (x[test], y[test])


@pytest.fixture(scope="session")
def digits_model(digits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> nn.Module:
    """Two convolutions and two linear layers, frozen and in eval mode, trained for a few seconds by FGSM from a
    random start at 0.1: right on 98 % of the clean test images, and on 80 % under PGD at that radius."""
    x, y = digits[0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, CLASSES),
        )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x), generator=rng).split(64):
            truth = y[rows]

            def gain(z: Tensor, truth: Tensor = truth) -> Tensor:
                return F.cross_entropy(model(z), truth, reduction="none")

            z = fgsm(gain, x[rows], Linf(0.1), random_start=True, rng=rng)
            optimizer.zero_grad()
            F.cross_entropy(model(z), truth).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def digits_test(digits: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """240 images `[240, 1, 8, 8]` in [0, 1] that the model has not seen, and their labels."""
    return digits[1]


@pytest.fixture(scope="session")
def not_weaker() -> Callable[[Tensor, Tensor], None]:
    """`not_weaker(ours, theirs)`: asserts that what our attack leaves standing `[N]` is not more than what a peer's
    leaves, beyond chance.

    With b examples that only ours leaves standing and c that only theirs does, McNemar's paired difference (b - c) / N
    has standard error sqrt(b + c) / N under no difference; two of them, and one example against the smallest counts.
    """

    def check(ours: Tensor, theirs: Tensor) -> None:
        assert ours.shape == theirs.shape
        b, c = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
        message = f"ours leaves {int(ours.sum())} standing, theirs {int(theirs.sum())} of {len(ours)}: {b} only by ours"
        assert b - c <= 1 + 2 * math.sqrt(b + c), message

    return check
