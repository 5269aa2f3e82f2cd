"""What a schedule search is asked, what it answers, and how it is divided over samples."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser
from optsteps.processes import Process
from optsteps.sampling import check_batch
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.workers import ALONE, Workers
from optsteps.trajectories import NO_CACHE, Cache


@dataclass(frozen=True)
class SearchProblem:
    """A model, a solver and the samples to search with, stated once.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...].
        process: its noising process.
        solver: the student's solver.
        noise: unit Gaussian [B, ...].
        cond: condition of the noise's samples, or None.
        data, data_cond: clean samples [S, ...] and their condition, for methods that need data.
        teacher: the many-step schedule; methods on a grid choose among its times.
        teacher_solver: walks the teacher's schedule; None for the student's solver.
        cache: where trajectories and predictions that searches may share are kept.

    Raises:
        ValueError: batch sizes of noise and cond (data and data_cond) differ, no samples, or a teacher of another
            process.
    """

    denoiser: Denoiser
    process: Process
    solver: Solver
    noise: Tensor
    teacher: Schedule
    cond: Cond = None
    data: Tensor | None = None
    data_cond: Cond = None
    teacher_solver: Solver | None = None
    cache: Cache = NO_CACHE

    def __post_init__(self) -> None:
        if len(self.noise) == 0:
            raise ValueError("the problem's noise holds no samples")
        check_batch(self.noise, self.cond)
        if self.data is not None:
            check_batch(self.data, self.data_cond)
        if self.teacher.process != self.process:
            raise ValueError(
                f"the teacher's schedule is for {self.teacher.process!r}, the problem is stated for {self.process!r}"
            )

    def samples(self, index: Tensor) -> tuple[Tensor, Cond]:
        """Noise and cond of the samples `index` [b]."""
        return self.noise[index.to(self.noise.device)], take(self.cond, index)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        schedules: the model-wide schedule for every step count asked.
        nfe: network evaluations per sample of the problem, counted; the teacher's included.
        seconds: wall time.
        per_sample: for methods that choose per sample, for every step count the indices [B, n+1] into the teacher's
            times, 0 being the noisy end; None otherwise.
        per_sample_orders: with them, for solvers of several orders, the orders of the steps [B, n]; None otherwise.
        evidence: what the choice rests on, for plots; see the method.
        own_start: the schedules begin where somebody else begins, which no search chose: a comparison holds their
            samples to those of a teacher that begins there too.
    """

    schedules: Mapping[int, Schedule]
    nfe: float = 0.0
    seconds: float = 0.0
    per_sample: Mapping[int, Tensor] | None = None
    per_sample_orders: Mapping[int, Tensor] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    own_start: bool = False


@dataclass(frozen=True)
class Evaluations:
    """Network evaluations of a search, before it is made.

    Attributes:
        count: of all samples together, guidance counted as 2.
        exact: are they so many whatever the network answers? Otherwise `count` is an estimate, or the most it can be.
    """

    count: int
    exact: bool = True


class Method(ABC):
    """Anything that maps a problem and a list of step counts to schedules."""

    def chooses_orders(self, problem: SearchProblem) -> bool:
        """Do its schedules have orders of their own? Then their times are compared without these, too."""
        return False

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        """Refuse what the method cannot take, before anything is spent: it evaluates nothing.

        Raises:
            ValueError: no step count or one below 1; the problem, or a step count, does not suit the method.
        """
        checked_steps(steps)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations | None:
        """What a search that shares nothing with others will spend; None where only the search tells."""
        return None

    @abstractmethod
    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        """One schedule for every step count.

        Args:
            workers: who computes what is divided over samples; methods that are not divided leave them alone.

        Raises:
            ValueError: no step count, one below 1, or as `check`.
        """


class ShardedMethod(Method):
    """A search that is map and combine over shards of samples, in one round or several.

    In every round each shard's `partial` is computed, from what the same shard returned in the round before and from
    the decision that was combined then; `combine` makes of them the next decision, or the result. Shards have a fixed
    size, so that the numbers do not depend on who computes them.

    Attributes:
        shard_size: samples in a shard; bounds the memory of `partial`.
    """

    shard_size: int = 64

    @abstractmethod
    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Any:
        """This round's contribution of the samples `index` [b]: what a shard can hold (`optsteps.storage.shards`:
        register dataclasses with `storable`), tensors on the CPU."""

    @abstractmethod
    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> Any:
        """A `SearchResult` when the search is done, otherwise the decision that the next round needs.

        Args:
            partials: of all shards, in sample order.
            decision: what this returned in the round before, None in the first.
        """

    def rounds(self, steps: Sequence[int]) -> int:
        """How many rounds a search for these step counts takes."""
        return 1

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        start = time.perf_counter()
        steps = checked_steps(steps)
        self.check(problem, steps)
        shards = torch.arange(len(problem.noise)).split(self.shard_size)
        partials: list[Any] = [None] * len(shards)
        decision: Any = None
        for number in count():
            asked = {"round": number, "rounds": self.rounds(steps)}
            partials, decision = self._round(problem, steps, workers, asked, shards, partials, decision)
            if isinstance(decision, SearchResult):
                break
        return replace(decision, seconds=time.perf_counter() - start)

    def _round(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        workers: Workers,
        asked: dict[str, int],
        shards: Sequence[Tensor],
        partials: Sequence[Any],
        decision: Any,
    ) -> tuple[list[Any], Any]:
        def compute(number: int) -> Any:
            return self.partial(problem, steps, shards[number], partials[number], decision)

        names = [{**asked, "shard": number, "of": len(shards)} for number in range(len(shards))]
        found = workers.shards(names, compute)
        return found, self.combine(problem, steps, found, decision)


def checked_steps(steps: Sequence[int]) -> list[int]:
    """Step counts, ascending and without repetition; ValueError names what is wrong."""
    counts = sorted({int(n) for n in steps})
    if not counts or counts[0] < 1 or any(int(n) != n for n in steps):
        raise ValueError(f"step counts must be a list of integers of at least 1, got {list(steps)}")
    return counts


def steps_between(schedule: Schedule, steps: int) -> Schedule:
    """So many steps between the ends of a schedule, for what depends on their number and the ends alone."""
    first, last = schedule.times[[0, -1]].tolist()
    return Schedule(torch.linspace(first, last, steps + 1, dtype=torch.float64), schedule.process)
