"""What the methods on the teacher's table share: its nodes, the coordinates that errors are measured in, and the search
that takes one shortest path of costs that are summed over samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, ShardedMethod
from optsteps.methods.entries import EntrySubset
from optsteps.methods.paths.shortest_path import shortest_path
from optsteps.methods.paths.teacher_table import TeacherTable, teacher_table
from optsteps.processes import Process
from optsteps.schedules import Schedule


def edm_coordinates(process: Process, times: Tensor) -> Tensor:
    """What a state at the times [n] is divided by for EDM's coordinates: alpha; where these are infinite at one of the
    times, as at a flow's t = 1, that for flow coordinates."""
    alpha = process.alpha(times)
    return alpha if bool((alpha > 0).all()) else flow_coordinates(process, times)


def flow_coordinates(process: Process, times: Tensor) -> Tensor:
    """What a state at the times is divided by for flow coordinates: alpha + sigma."""
    return process.alpha(times) + process.sigma(times)


class TeacherTableMethod(ShardedMethod):
    """Base of the searches whose every number is in the teacher's table: they evaluate nothing beyond its walk.

    Args:
        channels, frames: see `OSS`.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples whose tables are made together.

    Raises:
        ValueError: in `check`, a solver, or a teacher's solver, that is stochastic; more steps than the teacher has.
    """

    name: str

    def __init__(
        self,
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        self.max_batch, self.shard_size, self.entries = max_batch, shard_size, EntrySubset(channels, frames)

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        check_teacher_table(problem, steps, self.name)
        self.entries.of(problem.noise[:1])

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk."""
        return Evaluations(problem.walker.nfe(problem.teacher) * len(problem.noise) * call_nfe(problem.denoiser))

    def table(self, problem: SearchProblem, index: Tensor) -> TeacherTable:
        """The table of the samples `index` [b]."""
        return teacher_table(problem, index, self.max_batch, self.entries)

    def described(self, problem: SearchProblem) -> dict[str, Any]:
        """Entries of the schedules' metadata."""
        return {
            "method": self.name,
            **problem.solver.described,
            "samples": len(problem.noise),
            "teacher_steps": problem.teacher.steps,
        }

    def schedule(self, problem: SearchProblem, times: Tensor, **described: Any) -> Schedule:
        """A schedule from the teacher's start."""
        metadata = {**self.described(problem), **described}
        return Schedule(times, problem.process, initial_scale=problem.teacher.initial_scale, metadata=metadata)


class EulerPath(TeacherTableMethod):
    """Base of the searches for the path of least total cost among the teacher's times, whose edges are Euler's steps
    whatever solver samples.

    `SearchResult.evidence`: "costs", the mean costs of the steps between the teacher's times [N+1, N+1].
    """

    growth: float = 1.0

    @abstractmethod
    def costs(self, table: TeacherTable) -> Tensor:
        """Costs [N+1, N+1], summed over the table's samples, of the steps from i to j > i; other entries are not
        read."""

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Tensor:
        return self.costs(self.table(problem, index))

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Tensor], decision: Any = None
    ) -> SearchResult:
        costs = torch.stack(list(partials)).sum(0) / len(problem.noise)
        paths = shortest_path(costs, steps, self.growth)
        times = problem.teacher.times
        schedules = {n: self.schedule(problem, times[path], indices=path.tolist()) for n, path in paths.items()}
        return SearchResult(schedules, evidence={"costs": costs})


def check_teacher_table(problem: SearchProblem, steps: Sequence[int], name: str) -> None:
    """ValueError where no method on the teacher's table can answer."""
    problem.check_repeats(name)
    if max(steps) > problem.teacher.steps:
        raise ValueError(
            f"{max(steps)} student steps were asked for, but the teacher has only {problem.teacher.steps} to choose "
            "from"
        )
