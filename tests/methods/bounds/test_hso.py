"""HSO's sum of mid-point errors, minimised exactly: brute force and a closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from problems import PROCESSES, mixture_problem

from optsteps.methods import HSO, HandMade
from optsteps.methods.bounds.hso import least_spacing
from optsteps.processes import VP
from optsteps.schedules import Schedule, build_schedule


def vp_problem(teacher_steps: int = 10):
    """From timestep 999 to 10, without a step to noise level 0."""
    problem = mixture_problem("vp", samples=2, teacher_steps=5)
    return replace(problem, teacher=build_schedule("time_uniform", VP.linear(), teacher_steps, 999.0, 10.0))


def fitness(times: list[float], process: VP, p: float, penalty: float) -> float:
    total = 0.0
    for t, t_next in pairwise(times):
        start, end = (float(process.log_snr(u)) for u in (t, t_next))
        level = math.exp(-(start + end) / 2)
        total += level / (1 + level**-2) ** ((p - 1) / 2) * (math.exp(end) - math.exp(start))
        total += penalty * max(0.0, least_spacing(len(times) - 1) - (t - t_next) / 999) ** 2
    return total


@pytest.mark.parametrize("penalty", [0.0, 500.0])
@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_it_is_the_least_of_all_schedules_on_its_grid(steps: int, p: float, penalty: float) -> None:
    problem, nodes = vp_problem(), 11
    process = problem.process
    grid = torch.linspace(*process.log_snr([999.0, 10.0]).tolist(), nodes, dtype=torch.float64)
    times = process.time_of_log_snr(grid).tolist()
    tried = [
        [times[0], *(times[k] for k in inner), times[-1]] for inner in combinations(range(1, nodes - 1), steps - 1)
    ]
    best = min(tried, key=lambda some: fitness(some, process, p, penalty))
    found = HSO(p, penalty, nodes=nodes).search(problem, [steps]).schedules[steps]
    assert set(found.times.tolist()) <= set(times)
    least = fitness(best, process, p, penalty)
    assert fitness(found.times.tolist(), process, p, penalty) == pytest.approx(least, rel=1e-9)


def test_the_penalty_keeps_times_apart() -> None:
    free, kept = (HSO(1.0, penalty).search(vp_problem(), [4]).schedules[4].times for penalty in (0.0, 1e5))
    assert float(-free.diff().max()) < float(-kept.diff().max())
    assert float(-kept.diff().max()) > 0.12 * 999


def test_spacing_falls_from_4_steps_to_20() -> None:
    assert [least_spacing(n) for n in (2, 4, 12, 20, 30)] == pytest.approx([0.15, 0.15, 0.08, 0.01, 0.01])


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_with_p_of_1_it_is_uniform_log_snr(name: str) -> None:
    """The cost of a step is then 2 sinh(h / 2), which is convex."""
    problem = mixture_problem(name, samples=2, teacher_steps=8)
    limits = {"noise_max": 50.0, "noise_min": 0.05} if name == "flow" else {}
    for n in (4, 7):
        inner = n - (name != "edm")
        found = HSO(1.0, nodes=40 * inner + 1, **limits).search(problem, [n])
        other = HandMade("logsnr", **limits).search(problem, [n]).schedules[n]
        torch.testing.assert_close(found.schedules[n].times, other.times, rtol=1e-9, atol=1e-9)
        assert found.nfe == 0


def test_the_range_is_searched_on_its_fitness() -> None:
    problem = vp_problem()
    for penalty in (0.0, 1e4):
        found = HSO(2.0, penalty, search_range=True, nodes=60).search(problem, [5])
        schedule = found.schedules[5]
        tried = {}
        for first in torch.linspace(0.96, 1, 5, dtype=torch.float64).tolist():
            for last in torch.linspace(0.01, 0.03, 5, dtype=torch.float64).tolist():
                ends = [first * 999.0, last * 999.0]
                teacher = Schedule(ends, problem.process)
                alone = HSO(2.0, penalty, nodes=60).search(replace(problem, teacher=teacher), [5]).schedules[5]
                tried[tuple(alone.times.tolist())] = fitness(alone.times.tolist(), problem.process, 2.0, penalty)
        assert tuple(schedule.times.tolist()) == min(tried, key=lambda times: tried[times])
        assert schedule.metadata["range"] == "its method's"
        assert found.nfe == 0
    clean = HSO(2.0, search_range=True).search(mixture_problem("vp", samples=1, teacher_steps=5), [4]).schedules[4]
    assert (clean.steps, float(clean.times[-1])) == (4, -1.0)
    assert 0.01 * 999 <= float(clean.times[-2]) <= 0.03 * 999


def test_what_it_cannot_take_is_named() -> None:
    edm = mixture_problem("edm", samples=1, teacher_steps=5)
    for method in (HSO(penalty=1.0), HSO(search_range=True)):
        with pytest.raises(ValueError, match="clock, which has no end"):
            method.search(edm, [4])
    with pytest.raises(ValueError, match="raise nodes"):
        HSO(nodes=5).search(edm, [5])
    with pytest.raises(ValueError, match="leave out search_range"):
        HSO(search_range=True, noise_max=50.0)
    for settings_of in ({"p": -1.0}, {"penalty": float("nan")}, {"nodes": 1}):
        with pytest.raises(ValueError, match="must be"):
            HSO(**settings_of)
