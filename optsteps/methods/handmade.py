"""The hand-made families as methods: schedules from a formula, no evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optsteps.methods.base import Method, SearchProblem, SearchResult, checked_steps
from optsteps.schedules import FAMILIES, Final, build_schedule
from optsteps.workers import ALONE, Workers


class HandMade(Method):
    """A family of `optsteps.schedules` between the ends of the teacher's schedule.

    Args:
        family: name of the family.
        final: see `build_schedule`. With "t_min" the student ends where the teacher does; a teacher that ends at
            noise level 0 has its last positive time as t_min and the student appends the 0 as well.
        parameters: the family's own.

    Raises:
        ValueError: unknown family; in `search`, as `build_schedule`.
    """

    def __init__(self, family: str, final: Final = "t_min", **parameters: Any) -> None:
        if family not in FAMILIES:
            raise ValueError(f"unknown schedule {family!r}; known: {', '.join(FAMILIES)}")
        self.family, self.final, self.parameters = family, final, parameters

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        t = problem.teacher.times.tolist()
        t_min = t[-2] if self.final == "zero" and t[-1] == problem.process.t_clean else t[-1]
        return SearchResult(
            {
                n: build_schedule(self.family, problem.process, n, t[0], t_min, self.final, **self.parameters)
                for n in checked_steps(steps)
            }
        )
