"""A figure of a judge as what a search lowers: measured on some samples of a problem, the same for all schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods.base import SearchProblem, counted_shards
from optsteps.methods.nearness import decibels
from optsteps.metrics.base import Judge, Measurement, sample_wise
from optsteps.metrics.statistics import Interval
from optsteps.metrics.teacher import mse
from optsteps.metrics.toy import TrueSamples
from optsteps.schedules import Schedule
from optsteps.storage.shards import storable
from optsteps.storage.workers import Workers
from optsteps.text.suggestion import suggestion
from optsteps.trajectories import Trajectories

# criteria that need no judge: the mean PSNR to the teacher up to a constant, and the sliced Wasserstein distance to the
# problem's data
NEARNESS, DATA_DISTANCE = "nearness", "data_distance"
# half the width of a 95 % interval, in standard errors
_HALF_WIDTH = 1.96


class NearnessJudge(Judge):
    """-10 log10 of the mean squared difference to the teacher's samples ("nearness"), in dB."""

    figures = {NEARNESS: True}  # noqa: RUF012

    def judge(self, x: Tensor, teacher: Tensor, cond: object) -> dict[str, Measurement]:
        return {NEARNESS: sample_wise(_nearness(x, teacher), True)}


class ProblemDataJudge(Judge):
    """Sliced Wasserstein distance to clean samples [S, ...] ("data_distance")."""

    figures = {DATA_DISTANCE: False}  # noqa: RUF012

    def __init__(self, data: Tensor) -> None:
        self._truth = TrueSamples(data.flatten(1))

    def judge(self, x: Tensor, teacher: Tensor, cond: object) -> dict[str, Measurement]:
        return {DATA_DISTANCE: self._truth.distance(x.flatten(1))}


def judge_of(problem: SearchProblem, criterion: str) -> Judge:
    """The judge that measures a criterion on the problem's samples.

    Raises:
        ValueError: nobody measures it, neither direction is better, or it is the distance to data that are not there.
    """
    if criterion == NEARNESS:
        return NearnessJudge()
    if criterion == DATA_DISTANCE:
        if problem.data is None:
            raise ValueError(f"criterion={DATA_DISTANCE} needs clean samples: choose a dataset, or give search.data")
        return ProblemDataJudge(problem.data)
    figures = dict[str, bool | None]()
    for judge in problem.judges_of_samples:
        if judge.figures is None or criterion in judge.figures:
            higher_is_better = None if judge.figures is None else judge.figures[criterion]
            if judge.figures is not None and higher_is_better is None:
                raise ValueError(f"criterion={criterion}: neither a high nor a low {criterion} is better")
            return judge
        figures |= judge.figures
    known = [NEARNESS, DATA_DISTANCE, *(name for name, higher in figures.items() if higher is not None)]
    raise ValueError(
        f"criterion={criterion}, but the criteria here are {', '.join(known)}; others are the figures of the run's "
        f"metric: choose one that measures it{suggestion(criterion, known)}"
    )


@storable
@dataclass(frozen=True)
class Answer:
    """What is measured of a schedule.

    Attributes:
        criterion: the target's.
        nearness: of every sample [B] to the teacher's of the same noise, in dB.
    """

    criterion: Measurement
    nearness: Tensor


@dataclass(frozen=True)
class Target:
    """A criterion on the samples of a problem: the noise and prompts are the same for every schedule.

    Args:
        problem: its denoiser is counted.
        criterion: the name of a figure of its judges, "nearness" or "data_distance".
        workers: they divide the schedules; what is measured of one is kept as a shard.
        seed: of stochastic solvers.
        max_batch: most samples in one call of the denoiser.

    Raises:
        ValueError: in `check`, as `judge_of` and `Judge.check`; in `measured`, a judge that does not answer with the
            figure.
    """

    problem: SearchProblem
    criterion: str
    workers: Workers
    seed: int = 0
    max_batch: int = 512

    def check(self) -> None:
        """Refuse what cannot be measured, before anything is spent."""
        self.judge.check(len(self.problem.noise), self.problem.noise.shape[1:])

    @cached_property
    def judge(self) -> Judge:
        return judge_of(self.problem, self.criterion)

    def measured(self, schedules: Sequence[Schedule]) -> list[Measurement]:
        """The criterion of every schedule."""
        return [answer.criterion for answer in self.answers(schedules)]

    def answers(self, schedules: Sequence[Schedule]) -> list[Answer]:
        """The criterion of every schedule, and how near its samples are to the teacher's."""
        problem, counter, teacher = self.problem, self.problem.denoiser, self.teacher
        assert isinstance(counter, CountedDenoiser)

        def answer(number: int) -> Answer:
            ends = Trajectories(counter, self.max_batch).ends(
                schedules[number], problem.solver, problem.noise, problem.cond, self.seed
            )
            found = self.judge.judge(ends, teacher, problem.cond)
            if self.criterion not in found:
                raise ValueError(
                    f"{type(self.judge).__name__} has no figure {self.criterion!r} of these samples; it has "
                    f"{', '.join(found)}"
                )
            return Answer(found[self.criterion], _nearness(ends, teacher).cpu())

        workers, names = self.workers, [dict[str, object]() for _ in schedules]
        if workers.keeps:
            workers = workers.on("answers", criterion=self.criterion, seed=self.seed, **problem.facts)
            names = [{"schedule": schedule.facts} for schedule in schedules]
        return counted_shards(counter, workers, names, answer)

    @cached_property
    def teacher(self) -> Tensor:
        """The teacher's samples [B, ...] of the same noise."""
        problem = self.problem
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        return trajectories.ends(problem.teacher, problem.walker, problem.noise, problem.cond, self.seed)


def _nearness(x: Tensor, teacher: Tensor) -> Tensor:
    """-10 log10 of every sample's mean squared difference to the teacher's [B]."""
    return decibels(mse(x, teacher).double())


def loss(measurement: Measurement) -> float:
    """The measured number as one that a search makes small; infinite where it is none."""
    value = measurement.interval.value
    if not math.isfinite(value):
        return math.inf
    return -value if measurement.higher_is_better else value


def standard_error(measurement: Measurement) -> float:
    """Of a measured number."""
    repeated = measurement.values if measurement.values is not None else measurement.sets
    return _of_interval(measurement.interval) if repeated is None else _of_mean(repeated)


def difference_error(measurement: Measurement, other: Measurement) -> float:
    """The standard error of the difference of two numbers on the same samples: less than of either, as far as what
    they share cancels."""
    for one, two in ((measurement.values, other.values), (measurement.sets, other.sets)):
        if one is not None and two is not None:
            return _of_mean(one.double() - two.double())
    difference = measurement.difference(other)
    if difference is not None:
        return _of_interval(difference)
    return (standard_error(measurement) ** 2 + standard_error(other) ** 2) ** 0.5


def _of_mean(values: Tensor) -> float:
    return float(values.double().std() / len(values) ** 0.5)


def _of_interval(interval: Interval) -> float:
    return (interval.high - interval.low) / (2 * _HALF_WIDTH)
