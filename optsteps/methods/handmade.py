"""Schedules from a formula or from elsewhere as methods: no evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.processes import Flow, Process
from optsteps.schedules import FAMILIES, Final, Schedule, build_schedule
from optsteps.workers import ALONE, Workers


class HandMade(Method):
    """A family of `optsteps.schedules` between the ends of the teacher's schedule.

    Args:
        family: name of the family.
        final: see `build_schedule`. With "t_min" the formula runs to the teacher's end; with "zero" a teacher that ends
            at noise level 0 has its last positive time as t_min and the student appends the 0 as well. None: "zero"
            after such a teacher, unless the formula reaches its end by itself (`time_uniform`, a flow's `flow_shift`).
        parameters: the family's own.

    Raises:
        ValueError: unknown family; in `search`, as `build_schedule`.
    """

    def __init__(self, family: str, final: Final | None = None, **parameters: Any) -> None:
        if family not in FAMILIES:
            raise ValueError(f"unknown schedule {family!r}; known: {', '.join(FAMILIES)}")
        self.family, self.final, self.parameters = family, final, parameters

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        self.search(problem, steps)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        return Evaluations(0)

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        t = problem.teacher.times.tolist()
        ends_clean = problem.teacher.ends_clean
        final = self.final or ("zero" if ends_clean and not self._reaches_clean(problem.process) else "t_min")
        t_min = t[-2] if final == "zero" and ends_clean else t[-1]
        return SearchResult(
            {
                n: build_schedule(self.family, problem.process, n, t[0], t_min, final, **self.parameters)
                for n in checked_steps(steps)
            }
        )

    def _reaches_clean(self, process: Process) -> bool:
        return self.family == "time_uniform" or (self.family == "flow_shift" and isinstance(process, Flow))


class Given(Method):
    """Schedules that somebody else makes: the one a model's users sample with, to be compared with.

    Args:
        schedule: for so many steps; it may have fewer, and then stands in the table with those.
    """

    def __init__(self, schedule: Callable[[int], Schedule]) -> None:
        self.schedule = schedule

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        self.search(problem, steps)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        return Evaluations(0)

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        return SearchResult({n: self.schedule(n) for n in checked_steps(steps)})
