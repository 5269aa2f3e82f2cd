"""Samples that AYS measures on: the teacher's, or the problem's clean ones."""

from __future__ import annotations

from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.methods.base import SearchProblem
from optsteps.trajectories import Trajectories


def teacher_samples(problem: SearchProblem, trajectories: Trajectories, index: Tensor, seed: int) -> Tensor:
    """The teacher's samples [b, ...] from the problem's noise `index` [b]."""
    noise, cond = problem.samples(index)
    return trajectories.ends(problem.teacher, problem.walker, noise, cond, seed, index)


def clean_data(problem: SearchProblem, trajectories: Trajectories, index: Tensor, seed: int) -> tuple[Tensor, Cond]:
    """The problem's clean samples with their cond; where it has none, the teacher's samples from its noise `index`."""
    if problem.data is not None:
        return problem.data, problem.data_cond
    return teacher_samples(problem, trajectories, index, seed), take(problem.cond, index)
