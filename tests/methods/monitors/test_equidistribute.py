"""Equal shares of a profile against the cumulated profile itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from optsteps.methods.monitors import equidistribute


@st.composite
def profiles(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A rising or falling clock with increments, some of them 0."""
    widths = draw(st.lists(st.floats(0.01, 3), min_size=1, max_size=8))
    clock = torch.tensor([0.0, *widths], dtype=torch.float64).cumsum(0) - draw(st.floats(-5, 5))
    increment = st.floats(0.001, 4) | st.just(0.0)
    increments = draw(st.lists(increment, min_size=len(widths), max_size=len(widths)).filter(any))
    return (clock if draw(st.booleans()) else clock.flip(0)), torch.tensor(increments, dtype=torch.float64)


def passed(clock: Tensor, increments: Tensor, point: float) -> float:
    """What has been cumulated at a point, interval by interval."""
    total = 0.0
    for k, increment in enumerate(increments.tolist()):
        share = (point - float(clock[k])) / float(clock[k + 1] - clock[k])
        total += increment * min(1.0, max(0.0, share))
    return total


@settings(deadline=None, max_examples=200)
@given(profiles(), st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_every_step_has_an_equal_share(profile: tuple[Tensor, Tensor], steps: list[int]) -> None:
    clock, increments = profile
    points = equidistribute(clock, increments, steps)
    assert set(points) == set(steps)
    for n, at in points.items():
        assert len(at) == n + 1
        assert torch.equal(at[[0, -1]], clock[[0, -1]])
        assert bool((at.diff() * (clock[-1] - clock[0]).sign() > 0).all())
        for i in range(1, n):
            expected = i / n * float(increments.sum())
            assert passed(clock, increments, float(at[i])) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert torch.equal(at, equidistribute(clock, increments, [n])[n])  # one profile answers all step counts


def test_no_point_lies_where_there_is_nothing_to_share() -> None:
    clock = torch.arange(6, dtype=torch.float64)
    points = equidistribute(clock, torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), [2, 4])
    assert points[4].tolist() == [0.0, 1.5, 2.0, 3.5, 5.0]
    assert points[2][1] in (2.0, 3.0)


@pytest.mark.parametrize(
    ("clock", "increments", "steps", "message"),
    [
        ([0.0, 1.0, 1.0], [1.0, 1.0], [2], r"strictly monotone; got \[0.0, 1.0, 1.0\]"),
        ([0.0], [], [2], r"at least two finite numbers"),
        ([0.0, math.inf], [1.0], [2], r"finite numbers, strictly monotone; got"),
        ([0.0, 1.0, 2.0], [1.0], [2], r"3 points have 2 increments between them, got \[1\]"),
        ([0.0, 1.0, 2.0], [1.0, -1e-3], [2], r"not negative"),
        ([0.0, 1.0, 2.0], [0.0, 0.0], [2], r"not all 0, got \[0.0, 0.0\]"),
        ([0.0, 1.0, 2.0], [1.0, math.nan], [2], r"finite"),
        ([0.0, 1.0], [1.0], [0, 3], r"integers of at least 1, got \[0, 3\]"),
        ([0.0, 1.0], [1.0], [], r"got \[\]"),
    ],
)
def test_errors_name_what_is_wrong(clock: list[float], increments: list[float], steps: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        equidistribute(torch.tensor(clock), torch.tensor(increments), steps)
