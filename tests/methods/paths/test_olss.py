"""OLSS's equal-error path against regressions of the teacher's own states, written out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import PROCESSES, Watched, mixture_problem, shipped_problem, unet_problem

from optsteps.methods.base import SearchProblem
from optsteps.methods.paths import OLSS
from optsteps.methods.paths.olss import Reach
from optsteps.methods.paths.teacher_table import TeacherTable, teacher_table
from optsteps.trajectories import Trajectories


def regression_errors(problem: SearchProblem) -> dict[tuple[int, ...], list[float]]:
    """A function of paths: the mean squared errors of least squares fits of all later states, pooled over samples."""
    record = Trajectories(problem.denoiser).record(problem.teacher, problem.walker, problem.noise, problem.cond)
    count = problem.teacher.steps
    states = [record.states[:, k].double().flatten().numpy() for k in range(count + 1)]
    outputs = [record.predictions[:, k].double().flatten().numpy() for k in range(count)]
    alpha = problem.process.alpha(problem.teacher.times).tolist()
    sigma = problem.process.sigma(problem.teacher.times).tolist()

    class Errors(dict):
        def __missing__(self, path: tuple[int, ...]) -> list[float]:
            seen = [(states[k] - alpha[k] * outputs[k]) / sigma[k] if alpha[k] else outputs[k] for k in path]
            regressors = np.stack([states[path[-1]], *seen], 1)
            self[path] = []
            for j in range(path[-1] + 1, count + 1):
                fit = regressors @ np.linalg.lstsq(regressors, states[j], rcond=None)[0]
                self[path].append(float(np.mean((states[j] - fit) ** 2)))
            return self[path]

    return Errors()


def naive_path(errors: dict[tuple[int, ...], list[float]], error: float, count: int) -> list[int]:
    path = [0]
    while path[-1] < count:
        possible = [k for k, e in enumerate(errors[tuple(path)]) if e <= error]
        path.append(path[-1] + 1 + (max(possible) if possible else 0))
    return path


def naive_search(errors: dict[tuple[int, ...], list[float]], steps: int, count: int) -> list[int]:
    """Of the paths of all errors that matter the one of the least error with at most so many steps."""
    low, high = 0.0, 10.0
    for _ in range(200):
        middle = (low * high) ** 0.5 if low > 0 else high / 4
        low, high = (low, middle) if len(naive_path(errors, middle, count)) - 1 <= steps else (middle, high)
    return naive_path(errors, high, count)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_errors_are_those_of_least_squares(name: str) -> None:
    problem = mixture_problem(name, samples=12, teacher_steps=9)
    table, errors = teacher_table(problem, torch.arange(12), 64), regression_errors(problem)
    reach = Reach(TeacherTable(table.process, table.times, table.products.mean(0, keepdim=True)))
    for path in [(0,), (0, 1), (0, 3), (0, 2, 5), (0, 1, 2, 6), (0, 8)]:
        expected = torch.tensor(errors[path], dtype=torch.float64)
        torch.testing.assert_close(reach.errors(path), expected, rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_paths_are_those_of_a_naive_search(name: str) -> None:
    problem = mixture_problem(name, samples=12, teacher_steps=16)
    errors = regression_errors(problem)
    found = OLSS(shard_size=5).search(problem, [1, 2, 3, 5, 8])
    for n, schedule in found.schedules.items():
        naive = naive_search(errors, n, 16)
        if len(naive) - 1 == n:
            assert schedule.metadata["indices"] == naive
        assert torch.equal(schedule.times, problem.teacher.times[schedule.metadata["indices"]])
        assert schedule.steps == n
    assert found.nfe == 16


def test_on_the_shipped_network() -> None:
    problem = shipped_problem(torch.float32, samples=4, teacher_steps=20)
    errors = regression_errors(problem)
    for n, schedule in OLSS().search(problem, [3, 6]).schedules.items():
        assert schedule.metadata["indices"] == naive_search(errors, n, 20)


def test_every_step_count_up_to_the_teachers_has_a_path() -> None:
    problem = mixture_problem("edm", samples=3, teacher_steps=12)
    found = OLSS().search(problem, list(range(1, 13)))
    assert [schedule.steps for schedule in found.schedules.values()] == list(range(1, 13))
    assert found.schedules[12].times.tolist() == problem.teacher.times.tolist()
    shared = list(found.evidence["errors"].values())
    assert all(more >= fewer for more, fewer in pairwise(shared))
    with pytest.raises(ValueError, match="only 12"):
        OLSS().search(problem, [13])


def test_nothing_beyond_the_teachers_walk_is_evaluated() -> None:
    problem = unet_problem(torch.float32, samples=5, teacher_steps=9)
    watched = Watched(problem.denoiser)
    found = OLSS(shard_size=2).search(replace(problem, denoiser=watched), [2, 4])
    assert sum(watched.batches) == 5 * 9 == OLSS().evaluations(problem, [2, 4]).count
    assert found.nfe == 9
    whole = OLSS().search(problem, [2, 4])
    assert [s.metadata["indices"] for s in found.schedules.values()] == [
        s.metadata["indices"] for s in whole.schedules.values()
    ]
