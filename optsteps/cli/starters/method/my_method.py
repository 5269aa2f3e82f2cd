"""A method for optsteps: it maps a problem and a list of step counts to schedules."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optsteps.methods import HandMade, Method, SearchProblem, SearchResult
from optsteps.metrics.teacher import mse
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories


class MyMethod(Method):
    """Of some hand-made schedules the one whose samples are nearest to the teacher's."""

    def __init__(self, families: Sequence[str], max_batch: int = 256) -> None:
        self.families, self.max_batch = families, max_batch

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        if problem.solver.stochastic:
            raise ValueError(f"it compares with the teacher's samples, which {problem.solver.name} cannot repeat")

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        teacher = trajectories.ends(problem.teacher, problem.walker, problem.noise, problem.cond)
        found = {}
        for n in steps:
            candidates = [s for family in self.families for s in HandMade(family).schedules(problem, n)]
            ends = [trajectories.ends(s, problem.solver, problem.noise, problem.cond) for s in candidates]
            errors = torch.stack([mse(end, teacher).mean() for end in ends])
            found[n] = candidates[int(errors.argmin())]
        return SearchResult(found)
