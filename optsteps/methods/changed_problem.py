"""A method that searches with another solver or with fewer samples than the comparison has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from optsteps.deprecation import old_names
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult
from optsteps.metrics.base import Judge
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.workers import ALONE, Workers


class ChangedProblem(Method):
    """`method`, searching with another solver or with fewer samples.

    OSS, for example, cannot search with a stochastic solver, under which a distance to the teacher means nothing, but
    may search with a deterministic one. And it needs only some of the many samples that a criterion of distributions
    needs. The result's `nfe` is per sample that the method searched with, and its `evaluations` are of these together.

    Args:
        method: the search.
        solver: in place of the problem's, and of the teacher's where the problem names none or a stochastic one, whose
            walk no second one repeats. None: the problem's.
        samples: number of samples, the first of the problem's. None: all.

    Raises:
        ValueError: fewer samples than 1 or, in `check` and `search`, more than the problem has.
    """

    def __init__(self, method: Method, solver: Solver | None = None, samples: int | None = None) -> None:
        if samples is not None and samples < 1:
            raise ValueError(f"a search needs at least 1 sample, got {samples}")
        self.method, self.solver, self.samples = method, solver, samples

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        self.method.check(self._changed(problem), steps)

    @property
    def starts_freely(self) -> bool:
        return self.method.starts_freely

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return self.method.chooses_orders(self._solved(problem))

    def judge(self, problem: SearchProblem) -> Judge | None:
        return self.method.judge(self._changed(problem))

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations | None:
        return self.method.evaluations(self._changed(problem), steps)

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        return self.method.search(self._changed(problem), steps, workers)

    def proposals(
        self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE
    ) -> Mapping[int, Sequence[Schedule]]:
        return self.method.proposals(self._changed(problem), steps, workers)

    def alone(self) -> Method | None:
        """The method's own, of every sample; none with another solver, whose search is no bound for the problem's."""
        return self.method.alone() if self.solver is None else None

    def _changed(self, problem: SearchProblem) -> SearchProblem:
        available = len(problem.noise)
        count = available if self.samples is None else self.samples
        if count > available:
            raise ValueError(f"the search wants {count} samples and the problem has {available}")
        return self._solved(problem.part(torch.arange(count)))

    def _solved(self, problem: SearchProblem) -> SearchProblem:
        if self.solver is None:
            return problem
        walker = None if problem.walker.stochastic else problem.teacher_solver
        return replace(problem, solver=self.solver, teacher_solver=walker)


__getattr__ = old_names(__name__, Restated="ChangedProblem")
