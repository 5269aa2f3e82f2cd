"""Errors of steps from the teacher's table, against the steps themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from naive import stepped
from problems import mixture_problem

from optsteps.methods.paths.step_errors import step_errors
from optsteps.methods.paths.teacher_table import teacher_table
from optsteps.solvers import build_solver
from optsteps.solvers.multistep import Multistep
from optsteps.trajectories import Trajectories

SOLVERS = [
    ("euler", {}, 1),
    *[("dpmpp_2m", {}, order) for order in (1, 2)],
    *[("dpmpp_3m", {}, order) for order in (1, 2, 3)],
    *[("ipndm", {"order": 3}, order) for order in (1, 2, 3)],
    *[("deis", {"order": 3}, order) for order in (1, 2, 3)],
    *[("unipc", {"order": 3}, order) for order in (1, 2, 3)],
    ("unipc", {"order": 2, "corrector": False}, 2),
]


@pytest.mark.parametrize("walker", ["euler", "heun", "ipndm", "unipc"])
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.mostly_slow(3)
def test_errors_are_those_of_the_steps(process: str, walker: str) -> None:
    """To 1e-9 relative, for every multistep solver and order and every teacher, at every node."""
    problem = replace(mixture_problem(process, samples=3, teacher_steps=7), teacher_solver=build_solver(walker))
    record = Trajectories(problem.denoiser).record(problem.teacher, problem.walker, problem.noise, problem.cond)
    table = teacher_table(problem, torch.arange(3), 64)
    nodes = torch.arange(8)
    for name, parameters, order in SOLVERS:
        solver = build_solver(name, **parameters)
        assert isinstance(solver, Multistep)
        found = step_errors(table, solver, order, order - 1, nodes)
        for path in [(0,), (0, 2), (0, 1, 2), (0, 2, 5), (0, 1, 6), (0, 5, 6), (0, 3)]:
            steps_of = path[-order:] if len(path) >= order else path
            key = (*[steps_of[0]] * (order - len(steps_of)), *steps_of)
            for j in range(path[-1] + 1, 8):
                squares = stepped(problem, record, solver, order, path, j)
                expected = torch.stack([squares.sum(), squares.sqrt().sum()])
                cost = found[(slice(None), *key, j)]
                if squares.max() < 1e-24:  # the teacher's own step
                    assert cost[0] < 1e-16
                else:
                    torch.testing.assert_close(cost, expected, rtol=1e-9, atol=0)


def test_no_step_leads_back() -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=5)
    table = teacher_table(problem, torch.arange(2), 64)
    found = step_errors(table, build_solver("dpmpp_2m"), 2, 1, torch.tensor([0, 2, 3, 5]))
    h, i, j = torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij")
    assert torch.equal(torch.isfinite(found[0]), (h <= i) & (i < j))
