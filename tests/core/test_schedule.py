"""Schedules: their values at the ends and the breaks, and between them."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.core.schedule import SCHEDULES, Progress, constant, cosine, one_cycle, piecewise, ramp

UNIT = st.floats(0, 1)
INNER = st.floats(0.01, 0.99)


def test_values_at_the_ends_and_the_breaks() -> None:
    assert [constant(p) for p in (0, 0.5, 1)] == [1, 1, 1]
    assert [piecewise(p) for p in (0, 0.4999, 0.5, 0.7499, 0.75, 1)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [cosine(p) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0], abs=1e-15)
    assert [one_cycle(p) for p in (0, 0.15, 0.3, 0.65, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-15)
    assert [ramp(p, 0.5) for p in (0, 0.25, 0.5, 1)] == pytest.approx([0.1, 0.55, 1, 1], abs=1e-15)
    assert [ramp(p, 0.0) for p in (0, 0.5, 1)] == [1, 1, 1]
    assert [one_cycle(p, peak=1.0) for p in (0, 0.5, 1)] == [0, 0.5, 1]
    assert [one_cycle(p, peak=0.0) for p in (0, 0.5, 1)] == [1, 0.5, 0]


@given(UNIT, UNIT, INNER)
def test_continuous_schedules_never_jump(p: float, q: float, at: float) -> None:
    """Lipschitz: |f(p) - f(q)| <= steepest slope |p - q|."""
    gap = abs(p - q) + 1e-12
    assert abs(one_cycle(p, at) - one_cycle(q, at)) <= gap / min(at, 1 - at) + 1e-12
    assert abs(ramp(p, at) - ramp(q, at)) <= 0.9 * gap / at + 1e-12
    assert abs(cosine(p) - cosine(q)) <= math.pi / 2 * gap


@given(UNIT, UNIT, INNER)
def test_monotone_where_they_should_be(p: float, q: float, at: float) -> None:
    low, high = min(p, q), max(p, q)
    assert cosine(low) >= cosine(high)
    assert piecewise(low) >= piecewise(high)
    assert ramp(low, at) <= ramp(high, at) + 1e-15
    up, down = (at * low, at * high), (at + (1 - at) * low, at + (1 - at) * high)
    assert one_cycle(up[0], at) <= one_cycle(up[1], at) + 1e-12
    assert one_cycle(down[0], at) >= one_cycle(down[1], at) - 1e-12


@given(UNIT, UNIT, INNER)
def test_between_a_start_and_one(p: float, start: float, until: float) -> None:
    for _, schedule in SCHEDULES:
        assert 0 <= schedule(p) <= 1
    assert start - 1e-12 <= ramp(p, until, start) <= 1 + 1e-12
    assert ramp(0.0, until, start) == start
    assert ramp(until, until, start) == 1
    assert partial(ramp, until=until)(1.0) == 1


def test_progress_is_what_it_was_last_told() -> None:
    progress = Progress()
    assert progress() == 1.0  # a game made by hand is at its end
    progress.value = 0.25
    assert progress() == 0.25
