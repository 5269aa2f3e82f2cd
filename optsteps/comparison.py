"""Schedules compared on samples that no search saw, paired on the same noise."""

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

TRACED = 32  # samples that are compared with the teacher along the way


@dataclass(frozen=True)
class Row:
    """One schedule (or, for the oracle, one per sample), judged.

    Attributes:
        method: name of the method.
        steps: solver steps.
        nfe: network evaluations per sample, guidance included.
        schedule: None for the oracle.
        samples: final samples [B, ...].
        figures: by name.
        oracle: the schedule was searched for the very sample it is judged on, so the row is a bound and no rival.
        search_nfe, search_seconds: what finding the schedules of all step counts cost, per sample of the search and in
            all.
        path_error: mean squared difference to the teacher at every time [n+1], None for the oracle.
        teacher: the many-step schedule that the figures compare with; None for the trial's.
    """

    method: str
    steps: int
    nfe: float
    schedule: Schedule | None
    samples: Tensor
    figures: dict[str, Measurement]
    oracle: bool = False
    search_nfe: float = 0.0
    search_seconds: float = 0.0
    path_error: Tensor | None = None
    teacher: Schedule | None = None


@dataclass(frozen=True)
class VerdictRow:
    """The paired difference method - rival of one figure at equal NFE, and what it allows to be said."""

    method: str
    rival: str
    steps: int
    nfe: float
    figure: str
    difference: Interval
    verdict: Verdict


# of alpha / sigma
_SAME_START = 2e-3


