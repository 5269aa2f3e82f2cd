"""What the monitors share: the clock, the ends of a profile, and schedules of equal shares of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem, SearchResult
from optsteps.methods.monitors.equidistribute import equidistribute
from optsteps.methods.paths.base import TeacherTableMethod
from optsteps.methods.paths.teacher_table import TeacherTable
from optsteps.processes import Process


def flow_clock(process: Process, times: Tensor) -> Tensor:
    """A flow's time, sigma / (alpha + sigma), at the times: from 0 at noise level 0 to 1 at an infinite one."""
    sigma = process.sigma(times)
    return sigma / (process.alpha(times) + sigma)


def completed(clock: Tensor, increments: Tensor) -> Tensor:
    """Increments [K] whose first and last ones may be unknown (NaN), with the density on the clock [K+1] of the nearest
    known one there. Where all that is known is 0, every density is the same."""
    length = clock.diff().abs()
    density = increments / length
    known = density.isfinite().nonzero()[:, 0]
    density[: known[0]], density[known[-1] + 1 :] = density[known[0]], density[known[-1]]
    return density * length if bool((density > 0).any()) else length


def equal_times(problem: SearchProblem, clock: Tensor, increments: Tensor, steps: Sequence[int]) -> dict[int, Tensor]:
    """By step count, times [n+1] from the teacher's first to its last between which the increments are equal.

    After a teacher that ends at noise level 0 the last step goes there from the last inner point. No point lies below
    the teacher's last positive time: where one would, this time is the point, and the others divide what is before it.

    Args:
        clock: `flow_clock` [K+1], falling, at the teacher's first time, at any others, and at its last; where that is
            of noise level 0, at the last positive one before it.
        increments: [K].
    """
    process, teacher = problem.process, problem.teacher.times
    times = {}
    for n, points in equidistribute(clock, increments, steps).items():
        last = teacher[-1:]
        if problem.teacher.ends_clean and n > 1 and points[-2] < clock[-2]:
            points = equidistribute(clock[:-1], completed(clock[:-1], increments[:-1]), [n - 1])[n - 1]
            last = teacher[-2:]
        inner = points[1:-1]
        first = teacher[:1] if len(last) < n + 1 else teacher[:0]
        times[n] = torch.cat([first, process.time_of_noise_level(inner / (1 - inner)), last])
    return times


class TeacherTableMonitor(TeacherTableMethod):
    """Base of the monitors on the teacher's table: steps of equal shares of a profile along its walk.

    A profile says how densely steps should lie. Its integral is spread evenly over the steps between the teacher's
    ends, so that one profile answers all step counts, and nothing beyond the teacher's walk is evaluated. Between the
    teacher's times the schedule's are interpolated in a flow's time.

    `SearchResult.evidence`: "increments" [N], the profile's integrals over the teacher's intervals.

    Raises:
        ValueError: in `check` as `TeacherTableMethod`, or a teacher of too few steps for a profile.
    """

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        super().check(problem, steps)
        # as many predictions at finite noise levels as a difference of that order takes
        least = self.derivative(problem) + 1 + bool(problem.teacher.noise_levels[0].isinf())
        if problem.teacher.steps < least:
            raise ValueError(f"{self.name} needs a teacher of at least {least} steps, got {problem.teacher.steps}")

    def derivative(self, problem: SearchProblem) -> int:
        """The order of the predictions' differences that the profile is made of."""
        return 1

    @abstractmethod
    def profile(self, problem: SearchProblem, table: TeacherTable) -> dict[str, Tensor]:
        """Named numbers, each summed over the table's samples."""

    @abstractmethod
    def increments(self, problem: SearchProblem, profile: dict[str, Tensor]) -> Tensor:
        """Increments [N] of the teacher's intervals from the means of the profile; NaN at the ends where unknown."""

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> dict[str, Tensor]:
        return self.profile(problem, self.table(problem, index))

    def combine(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        partials: Sequence[dict[str, Tensor]],
        decision: Any = None,
    ) -> SearchResult:
        means = {name: torch.stack([part[name] for part in partials]).sum(0) for name in partials[0]}
        means = {name: total / len(problem.noise) for name, total in means.items()}
        clock = flow_clock(problem.process, problem.teacher.times)
        increments = completed(clock, self.increments(problem, means))
        schedules = {
            n: self.schedule(problem, times) for n, times in equal_times(problem, clock, increments, steps).items()
        }
        return SearchResult(schedules, evidence={"increments": increments})
