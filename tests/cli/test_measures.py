"""What a claim measures of a run on the other test splits of its data."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.commands.measures import Look, shifted
from sparring.core.threat import Linf
from sparring.domains.image.source import Images


class Brightness(nn.Module):
    """Class 1 where the mean pixel is above one half: wrong under attack within eps of it."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright], 1)


def split(levels: list[float]) -> Images:
    """One flat image for each grey level, of class 1."""
    pixels = torch.tensor(levels)[:, None, None, None].expand(-1, 1, 4, 4)
    return Images(pixels.clone(), torch.ones(len(levels), dtype=torch.int64))


def looking(test: Images, other: Images, rows: list[int]) -> Look:
    x, y = test.take(torch.tensor(rows))
    data = SimpleNamespace(test=test, shifted={"dusk": other})
    inputs: Any = SimpleNamespace(
        target=SimpleNamespace(data=data), model=Brightness(), x=x, y=y, rows=torch.tensor(rows), seed=0, batch_size=4
    )
    return Look(inputs, Linf(0.1))


def test_a_split_that_is_the_test_set_seen_otherwise_is_measured_on_the_same_rows() -> None:
    test, dusk = split([0.9] * 6), split([0.9, 0.1, 0.55, 0.9, 0.1, 0.55])
    found = shifted(looking(test, dusk, [0, 2, 4, 5]))
    assert found["dusk clean"].tolist() == [1, 1, 0, 1]
    assert found["dusk PGD-20"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("count", "n"), [(40, 20), (7, 7)])
def test_a_split_of_other_images_is_measured_on_as_many_of_its_own(count: int, n: int) -> None:
    """Here a third falls to darkness and a third to the attack; whoever is measured sees the same rows."""
    test, dusk = split([0.9] * 60), split([(0.9, 0.1, 0.55)[k % 3] for k in range(count)])
    rows = list(range(40, 60))
    found, again = shifted(looking(test, dusk, rows)), shifted(looking(test, dusk, rows[::-1]))
    clean, attacked = found["dusk clean"], found["dusk PGD-20"]
    assert len(clean) == len(attacked) == n
    assert (attacked <= clean).all()
    assert 0 < attacked.mean() < clean.mean() < 1
    assert torch.equal(again["dusk clean"], clean)
