"""Base of the methods by a formula between two ends; only a choice among ranges needs evaluations."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, ShardedMethod, checked_steps
from optsteps.metrics.teacher import mse
from optsteps.processes import Flow, Process
from optsteps.schedules import Final, Schedule
from optsteps.storage.workers import ALONE, Workers
from optsteps.trajectories import Trajectories

# the ranges that are tried for formulas in noise levels under a flow. A flow's own range is from noise level 999 or
# beyond to 0.001, and on most of it nothing happens; the formulas' authors run them on no flow
FLOW_HIGHEST, FLOW_LOWEST = (80.0, 20.0), (0.03, 0.1)
CHOSEN = "chosen on the search's samples"

Levels = float | Sequence[float] | None


class BetweenEnds(ShardedMethod):
    """Base of the methods that place a schedule's inner times between the ends of the teacher's schedule, or of a range
    of its own, whatever the model does between them.

    The teacher's range is the model's own. Of several ranges, every step count takes the one whose samples are nearest
    to the teacher's (mean squared difference) on the problem's noise with the problem's solver. A range that is not the
    teacher's is named in the schedule's metadata ("range").

    Args:
        final: see `build_schedule`. "t_min": the formula runs to the range's end. "zero": after a teacher that ends at
            noise level 0, the formula runs to the teacher's last positive time and the student ends at 0 as well. None:
            "zero" after such a teacher, unless the formula reaches its end by itself, otherwise "t_min".
        noise_max, noise_min: the largest and the least positive noise level of the formula; of lists, every pair is
            tried. None: the teacher's; under a flow, for a formula in noise levels, also those of `FLOW_HIGHEST` and
            `FLOW_LOWEST` that lie inside the teacher's range.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples tried together.

    Raises:
        ValueError: in `check` and `search`, as `build_schedule`, or noise levels that the process does not reach.
    """

    def __init__(
        self,
        final: Final | None = None,
        noise_max: Levels = None,
        noise_min: Levels = None,
        max_batch: int = 512,
        shard_size: int = 64,
    ) -> None:
        if [] in (noise_max, noise_min):
            raise ValueError("noise_max and noise_min must be numbers, lists with a number in them, or None")
        self.final, self.noise_max, self.noise_min = final, noise_max, noise_min
        self.max_batch, self.shard_size = max_batch, shard_size

    @abstractmethod
    def between(self, process: Process, steps: int, t_max: float, t_min: float, final: Final) -> Schedule:
        """The schedule between two times; the arguments are those of `build_schedule`."""

    @property
    def in_noise_levels(self) -> bool:
        """Whether the formula is stated in noise levels."""
        return True

    def reaches_clean(self, process: Process) -> bool:
        """Whether the formula goes down to noise level 0 by itself."""
        return False

    def outlines(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        """Schedules of the steps and the ends of `schedules`, for what depends on these alone."""
        return self.schedules(problem, steps)

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        for n in steps:
            self.outlines(problem, n)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """0 on one range; otherwise the teacher's walk and one walk of the student on every range."""
        tried = [self.outlines(problem, n) for n in checked_steps(steps)]
        if all(len(schedules) == 1 for schedules in tried):
            return Evaluations(0)
        walks = sum(problem.solver.nfe(schedule) for schedules in tried for schedule in schedules)
        walks += problem.walker.nfe(problem.teacher)
        return Evaluations(walks * len(problem.noise) * call_nfe(problem.denoiser))

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        counts = checked_steps(steps)
        self.check(problem, counts)
        if any(len(self.outlines(problem, n)) > 1 for n in counts):
            return super().search(problem, counts, workers)
        start = time.perf_counter()
        schedules = {n: self.schedules(problem, n)[0] for n in counts}
        return SearchResult(schedules, seconds=time.perf_counter() - start)

    def proposals(
        self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE
    ) -> Mapping[int, Sequence[Schedule]]:
        """Those on every range."""
        return {n: self.schedules(problem, n) for n in checked_steps(steps)}

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> dict[int, Tensor]:
        """By step count, the squared differences [R, b] between the samples on every range and the teacher's."""
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        return self.errors(problem, steps, index, trajectories, self.teacher_ends(problem, index))

    def teacher_ends(self, problem: SearchProblem, index: Tensor) -> Tensor:
        """The teacher's samples [b, ...] of the noise `index` [b]."""
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        noise, cond = problem.samples(index)
        return trajectories.ends(problem.teacher, problem.walker, noise, cond, index=index)

    def errors(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, trajectories: Trajectories, teacher: Tensor
    ) -> dict[int, Tensor]:
        """By step count, the squared differences [R, b] between the samples `index` [b] on every range and those of the
        teacher [b, ...]."""
        noise, cond = problem.samples(index)

        def error(schedule: Schedule) -> Tensor:
            return mse(trajectories.ends(schedule, problem.solver, noise, cond, index=index), teacher).cpu()

        return {n: torch.stack([error(schedule) for schedule in self.schedules(problem, n)]) for n in steps}

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> SearchResult:
        """The range of least mean error for every step count; of equal ones the first."""
        return SearchResult({n: self.best(problem, n, partials) for n in steps})

    def best(self, problem: SearchProblem, steps: int, errors: Sequence[dict[int, Tensor]]) -> Schedule:
        """The schedule of the least mean of the errors of all samples, by shard as `errors` returns them."""
        means = torch.cat([part[steps] for part in errors], 1).mean(1)
        return self.schedules(problem, steps)[int(means.argmin())]

    def schedules(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        """The schedules of so many steps on every range that is to be tried."""
        ends_clean = problem.teacher.ends_clean
        final = self.final or ("zero" if ends_clean and not self.reaches_clean(problem.process) else "t_min")
        t = problem.teacher.times.tolist()
        teachers = t[0], t[-2] if final == "zero" and ends_clean else t[-1]
        ranges = self._ranges(problem.process, *teachers)
        schedules = []
        for t_max, t_min in ranges:
            schedule = self.between(problem.process, steps, t_max, t_min, final)
            if len(ranges) > 1:
                schedule = with_range(schedule, CHOSEN)
            elif (t_max, t_min) != teachers:
                schedule = with_range(schedule, "given")
            schedules.append(schedule)
        return schedules

    def _ranges(self, process: Process, t_max: float, t_min: float) -> list[tuple[float, float]]:
        """Pairs of t_max and t_min, given the teacher's."""
        top, bottom = process.noise_level([t_max, t_min]).tolist()
        tries = isinstance(process, Flow) and self.in_noise_levels
        highest, lowest = [t_max], [t_min]
        if self.noise_max is not None:
            highest = _times(process, self.noise_max)
        elif tries:
            finite = [t_max] if math.isfinite(top) else []
            highest = finite + _times(process, [level for level in FLOW_HIGHEST if level < top])
        if self.noise_min is not None:
            lowest = _times(process, self.noise_min)
        elif tries:
            lowest = ([t_min] if bottom > 0 else []) + _times(
                process, [level for level in FLOW_LOWEST if level > bottom]
            )
        return [(high, low) for high in highest for low in lowest]


def with_range(schedule: Schedule, origin: str) -> Schedule:
    """The schedule with a note of where its ends come from."""
    return replace(schedule, metadata={**schedule.metadata, "range": origin})


def _times(process: Process, levels: float | Sequence[float]) -> list[float]:
    listed = [levels] if isinstance(levels, int | float) else [float(level) for level in levels]
    times: list[float] = process.time_of_noise_level(listed).tolist() if listed else []
    return times
