"""Resampling to other step counts, held to closed forms and to numpy's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optsteps import Schedule, build_schedule
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.schedules import PUBLISHED_LEVELS, resampled


@pytest.mark.parametrize("steps", [1, 3, 6, 7, 23])
@pytest.mark.parametrize("process", [EDM(), VP.linear(), Flow()], ids=lambda process: process.name)
def test_a_geometric_schedule_stays_geometric(process: Process, steps: int) -> None:
    def geometric(n: int) -> Schedule:
        return Schedule(process.time_of_noise_level(np.geomspace(70, 0.02, n + 1)), process)

    schedule = resampled(geometric(6), steps)
    torch.testing.assert_close(schedule.noise_levels, geometric(steps).noise_levels, rtol=1e-11, atol=0)
    assert schedule.times[[0, -1]].tolist() == geometric(6).times[[0, -1]].tolist()


@pytest.mark.parametrize("final", ["t_min", "zero"])
@pytest.mark.parametrize(("process", "t_max"), [(EDM(), 80.0), (VP.scaled_linear(), 999.0), (Flow(), 1.0)])
def test_the_same_number_of_steps_is_the_identity(process: Process, t_max: float, final: str) -> None:
    schedule = build_schedule("time_quadratic", process, 10, t_max, 0.01, final)
    assert resampled(schedule, 10) == schedule
    # every second time of twice as many is its own, to the last bit; a step to noise level 0 is not halved
    steps = 20 if final == "t_min" else 19
    twice = resampled(schedule, steps).times.tolist()
    own = schedule.times.tolist()
    assert twice[::2] == (own if final == "t_min" else own[:-1])
    assert twice[-1] == own[-1]


@pytest.mark.parametrize("steps", [4, 8, 20, 31])
@pytest.mark.parametrize("name", PUBLISHED_LEVELS)
def test_published_levels_as_numpy_interpolates_them(name: str, steps: int) -> None:
    levels = PUBLISHED_LEVELS[name]
    position = np.linspace(0, 10, steps + 1)
    expected = np.exp(np.interp(position, np.arange(11), np.log(levels)))
    np.testing.assert_allclose(resampled(Schedule(levels, EDM()), steps).times, expected, rtol=1e-12)
    # the last positive level, and then 0
    ended = resampled(Schedule([*levels, 0.0], EDM()), steps + 1).times
    np.testing.assert_allclose(ended, [*expected, 0.0], rtol=1e-12)


def test_a_flow_begins_at_an_infinite_level() -> None:
    flow = build_schedule("time_uniform", Flow(), 5, 1.0, 0.0)  # 1, 0.8, ..., 0.2, 0
    schedule = resampled(flow, 9)  # its four positive intervals, halved
    assert schedule.times[::2].tolist() == [1.0, *flow.times[1:5].tolist()]
    # between t = 1, for which 0.999 stands, and 0.8
    assert schedule.noise_levels[1].item() == pytest.approx((999 * 4) ** 0.5)
    above = resampled(Schedule([1.0, 0.9999, 0.5], Flow()), 7)
    assert 0.9999 < above.times[1].item() < 1


def test_few_steps_keep_the_ends() -> None:
    schedule = Schedule([80.0, 5.0, 1.0, 0.1, 0.0], EDM(), initial_scale=79.0, metadata={"method": "oss"})
    assert resampled(schedule, 1).times.tolist() == [80, 0]
    two = resampled(schedule, 2)
    assert two.times.tolist() == [80, 0.1, 0]
    assert (two.initial_scale, two.metadata) == (79.0, {"method": "oss", "resampled_from_steps": 4})


@pytest.mark.parametrize(
    ("schedule", "steps", "message"),
    [
        (Schedule([3, 2, 1], EDM()), 0, "at least 1 step, a whole number, got 0"),
        (Schedule([3, 2, 1], EDM()), 2.5, "got 2.5"),
        (
            Schedule([3, 2, 1], EDM(), orders=[1, 2]),
            4,
            r"the 2 steps of this schedule have orders.*method\.orders=fixed",
        ),
        (Schedule([3, 2, 1], EDM(), amplitude=torch.ones(2, 1, 2)), 4, "amplitude"),
        (Schedule([3, 2, 1], EDM(), weights=[[0.0], [1.0]]), 4, "weights.* do not carry over to 4 steps"),
        (Schedule([3, 2, 1], EDM(), told_times=[3.0, 2.0]), 4, "told times, which do not carry over"),
        (Schedule([3, 0], EDM()), 4, "one step to noise level 0 has no two levels"),
    ],
)
def test_what_cannot_be_resampled(schedule: Schedule, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resampled(schedule, steps)
