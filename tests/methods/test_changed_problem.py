"""A method asked with another solver, or with fewer samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from problems import mixture_problem

from optsteps.methods import OSS, Bayesian, ChangedProblem, HandMade, Path
from optsteps.metrics.base import Judge
from optsteps.metrics.teacher_judge import TeacherJudge
from optsteps.solvers import build_solver


def test_the_search_uses_its_own_solver_and_samples() -> None:
    problem = mixture_problem("edm", 12, 30)
    stochastic = dataclasses.replace(problem, solver=build_solver("er_sde_2"))
    with pytest.raises(ValueError, match="deterministic"):
        OSS().search(stochastic, [4])
    alone = OSS(average="mean")
    found = ChangedProblem(alone, build_solver("euler")).search(stochastic, [4])
    expected = alone.search(problem, [4])
    assert torch.equal(found.schedules[4].times, expected.schedules[4].times)
    walked = dataclasses.replace(stochastic, teacher_solver=build_solver("er_sde_2"))  # as a run names it
    found = ChangedProblem(alone, build_solver("euler")).search(walked, [4])
    assert torch.equal(found.schedules[4].times, expected.schedules[4].times)
    few = ChangedProblem(alone, samples=5).search(problem, [4])
    assert few.per_sample is not None
    assert expected.per_sample is not None
    assert torch.equal(few.per_sample[4], expected.per_sample[4][:5])


def test_too_many_or_no_samples() -> None:
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        ChangedProblem(OSS(), samples=0)
    with pytest.raises(ValueError, match="wants 13 samples and the problem has 12"):
        ChangedProblem(OSS(), samples=13).search(mixture_problem("edm", 12, 30), [4])


def test_it_is_asked_as_the_method_is() -> None:
    problem = dataclasses.replace(mixture_problem("edm", 6, 12), solver=build_solver("dpmpp_2m"))
    few = ChangedProblem(OSS(start="free"), samples=4)
    assert few.starts_freely
    assert few.chooses_orders(problem)
    assert few.chooses_orders(problem.part(torch.arange(2))), "the same of a problem that is too small"
    by_euler = ChangedProblem(OSS(), build_solver("euler"))
    assert not by_euler.starts_freely
    assert not by_euler.chooses_orders(problem)
    assert ChangedProblem(HandMade("edm")).alone() is None
    path = Path()
    expected = path.proposals(problem.part(torch.arange(4)), [3])
    assert ChangedProblem(path, samples=4).proposals(problem, [3])[3] == expected[3]
    assert len(expected[3]) > 1


def test_every_sample_is_searched_for_itself_where_the_solver_is_the_problem_s() -> None:
    problem = mixture_problem("edm", 6, 12)
    alone = ChangedProblem(OSS(), samples=2).alone()
    assert alone is not None
    assert len(alone.sample_schedules(problem, alone.search(problem, [3]), 3)) == 6
    assert ChangedProblem(OSS(), build_solver("euler")).alone() is None


def test_the_figure_is_of_the_changed_problem() -> None:
    problem = mixture_problem("edm", 12, 8)
    asked = list[list[int]]()

    def judges(numbers: Sequence[int]) -> list[Judge]:
        asked.append(list(numbers))
        return [TeacherJudge(1.0)]

    method = Bayesian("psnr", {"edm": HandMade("edm")})
    judge = ChangedProblem(method, samples=5).judge(dataclasses.replace(problem, judges=judges))
    assert isinstance(judge, TeacherJudge)
    assert all(max(numbers) < 5 for numbers in asked)
