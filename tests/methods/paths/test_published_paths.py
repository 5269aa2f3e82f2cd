"""BOSS and GITS: index for index the paths of the released programmes, and nothing evaluated beyond the teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from naive import best_path, boss_costs, gits_costs
from problems import Watched, mixture_problem, shipped_problem, unet_problem

from optsteps.methods import BOSS, GITS, Evaluations, Method, SearchProblem
from optsteps.solvers import build_solver

STEPS = [1, 2, 4, 7]


def problems() -> list[SearchProblem]:
    mixtures = [mixture_problem(process, samples=5, teacher_steps=15) for process in ("edm", "vp", "flow")]
    return [*mixtures, replace(mixtures[0], teacher_solver=build_solver("ipndm")), unet_problem(torch.float64, 3, 12)]


@pytest.mark.parametrize("number", range(5))
def test_boss(number: int) -> None:
    problem = problems()[number]
    costs = boss_costs(problem)
    found = BOSS(shard_size=2).search(problem, STEPS)
    for n in STEPS:
        assert found.schedules[n].metadata["indices"] == best_path(costs, n, 1.0)


@pytest.mark.parametrize("coefficient", [1.0, 1.15])
@pytest.mark.parametrize("metric", ["l2", "dev"])
@pytest.mark.parametrize("number", range(5))
def test_gits(number: int, metric: str, coefficient: float) -> None:
    problem = problems()[number]
    costs = gits_costs(problem, metric)
    found = GITS(metric, coefficient, shard_size=2).search(problem, STEPS)  # type: ignore[arg-type]
    for n in STEPS:
        assert found.schedules[n].metadata["indices"] == best_path(costs, n, coefficient)


@pytest.mark.parametrize("method", [BOSS(), GITS(), GITS("l2", 1.0)])
@pytest.mark.mostly_slow(3)
def test_on_the_shipped_network(method: Method) -> None:
    problem = shipped_problem(torch.float32, samples=4, teacher_steps=16)
    costs = boss_costs(problem) if isinstance(method, BOSS) else gits_costs(problem, method.metric)  # type: ignore[attr-defined]
    growth = method.growth  # type: ignore[attr-defined]
    found = method.search(problem, [3, 5, 8])
    for n in (3, 5, 8):
        assert found.schedules[n].metadata["indices"] == best_path(costs, n, growth)


@pytest.mark.parametrize("method", [BOSS(), GITS()])
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
def test_the_teacher_is_all_that_is_evaluated(process: str, method: Method) -> None:
    problem = mixture_problem(process, samples=3, teacher_steps=12)
    watched = Watched(problem.denoiser)
    problem = replace(problem, denoiser=watched, solver=build_solver("dpmpp_2m"), teacher_solver=build_solver("heun"))
    found = method.search(problem, [2, 5])
    walk = problem.walker.nfe(problem.teacher)
    assert found.nfe == walk
    assert sum(watched.batches) == 3 * walk
    planned = method.evaluations(problem, [2, 5])
    assert planned == Evaluations(3 * walk)


def test_what_cannot_be_asked_is_refused() -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=6)
    for method in (BOSS(), GITS()):
        with pytest.raises(ValueError, match="7 student steps were asked for, but the teacher has only 6"):
            method.search(problem, [7])
        with pytest.raises(ValueError, match="stochastic solver 'ddim_stochastic' does not repeat"):
            method.search(replace(problem, solver=build_solver("ddim_stochastic")), [2])
    with pytest.raises(ValueError, match="metric must be 'dev' or 'l2', got 'lpips'"):
        GITS("lpips")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="coefficient must be positive and finite, got -1"):
        GITS(coefficient=-1.0)
