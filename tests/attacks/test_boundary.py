"""How the boundary attack adapts its step sizes."""

import torch

from sparring.attacks.boundary import WINDOW, Pace


def test_a_pace_grows_above_its_band_shrinks_below_it_and_waits_for_a_full_window() -> None:
    pace = Pace.of(0.01, torch.zeros(4, dtype=torch.float64))
    for k in range(WINDOW):
        assert (pace.size == 0.01).all()
        pace.learn(torch.tensor([True, k % 2 == 0, k < 3, k < 1]), (0.2, 0.5), 1.5, most=1.0)
    torch.testing.assert_close(pace.size, torch.tensor([0.015, 0.01, 0.01, 0.01 / 1.5], dtype=torch.float64))
    assert (pace.asked == 0).all()
    pace = Pace.of(0.9, torch.zeros(1, dtype=torch.float64))
    for _ in range(WINDOW):
        pace.learn(torch.tensor([True]), (0.2, 0.5), 1.5, most=1.0)
    assert pace.size == 1.0
