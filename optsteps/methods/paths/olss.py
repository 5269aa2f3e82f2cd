"""OLSS: the path of equal regression errors (Duan et al., arXiv:2305.14677), its search for the times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem, SearchResult
from optsteps.methods.paths.base import TeacherTableMethod
from optsteps.methods.paths.teacher_table import TeacherTable

# the error that all steps share is found to this relative precision, and below this size counts as none
_PRECISION, _SMALLEST = 1e-6, 1e-24


class OLSS(TeacherTableMethod):
    """The path whose every step goes as far as a linear regression on what the path has seen can follow the teacher.

    From a node i the path goes to the farthest of the teacher's times t_j at which x_j is regressed on x_i and eps at
    the path's nodes up to i with a mean squared error of at most e, over all samples and entries; to the next time
    where there is none. Bisection finds the least e with which n steps reach the end. Where fewer do with that e and
    more with any smaller one, the longest steps are halved.

    No solver's rule is in it: the regression may combine all that was seen as it likes, as the authors' sampler does.
    Here the student's own solver samples at these times. At a flow's t = 1, where eps is the noise itself, D takes its
    place. The authors take a teacher of 100 steps.

    Args:
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.

    `SearchResult.evidence`: "errors", e by step count.
    """

    name = "olss"

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Tensor:
        """The samples' products, summed."""
        return self.table(problem, index).products.sum(0)

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Tensor], decision: Any = None
    ) -> SearchResult:
        products = torch.stack(list(partials)).sum(0) / len(problem.noise)
        teacher = problem.teacher
        reach = Reach(TeacherTable(problem.process, teacher.times, products[None]))
        found = {n: reach.path(n) for n in steps}
        schedules = {
            n: self.schedule(problem, teacher.times[path], indices=path, error=error)
            for n, (path, error) in found.items()
        }
        return SearchResult(schedules, evidence={"errors": {n: error for n, (_, error) in found.items()}})


class Reach:
    """How far regressions follow the teacher.

    Args:
        table: the teacher's, of one sample that stands for the mean of all.
    """

    def __init__(self, table: TeacherTable) -> None:
        self.steps = table.steps
        # vectors whose dot products are the table's, so that regressions are projections; each of the basis is scaled
        # to length 1 first, because their lengths differ by many orders
        (products,) = table.products
        length = products.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        values, vectors = torch.linalg.eigh(products / (length[:, None] * length))
        basis = length[:, None] * vectors * values.clamp(min=0).sqrt()
        predictions, states = table.predictions(), table.states()
        alpha, sigma = (
            part[:-1, None] for part in (table.process.alpha(table.times), table.process.sigma(table.times))
        )
        # eps, or D where eps is the state itself
        seen = torch.where(alpha == 0, predictions, (states[:-1] - alpha * predictions) / sigma)
        self.states, self.seen = states @ basis, seen @ basis
        # what Euler's steps from every time miss the later states by: it is small, and differs from these states by a
        # combination of the regressors
        self.missed = [table.missed(i) @ basis for i in range(table.steps)]

    def errors(self, visited: Sequence[int]) -> Tensor:
        """Mean squared errors of regressions of the states after the last node of the path `visited` [J]."""
        i = visited[-1]
        regressors = torch.cat([self.states[i][None], self.seen[list(visited)]])
        regressors = regressors / regressors.norm(dim=1, keepdim=True)
        directions, sizes, _ = torch.linalg.svd(regressors.T, full_matrices=False)
        directions = directions[:, sizes > 1e-12 * sizes[0]]
        rest = self.missed[i]
        for _ in range(2):  # a second projection removes what rounding left
            rest = rest - (rest @ directions) @ directions.T
        return rest.square().sum(1)

    def within(self, error: float) -> list[int]:
        """The path whose steps all go as far as this error allows."""
        path = [0]
        while path[-1] < self.steps:
            possible = (self.errors(path) <= error).nonzero()
            path.append(path[-1] + 1 + (int(possible[-1]) if len(possible) else 0))
        return path

    def path(self, steps: int) -> tuple[list[int], float]:
        """The path of so many steps and the least error that its steps can share."""
        low, high = 0.0, float(self.errors([0])[-1])
        path = [0, self.steps]
        while high > _SMALLEST and high > low * (1 + _PRECISION):
            # errors span many orders: halved in the logarithm once there is a lower end
            middle = (low * high) ** 0.5 if low else high / 16
            tried = self.within(middle)
            if len(tried) - 1 <= steps:
                path, high = tried, middle
            else:
                low = middle
        while len(path) - 1 < steps:
            longest = max(range(len(path) - 1), key=lambda k: path[k + 1] - path[k])
            path.insert(longest + 1, (path[longest] + path[longest + 1]) // 2)
        return path, high
