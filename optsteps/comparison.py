"""Comparison of schedules on samples that no search saw, paired on the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser, call_nfe
from optsteps.deprecation import old_names
from optsteps.metrics.base import Judge, Measurement
from optsteps.metrics.statistics import Interval, Verdict, verdict
from optsteps.processes import Process
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.trajectories import NO_CACHE, Cache, Trajectories

TEACHER = "teacher"  # the name of the teacher's row
TRACED = 32  # samples that are compared with the teacher along the way


@dataclass(frozen=True)
class Row:
    """A schedule, or for the oracle one schedule per sample, with what was measured on its samples.

    Attributes:
        method: name of the method.
        steps: solver steps.
        nfe: network evaluations per sample, guidance included.
        schedule: None for the oracle.
        samples: final samples [B, ...].
        measurements: by the name of what is measured ("psnr", "fid", ...).
        oracle: each schedule was searched for the very sample it is judged on, so the row is a bound and no rival.
        search_nfe: network evaluations, per sample of the search, that finding the schedules of all step counts needs.
        search_seconds: wall time of that search.
        search_evaluations: network evaluations of that search, of all its samples together.
        solver: name of the solver that the schedule was sampled with.
        path_error: mean squared difference to the teacher at every time [n+1], None for the oracle.
        teacher: the many-step schedule that the samples are compared with; None for the comparison's own.
    """

    method: str
    steps: int
    nfe: float
    schedule: Schedule | None
    samples: Tensor
    measurements: dict[str, Measurement]
    oracle: bool = False
    search_nfe: float = 0.0
    search_seconds: float = 0.0
    path_error: Tensor | None = None
    teacher: Schedule | None = None
    search_evaluations: int = 0
    solver: str = ""


@dataclass(frozen=True)
class Walked:
    """What walks of the comparison's samples came to.

    Attributes:
        samples: final samples [B, ...].
        nfe: network evaluations per sample, counted.
        path: states over alpha of the traced samples at every time [n+1, b, ...], float64.
    """

    samples: Tensor
    nfe: float
    path: Tensor


@dataclass(frozen=True)
class VerdictRow:
    """The paired difference of a method and a rival at equal NFE, and the verdict that it allows.

    Attributes:
        method, rival: names of the two.
        steps, nfe: of the method's row; the rival has the same NFE.
        figure: name of the measurement.
        difference: the method's number minus the rival's, with its 95 % interval.
        verdict: on the method.
    """

    method: str
    rival: str
    steps: int
    nfe: float
    figure: str
    difference: Interval
    verdict: Verdict

    def turned(self) -> VerdictRow:
        """The verdict on the rival: the rival's number minus the method's."""
        opposite: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "no better": "no better"}
        return replace(
            self, method=self.rival, rival=self.method, difference=-self.difference, verdict=opposite[self.verdict]
        )


# starts whose alpha / sigma differ by less count as one start
_SAME_START = 2e-3


@dataclass(frozen=True)
class Comparison:
    """Samples that no search saw, with the teacher's answer to them, which all rows are held against.

    Args:
        denoiser, process, solver: as in the search.
        teacher, teacher_solver: the many-step walk that samples are compared with; None for the students' solver.
        noise: unit Gaussian [B, ...] that no search saw.
        cond: goes with it.
        judges: what to measure.
        seed, index: what stochastic solvers' paths depend on; index [B], 0 ... B-1 for None.
        max_batch: most samples in one call of the denoiser.
        traced: the first so many samples are also compared with the teacher along the way.
        cache: where samples are kept.
    """

    denoiser: Denoiser
    process: Process
    solver: Solver
    teacher: Schedule
    noise: Tensor
    cond: Cond
    judges: Sequence[Judge]
    seed: int = 0
    index: Tensor | None = None
    max_batch: int = 512
    traced: int = TRACED
    teacher_solver: Solver | None = None
    cache: Cache = NO_CACHE
    _answers: dict[str, Walked] = field(default_factory=dict, repr=False)
    # the answers of teachers that begin elsewhere, by their first time and initial scale
    _by_start: dict[tuple[float, float | None], dict[str, Walked]] = field(default_factory=dict, repr=False)

    def walk_teacher(self) -> Walked:
        """The teacher's walk, computed once."""
        if "teacher" not in self._answers:
            self._answers["teacher"] = self._walked(self.teacher, self._walker)
        return self._answers["teacher"]

    def with_solver(self, solver: Solver) -> Comparison:
        """This comparison, with its teacher, of schedules that are sampled with another solver."""
        return replace(self, solver=solver, teacher_solver=self._walker)

    def from_start_of(self, schedule: Schedule) -> Comparison:
        """This comparison with a teacher that begins where `schedule` does.

        Its first time and initial scale are the schedule's, its later times this teacher's. So a schedule that is far
        from the teacher for its start alone is compared with a teacher of the same start. Two starts are the same where
        alpha / sigma differs by less than 0.002, as between a flow's t = 1 and 0.999; then the result is this object.

        Raises:
            ValueError: the schedule begins no earlier than the teacher ends, or the teacher has weights or told times,
            which belong to its own steps.
        """
        times, first = self.teacher.times, schedule.times[:1]
        ratio, teacher_ratio = (self.process.alpha(start) / self.process.sigma(start) for start in (first, times[:1]))
        if bool((ratio - teacher_ratio).abs() < _SAME_START):
            return self
        later = times[times < first]
        if len(later) == 0:
            raise ValueError(f"the schedule begins at t = {first.item():g}, where the teacher has ended")
        if self.teacher.carried:
            raise ValueError(
                f"a teacher with {' and '.join(self.teacher.carried)} begins at no other time than its own"
            )
        teacher = Schedule(torch.cat([first, later]), self.process, initial_scale=schedule.initial_scale)
        answers = self._by_start.setdefault((first.item(), schedule.initial_scale), {})
        return replace(self, teacher=teacher, _answers=answers, _by_start={})

    def walk(self, schedule: Schedule) -> Walked:
        """The walk of a schedule with the comparison's solver."""
        return self._walked(schedule, self.solver)

    def judge(
        self,
        method: str,
        schedule: Schedule,
        search_nfe: float = 0.0,
        search_seconds: float = 0.0,
        own_start: bool = False,
        search_evaluations: int = 0,
        solver: Solver | None = None,
    ) -> Row:
        """The row of a schedule: its samples and what is measured on them.

        Args:
            method: name of the row.
            schedule: to sample with.
            search_nfe, search_seconds, search_evaluations: as in `Row`.
            own_start: compare with a teacher that begins where the schedule does (`from_start_of`).
            solver: to sample with; None for the comparison's.
        """
        if solver is not None:
            other = self.with_solver(solver)
            return other.judge(method, schedule, search_nfe, search_seconds, own_start, search_evaluations)
        if own_start:
            comparison = self.from_start_of(schedule)
            if comparison is not self:
                row = comparison.judge(
                    method, schedule, search_nfe, search_seconds, search_evaluations=search_evaluations
                )
                return replace(row, teacher=comparison.teacher)
        walked = self.walk(schedule)
        return Row(
            method,
            schedule.steps,
            walked.nfe,
            schedule,
            walked.samples,
            self._measured(walked.samples, self.walk_teacher().samples, self.cond),
            search_nfe=search_nfe,
            search_seconds=search_seconds,
            search_evaluations=search_evaluations,
            path_error=self.path_error(schedule, walked),
            solver=self.solver.name,
        )

    def judge_teacher(self) -> Row:
        """The teacher's own row, with the measurements that do not compare with the teacher."""
        x = self.walk_teacher().samples
        measurements = {
            name: measurement
            for name, measurement in self._measured(x, x, self.cond).items()
            if not measurement.compares_with_teacher
        }
        nfe = self._walker.nfe(self.teacher) * call_nfe(self.denoiser)
        return Row(TEACHER, self.teacher.steps, nfe, self.teacher, x, measurements)

    def judge_oracle(self, method: str, schedules: Sequence[Schedule]) -> Row:
        """The row of schedules of which schedule k was searched for sample k.

        Args:
            method: name of the row.
            schedules: for the first len(schedules) samples of the comparison, in their order.
        """
        trajectories = self._trajectories()
        alone = [self._part(slice(k, k + 1)) for k in range(len(schedules))]
        ends = [
            trajectories.ends(schedule, self.solver, **part, seed=self.seed)
            for part, schedule in zip(alone, schedules, strict=True)
        ]
        x, nfe = torch.cat(ends), trajectories.evaluations / len(ends)
        few = replace(self, judges=[judge for judge in self.judges if not judge.needs_many])
        measured = few._measured(x, self.walk_teacher().samples[: len(x)], take(self.cond, slice(0, len(x))))
        per_sample = {name: measurement for name, measurement in measured.items() if measurement.values is not None}
        return Row(method, schedules[0].steps, nfe, None, x, per_sample, oracle=True)

    def path_error(self, schedule: Schedule, walked: Walked) -> Tensor:
        """Mean squared difference to the teacher at every time of `schedule` [n+1], float64, in units of x_0 (states
        over alpha), over the traced samples.

        Between its own times the teacher is interpolated linearly in noise level, which is what Euler's steps are.
        Where alpha is 0 the difference is NaN.
        """
        # increasing levels, from the clean end
        teacher_levels, levels = self.teacher.noise_levels.flip(0), schedule.noise_levels
        above = torch.searchsorted(teacher_levels, levels).clamp(1, len(teacher_levels) - 1)
        spacing = teacher_levels[above] - teacher_levels[above - 1]
        weight = ((levels - teacher_levels[above - 1]) / spacing).clamp(0, 1)
        path = self.walk_teacher().path.flip(0)
        weight = weight.reshape(-1, *(1,) * (path.ndim - 1)).to(path.device)
        expected = torch.lerp(path[above - 1], path[above], weight)
        return (walked.path - expected).square().flatten(1).mean(1).cpu()

    def _part(self, part: slice) -> dict[str, Any]:
        """The fields of a comparison on some of the samples."""
        index = torch.arange(len(self.noise)) if self.index is None else self.index
        return {"noise": self.noise[part], "cond": take(self.cond, part), "index": index[part]}

    @property
    def _walker(self) -> Solver:
        return self.teacher_solver or self.solver

    def _walked(self, schedule: Schedule, solver: Solver) -> Walked:
        trajectories = self._trajectories()
        traced, others = self._part(slice(0, self.traced)), self._part(slice(self.traced, None))
        states = trajectories.states(schedule, solver, **traced, seed=self.seed)
        samples = states[:, -1]
        if len(others["noise"]):
            samples = torch.cat([samples, trajectories.ends(schedule, solver, **others, seed=self.seed)])
        alpha = self.process.alpha(schedule.times).to(states.device)
        path = states.transpose(0, 1).double() / alpha.reshape(-1, *(1,) * (states.ndim - 1))
        return Walked(samples, trajectories.evaluations / len(self.noise), path)

    def _trajectories(self) -> Trajectories:
        return Trajectories(self.denoiser, self.max_batch, self.cache)

    def _measured(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        return {name: number for judge in self.judges for name, number in judge.judge(x, teacher, cond).items()}


def verdicts(rows: Sequence[Row], method: str, figure: str) -> list[VerdictRow]:
    """Verdicts on `method` against every other row of equal NFE that is no oracle.

    Args:
        rows: of one comparison.
        method: name of its rows.
        figure: name of the measurement that decides. Rows without it take no part, nor does a measurement without
            direction or without anything to pair.
    """
    results = []
    for row in rows:
        if row.method != method or row.oracle or figure not in row.measurements:
            continue
        measurement = row.measurements[figure]
        for rival in rows:
            comparable = rival.method != method and not rival.oracle and rival.nfe == row.nfe
            if not comparable or figure not in rival.measurements:
                continue
            difference = measurement.difference(rival.measurements[figure])
            if difference is None or measurement.higher_is_better is None:
                continue
            judgement = verdict(difference, measurement.higher_is_better)
            results.append(VerdictRow(method, rival.method, row.steps, row.nfe, figure, difference, judgement))
    return results


def as_data(row: Row) -> dict[str, Any]:
    """A row as JSON data, without its samples; with the weights and told times of its schedule where it has any."""
    return {
        "method": row.method,
        "oracle": row.oracle,
        "steps": row.steps,
        "nfe": row.nfe,
        "samples": len(row.samples),
        "search_nfe": row.search_nfe,
        "search_evaluations": row.search_evaluations,
        "search_seconds": row.search_seconds,
        "solver": row.solver,
        "times": None if row.schedule is None else row.schedule.times.tolist(),
        "noise_levels": None if row.schedule is None else row.schedule.noise_levels.tolist(),
        **({} if row.schedule is None else row.schedule.carried),
        "range": None if row.schedule is None else row.schedule.metadata.get("range"),
        "teacher_start": None if row.teacher is None else row.teacher.times[0].item(),
        "path_error": None if row.path_error is None else row.path_error.tolist(),
        "figures": {
            name: {
                "value": measurement.interval.value,
                "low": measurement.interval.low,
                "high": measurement.interval.high,
                "higher_is_better": measurement.higher_is_better,
            }
            for name, measurement in row.measurements.items()
        },
    }


__getattr__ = old_names(__name__, Trial="Comparison")
