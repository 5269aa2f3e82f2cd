"""Amplitude calibration: the student's range of values becomes the teacher's, and the map travels with the schedule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from problems import mixture_problem, unet_problem
from torch import Tensor

from optsteps.methods import OSS, SearchProblem, calibrate_amplitude
from optsteps.processes import EDM
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import build_solver


def walk(problem: SearchProblem, schedule: Schedule) -> Tensor:
    return sample(
        problem.denoiser, schedule, problem.solver, problem.noise, problem.cond, return_trajectory=True
    ).double()


def quantiles(states: Tensor) -> np.ndarray:
    """5 % and 95 % of states [B, C, ...] over samples and pixels: [2, C]."""
    return np.quantile(states.transpose(0, 1).flatten(1).numpy(), [0.05, 0.95], axis=1)


@pytest.mark.parametrize("model", ["edm", "vp", "flow", "network"])
@pytest.mark.parametrize("start", ["teacher", "free"])
@pytest.mark.mostly_slow(3)
def test_quantiles_are_the_teachers_at_every_node(model: str, start: str) -> None:
    problem = (
        unet_problem(torch.float64, samples=5, teacher_steps=12)
        if model == "network"
        else mixture_problem(model, samples=60, teacher_steps=16)
    )
    plain = OSS(start=start).search(problem, [4])
    schedule, cost = calibrate_amplitude(problem, plain.schedules[4], max_batch=7)
    assert cost == problem.teacher.steps + 4
    teacher, student = walk(problem, problem.teacher), walk(problem, schedule)
    before = walk(problem, plain.schedules[4])
    indices = schedule.metadata["indices"]
    for step, node in enumerate(indices[1:], start=1):
        assert np.allclose(quantiles(student[step]), quantiles(teacher[node]), rtol=1e-9, atol=1e-12)
        assert not np.allclose(quantiles(before[step]), quantiles(teacher[node]), rtol=1e-4)


def test_every_channel_has_its_own_map() -> None:
    problem = mixture_problem("edm", samples=60, teacher_steps=16)
    schedule, _ = calibrate_amplitude(problem, OSS().search(problem, [3]).schedules[3])
    assert schedule.amplitude.shape == (3, 2, 2)
    assert not torch.allclose(schedule.amplitude[:, 0], schedule.amplitude[:, 1])


def test_calibration_is_an_option_of_the_search() -> None:
    problem = mixture_problem("edm", samples=20, teacher_steps=16)
    plain, calibrated = (OSS(amplitude=on).search(problem, [3, 5]) for on in (False, True))
    assert calibrated.nfe == plain.nfe + 2 * 16 + 3 + 5
    for n in (3, 5):
        assert plain.schedules[n].amplitude is None
        assert calibrated.schedules[n] == calibrate_amplitude(problem, plain.schedules[n])[0]


def test_calibration_travels_through_a_file(tmp_path: Path) -> None:
    problem = mixture_problem("flow", samples=20, teacher_steps=16)
    schedule = OSS(amplitude=True, start="free").search(problem, [4]).schedules[4]
    schedule.save(tmp_path / "calibrated.json")
    loaded = Schedule.load(tmp_path / "calibrated.json")
    assert loaded == schedule
    assert torch.equal(walk(problem, loaded), walk(problem, schedule))
    without = Schedule(schedule.times, schedule.process, initial_scale=schedule.initial_scale)
    assert not torch.allclose(walk(problem, without)[-1], walk(problem, schedule)[-1], rtol=1e-3)


def test_a_time_the_teacher_does_not_visit_is_named() -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=10)
    foreign = Schedule([80.0, 1.2345, problem.teacher.times[-1].item()], EDM())
    with pytest.raises(ValueError, match=r"1\.2345 is not one of them"):
        calibrate_amplitude(problem, foreign)


def test_calibration_of_constant_values_is_finite() -> None:
    problem = mixture_problem("edm", samples=3, teacher_steps=8)
    constant = dataclasses.replace(problem, noise=torch.ones(3, 2, dtype=torch.float64))
    schedule, _ = calibrate_amplitude(constant, OSS().search(constant, [3]).schedules[3])
    assert bool(torch.isfinite(schedule.amplitude).all())
    teacher, student = walk(constant, problem.teacher), walk(constant, schedule)
    assert torch.allclose(student[-1], teacher[-1], rtol=1e-9)


def test_calibration_walks_with_the_weights_and_told_times_of_the_schedule() -> None:
    problem = dataclasses.replace(mixture_problem("edm", samples=60, teacher_steps=16), solver=build_solver("dpmpp_2m"))
    times = problem.teacher.times[[0, 6, 12, 16]]
    parts = {"weights": [[0.0], [-0.2], [0.1]], "told_times": (times[:-1] * 1.05).tolist()}
    schedule, _ = calibrate_amplitude(problem, Schedule(times, problem.process, **parts))
    assert schedule.carried == parts
    teacher, student = walk(problem, problem.teacher), walk(problem, schedule)
    for step, node in enumerate([6, 12, 16], start=1):
        assert np.allclose(quantiles(student[step]), quantiles(teacher[node]), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="which heun does not take"):
        calibrate_amplitude(dataclasses.replace(problem, solver=build_solver("heun")), schedule)
