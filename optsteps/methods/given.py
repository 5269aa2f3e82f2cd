"""Schedules from elsewhere, such as those of a model's users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.schedules import Schedule
from optsteps.storage.workers import ALONE, Workers


class GivenSchedules(Method):
    """Schedules that somebody else makes, such as the one that a model's users sample with, as a rival.

    Args:
        schedule: the schedule for a step count. It may have fewer steps, and then stands in the table with those.
        own_start: whether the schedule starts where its users start; see `SearchResult`.
    """

    def __init__(self, schedule: Callable[[int], Schedule], own_start: bool = False) -> None:
        self.schedule, self.own_start = schedule, own_start

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        self.search(problem, steps)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        return Evaluations(0)

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        schedules = {n: self.schedule(n) for n in checked_steps(steps)}
        described = {n: {**s.metadata, "range": "its users'"} for n, s in schedules.items()}
        schedules = {n: replace(s, metadata=described[n]) for n, s in schedules.items()}
        return SearchResult(schedules, own_start=self.own_start)
