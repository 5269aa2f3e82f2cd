"""Costs over some of a sample's channels and frames, and over parts of it at a time."""

from __future__ import annotations

import math

import pytest
import torch
from problems import noise

from optsteps import SearchProblem, build_schedule
from optsteps.methods import OSS
from optsteps.methods.entries import EntrySubset
from optsteps.methods.oss import grid as grids
from optsteps.methods.oss.grid import grid_of
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import Flow
from optsteps.solvers import build_solver

SHAPE = (3, 4, 2, 2)  # of a video


def video_problem(solver: str = "euler") -> SearchProblem:
    flat = GaussianMixture(noise(3, math.prod(SHAPE), seed=1), [0.3, 0.5, 0.8]).denoiser(Flow())
    return SearchProblem(
        denoiser=lambda x, t, cond=None: flat(x.flatten(1), t).reshape(x.shape),
        process=Flow(),
        solver=build_solver(solver),
        noise=noise(2, *SHAPE),
        teacher=build_schedule("time_uniform", Flow(), 8, t_max=0.99, t_min=0.01),
    )


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
def test_costs_are_those_of_the_entries_chosen(solver: str) -> None:
    problem, nodes = video_problem(solver), torch.arange(9)
    sources, targets = torch.tensor([0]), torch.arange(1, 9)
    chosen = EntrySubset(channels=[0, 2], frames=[3])
    grid = grid_of(problem.solver)(problem, torch.arange(2), nodes, 64, chosen)
    grid.put_start(0)
    grid.evaluate(sources, targets)
    found = grid.costs(1, sources, targets)[0, 0]
    first = torch.zeros(2, len(targets), dtype=torch.long)
    grid.advance(first, first, targets, torch.ones_like(first, dtype=torch.bool))
    missed = (grid.state[1, targets] - grid.teacher[1, targets])[:, [0, 2]][:, :, 3]
    assert torch.allclose(found, missed.square().flatten(1).mean(1), rtol=1e-6, atol=1e-12)


def test_parts_at_a_time_give_the_same_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = video_problem("dpmpp_2m")
    whole = OSS().search(problem, [3])
    monkeypatch.setattr(grids, "_AT_ONCE", 7)
    parts = OSS().search(problem, [3])
    assert torch.equal(parts.per_sample[3], whole.per_sample[3])
    assert OSS(channels=[1], frames=[0, 1]).search(problem, [3]).schedules[3].steps == 3


def test_entries_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"frames of the cost are those of a video .*\[3, 8, 8\]"):
        EntrySubset(frames=[0]).of(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"channels \[0, 3\] of the cost must lie between 0 and 2"):
        EntrySubset(channels=[0, 3]).of(torch.zeros(2, 3, 8, 8))