@dataclass(frozen=True)
class Comparison:
    """Unseen samples with the teacher's answer, for all rows alike.

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
    _answers: dict[str, Tensor] = field(default_factory=dict, repr=False)
    _from: dict[float, Comparison] = field(default_factory=dict, repr=False)

    def teacher_samples(self) -> Tensor:
        """The teacher's final samples [B, ...], computed once."""
        if "final" not in self._answers:
            self._answers["final"], _ = self._final(self.teacher, self._walker)
        return self._answers["final"]

    def from_start_of(self, schedule: Schedule) -> Comparison:
        """This trial with a teacher that begins where `schedule` does, at its noise's scale, and goes on by the times
        of this one: what is far from a teacher for its start alone is compared with one of the same start. A start is
        the same where alpha / sigma differs by less than 0.002, as between a flow's t = 1 and 0.999.

        Raises:
            ValueError: the schedule begins no earlier than the teacher ends.
        """
        t, first = self.teacher.times, schedule.times[:1]
        shares = [self.process.alpha(start) / self.process.sigma(start) for start in (first, t[:1])]
        if bool((shares[0] - shares[1]).abs() < _SAME_START):
            return self
        later = t[t < first]
        if len(later) == 0:
            raise ValueError(f"the schedule begins at t = {first.item():g}, where the teacher has ended")
        if first.item() not in self._from:
            own = Schedule(torch.cat([first, later]), self.process, initial_scale=schedule.initial_scale)
            self._from[first.item()] = replace(self, teacher=own, _answers={}, _from={})
        return self._from[first.item()]

    def samples(self, schedule: Schedule) -> tuple[Tensor, float]:
        """Final samples [B, ...] of a schedule, and their network evaluations per sample, counted."""
        return self._final(schedule, self.solver)

    def judge(
        self,
        method: str,
        schedule: Schedule,
        search_nfe: float = 0.0,
        search_seconds: float = 0.0,
        own_start: bool = False,
    ) -> Row:
        """Sample with `schedule` and measure; with `own_start`, against a teacher that begins where it does."""
        if own_start:
            there = self.from_start_of(schedule)
            if there is not self:
                row = there.judge(method, schedule, search_nfe, search_seconds)
                return replace(row, teacher=there.teacher)
        x, nfe = self.samples(schedule)
        return Row(
            method,
            schedule.steps,
            nfe,
            schedule,
            x,
            self._figures(x, self.teacher_samples(), self.cond),
            search_nfe=search_nfe,
            search_seconds=search_seconds,
            path_error=self.path_error(schedule),
        )

    def judge_teacher(self) -> Row:
        """The teacher itself, on the figures that do not compare with it."""
        x = self.teacher_samples()
        figures = self._figures(x, x, self.cond)
        nfe = self._walker.nfe(self.teacher) * call_nfe(self.denoiser)
        kept = {name: figure for name, figure in figures.items() if not figure.compares_with_teacher}
        return Row("teacher", self.teacher.steps, nfe, self.teacher, x, kept)

    def judge_oracle(self, method: str, schedules: Sequence[Schedule]) -> Row:
        """Sample k with schedule k, searched for it; the first len(schedules) samples of the trial."""
        own = [replace(self, **self._part(slice(k, k + 1))) for k in range(len(schedules))]
        found = [one.samples(schedule) for one, schedule in zip(own, schedules, strict=True)]
        x, nfe = torch.cat([sample for sample, _ in found]), sum(nfe for _, nfe in found) / len(found)
        few = replace(self, judges=[judge for judge in self.judges if not judge.needs_many])
        figures = few._figures(x, self.teacher_samples()[: len(x)], take(self.cond, slice(0, len(x))))
        figures = {name: figure for name, figure in figures.items() if figure.values is not None}
        return Row(method, schedules[0].steps, nfe, None, x, figures, oracle=True)

    def path_error(self, schedule: Schedule) -> Tensor:
        """Mean squared difference to the teacher at every time of `schedule` [n+1], float64, in units of x_0 (states
        over alpha), over the first `traced` samples.

        Between its own times the teacher is interpolated linearly in noise level, which is what Euler's steps are.
        Where alpha is 0 the difference is NaN.
        """
        if "path" not in self._answers:
            self._answers["path"] = self._scaled(self.teacher, self._walker)
        teacher = self._answers["path"]
        student = self._scaled(schedule, self.solver)
        # increasing levels, from the clean end
        levels, wanted = self.teacher.noise_levels.flip(0), schedule.noise_levels
        above = torch.searchsorted(levels, wanted).clamp(1, len(levels) - 1)
        weight = ((wanted - levels[above - 1]) / (levels[above] - levels[above - 1])).clamp(0, 1)
        path = teacher.flip(0)
        weight = weight.reshape(-1, *(1,) * (path.ndim - 1)).to(path.device)
        expected = torch.lerp(path[above - 1], path[above], weight)
        return (student - expected).square().flatten(1).mean(1).cpu()

    def _part(self, part: slice) -> dict[str, Any]:
        """The fields of a trial of some of the samples."""
        index = torch.arange(len(self.noise)) if self.index is None else self.index
        return {"noise": self.noise[part], "cond": take(self.cond, part), "index": index[part]}

    @property
    def _walker(self) -> Solver:
        return self.teacher_solver or self.solver

    def _scaled(self, schedule: Schedule, solver: Solver) -> Tensor:
        """The traced samples' states over alpha at every time [n+1, b, ...]."""
        traced = self._part(slice(0, self.traced))
        states = self._trajectories().states(schedule, solver, **traced, seed=self.seed).transpose(0, 1).double()
        alpha = self.process.alpha(schedule.times).to(states.device)
        return states / alpha.reshape(-1, *(1,) * (states.ndim - 1))

    def _final(self, schedule: Schedule, solver: Solver) -> tuple[Tensor, float]:
        """Final samples [B, ...] and the network evaluations per sample, counted."""
        trajectories = self._trajectories()
        x = trajectories.ends(schedule, solver, **self._part(slice(None)), seed=self.seed)
        return x, trajectories.evaluations / len(self.noise)

    def _trajectories(self) -> Trajectories:
        return Trajectories(self.denoiser, self.max_batch, self.cache)

    def _figures(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        return {name: figure for judge in self.judges for name, figure in judge.judge(x, teacher, cond).items()}


def verdicts(rows: Sequence[Row], method: str, figure: str) -> list[VerdictRow]:
    """`method` against every other row of equal NFE that is no oracle, by the figure named."""
    found = []
    for mine in rows:
        if mine.method != method or mine.oracle or figure not in mine.figures:
            continue
        for rival in rows:
            comparable = rival.method != method and not rival.oracle and rival.nfe == mine.nfe
            if not comparable or figure not in rival.figures:
                continue
            higher_is_better = mine.figures[figure].higher_is_better
            difference = mine.figures[figure].difference(rival.figures[figure])
            if difference is None or higher_is_better is None:
                continue
            said = verdict(difference, higher_is_better)
            found.append(VerdictRow(method, rival.method, mine.steps, mine.nfe, figure, difference, said))
    return found


def as_data(row: Row) -> dict[str, Any]:
    """A row as JSON data, without its samples."""
    return {
        "method": row.method,
        "oracle": row.oracle,
        "steps": row.steps,
        "nfe": row.nfe,
        "samples": len(row.samples),
        "search_nfe": row.search_nfe,
        "search_seconds": row.search_seconds,
        "times": None if row.schedule is None else row.schedule.times.tolist(),
        "noise_levels": None if row.schedule is None else row.schedule.noise_levels.tolist(),
        "range": None if row.schedule is None else row.schedule.metadata.get("range"),
        "teacher_start": None if row.teacher is None else row.teacher.times[0].item(),
        "path_error": None if row.path_error is None else row.path_error.tolist(),
        "figures": {
            name: {
                "value": f.interval.value,
                "low": f.interval.low,
                "high": f.interval.high,
                "higher_is_better": f.higher_is_better,
            }
            for name, f in row.figures.items()
        },
    }


__getattr__ = old_names(__name__, Trial="Comparison")
