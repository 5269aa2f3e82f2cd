"""Schedules as points of a box: every point is one, and every schedule that has to be held is a point."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import PROCESSES, teacher

from optsteps.methods.blackbox.spaces import GridTimes, Space, StickBreaking, at_share, share_of
from optsteps.schedules import build_schedule


def box_of(process: str, steps: int, free: bool, shares: list[float]) -> tuple[Space, torch.Tensor]:
    clock = teacher(PROCESSES[process], 40)
    space = StickBreaking.around(clock, steps, free, [])
    return space, at_share(torch.tensor(shares[: len(space.lower)], dtype=torch.float64), space)


SHARES = st.lists(st.floats(0, 1), min_size=14, max_size=14)


@given(st.sampled_from(list(PROCESSES)), st.integers(2, 12), st.booleans(), SHARES)
def test_every_point_of_the_box_is_a_schedule_of_its_own(
    process: str, steps: int, free: bool, shares: list[float]
) -> None:
    space, numbers = box_of(process, steps, free, shares)
    schedule = space.schedule(numbers)
    assert schedule.steps == steps
    levels, range_ = schedule.noise_levels, teacher(PROCESSES[process], 40).noise_levels
    assert (levels.diff() < 0).all()
    assert levels[0] <= range_[0]
    assert levels[-1] >= range_[-1]
    assert (levels[-1] == range_[-1]) or (free and range_[-1] > 0)
    assert (levels[0] == range_[0]) or free
    if process != "vp":  # whose least noise level may be met
        torch.testing.assert_close(space.numbers(schedule), numbers, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("steps", [2, 5, 10])
def test_the_box_holds_the_schedules_that_it_is_drawn_around(process: str, free: bool, steps: int) -> None:
    clock = teacher(PROCESSES[process], 40)
    ends = clock.times[[0, -1]].tolist() if not clock.ends_clean else clock.times[[0, -2]].tolist()
    final = "zero" if clock.ends_clean else "t_min"
    given_ = [build_schedule("time_uniform", PROCESSES[process], steps, *ends, final)]
    space = StickBreaking.around(clock, steps, free, given_)
    numbers = space.numbers(given_[0])
    near = space.schedule(numbers)
    assert ((space.lower <= numbers) & (numbers <= space.upper)).all()
    # free ends that are the teacher's are met up to the least gap that the box has
    torch.testing.assert_close(near.noise_levels.atan(), given_[0].noise_levels.atan(), rtol=0, atol=6e-3)
    torch.testing.assert_close(at_share(share_of(numbers, space), space), numbers)


def test_zeros_are_equal_gaps_on_the_clock() -> None:
    clock = teacher(PROCESSES["edm"], 40)
    space = StickBreaking.around(clock, 5, False, [])
    gaps = space.schedule(torch.zeros(4, dtype=torch.float64)).noise_levels.atan().diff()
    torch.testing.assert_close(gaps, gaps.mean().expand(5), rtol=1e-4, atol=1e-6)


def test_a_bound_that_is_hit_is_reported_and_moved() -> None:
    space = StickBreaking.around(teacher(PROCESSES["edm"], 40), 4, False, [])
    inside = torch.zeros(3, dtype=torch.float64)
    assert space.hits(inside) == []
    assert torch.equal(space.widened(inside).lower, space.lower)
    hit = torch.stack([space.lower[0], inside[1], space.upper[2]])
    assert space.hits(hit) == ["gap 1 at its least", "gap 3 at its most"]
    wider = space.widened(hit)
    assert wider.lower[0] < space.lower[0]
    assert wider.upper[2] > space.upper[2]
    assert wider.hits(hit) == []
    widest = wider
    for _ in range(20):
        widest = widest.widened(widest.lower)
    assert widest.hits(widest.lower) == []  # beyond, a gap is as good as nothing


def test_one_step_between_fixed_ends_leaves_nothing_to_search() -> None:
    clock = teacher(PROCESSES["edm"], 40)
    with pytest.raises(ValueError, match="leaves nothing to search"):
        StickBreaking.around(clock, 1, False, [])
    assert StickBreaking.around(clock, 1, True, []).schedule(torch.zeros(2).double()).steps == 1


@given(st.sampled_from(list(PROCESSES)), st.integers(1, 12), st.booleans(), st.randoms(use_true_random=False))
def test_positions_on_the_grid_come_back(process: str, steps: int, free: bool, random: object) -> None:
    grid = GridTimes(teacher(PROCESSES[process], 20), steps, free)
    places = sorted(random.sample(range(int(not free), 20), len(grid.lower)))  # type: ignore[attr-defined]
    numbers = torch.tensor(places, dtype=torch.float64)
    schedule = grid.schedule(numbers)
    assert schedule.steps == steps
    assert torch.equal(grid.numbers(schedule), numbers)
    assert grid.hits(grid.lower) == []


def test_a_schedule_that_begins_with_the_teacher_has_its_scale() -> None:
    clock = replace(teacher(PROCESSES["edm"], 12), initial_scale=70.0)
    for free, scales in ((False, {70.0}), (True, {None})):
        space = StickBreaking.around(clock, 3, free, [])
        assert {space.schedule(at_share(torch.full_like(space.lower, 0.5), space)).initial_scale} == scales
    assert GridTimes(clock, 3, False).schedule(torch.tensor([4.0, 7.0])).initial_scale == 70
    assert GridTimes(clock, 3, True).schedule(torch.tensor([0.0, 4.0, 7.0])).initial_scale == 70
    assert GridTimes(clock, 3, True).schedule(torch.tensor([1.0, 4.0, 7.0])).initial_scale is None
