"""Search problem, search result, and method: a map from problems to schedules that may be divided over samples."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from optsteps.conditions import Cond, fingerprint, take
from optsteps.denoisers import CountedDenoiser, Denoiser, counting
from optsteps.fingerprint import fingerprint_held, plain_settings, solver_facts
from optsteps.metrics.base import Judge
from optsteps.processes import Process
from optsteps.sampling import Walks, check_batch
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.workers import ALONE, Name, Workers
from optsteps.trajectories import NO_CACHE, Cache

T = TypeVar("T")
# of the steps of a multistep solver: searched, or the solver's own
Orders = Literal["chosen", "fixed"]

# numbers whose standard deviation says whether they are unit noise
_ENOUGH_NOISE = 64


@dataclass(frozen=True)
class SearchProblem:
    """A model, a solver and the samples to search with.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...].
        process: its noising process.
        solver: the student's solver.
        noise: unit Gaussian [B, ...].
        cond: condition of the noise's samples, or None.
        data, data_cond: clean samples [S, ...] and their condition, for methods that need data.
        teacher: the many-step schedule; methods on a grid choose among its times.
        teacher_solver: the solver that walks the teacher's schedule. None: the student's; see `walker`.
        cache: where trajectories and predictions that searches may share are kept.
        judges: who measure the final samples of the noise with these numbers, for methods that search by a figure.

    Raises:
        ValueError: batch sizes of noise and cond (data and data_cond) differ, no samples, a teacher of another process,
            or one with weights or told times.

    Warns:
        UserWarning: the noise is far from unit variance, so that it may have been scaled, which the sampler does.
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
    judges: Callable[[Sequence[int]], Sequence[Judge]] | None = None

    def __post_init__(self) -> None:
        if len(self.noise) == 0:
            raise ValueError("the problem's noise holds no samples")
        check_batch(self.noise, self.cond)
        spread = self.noise.float().std().item() if self.noise.numel() >= _ENOUGH_NOISE else 1.0
        if not 0.5 < spread < 2:
            warnings.warn(
                f"the problem's noise has standard deviation {spread:.3g}, and should be unit noise, torch.randn: the "
                "sampler scales it to the noise of its first time",
                UserWarning,
                stacklevel=3,
            )
        if self.data is not None:
            check_batch(self.data, self.data_cond)
        if self.teacher.process != self.process:
            raise ValueError(
                f"the teacher's schedule is for {self.teacher.process!r}, the problem is stated for {self.process!r}"
            )
        if self.teacher.carried:
            raise ValueError(
                f"the teacher's schedule has {' and '.join(self.teacher.carried)}, and searches take its steps for the "
                "solver's own: take its times alone"
            )

    @property
    def walker(self) -> Solver:
        """The solver that walks the teacher's schedule."""
        return self.teacher_solver or self.solver

    def samples(self, index: Tensor) -> tuple[Tensor, Cond]:
        """Noise and cond of the samples `index` [b]."""
        return self.noise[index.to(self.noise.device)], take(self.cond, index)

    def part(self, index: Tensor) -> SearchProblem:
        """The problem of the samples `index` [b] alone."""
        noise, cond = self.samples(index)
        whole = self.judges
        judges = None if whole is None else (lambda numbers: whole(index[list(numbers)].tolist()))
        return replace(self, noise=noise, cond=cond, judges=judges)

    @property
    def judges_of_samples(self) -> Sequence[Judge]:
        """The judges of all samples, none where there are none."""
        return [] if self.judges is None else self.judges(range(len(self.noise)))

    @property
    def facts(self) -> dict[str, Any]:
        """What tells this problem from others of the same model, but for its data and judges, as JSON data."""
        return {
            "samples": fingerprint((self.noise, self.cond)),
            "teacher": self.teacher.facts,
            "solver": solver_facts(self.solver, self.teacher, self.noise),
            "walker": solver_facts(self.walker, self.teacher, self.noise),
        }

    def check_answers(self, method: str) -> None:
        """Raises ValueError where the model cannot be asked for predictions at chosen states, as the method does."""
        denoiser = self.denoiser.denoiser if isinstance(self.denoiser, CountedDenoiser) else self.denoiser
        if isinstance(denoiser, Walks) and not denoiser.answers:
            raise ValueError(
                f"{method} asks for predictions at states of its own, and this model gives whole walks alone"
            )

    def check_repeats(self, method: str) -> None:
        """Raises ValueError where a walk, the student's or the teacher's, has noise of its own, which the method cannot
        tell from an error."""
        for solver in (self.solver, self.walker):
            if solver.stochastic:
                raise ValueError(
                    f"{method} compares with the teacher's samples, which the stochastic solver {solver.name!r} does "
                    "not repeat; search with a deterministic solver, or use a method for stochastic ones: ays, or "
                    "oss_euler, which searches with Euler's"
                )

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Evaluations inside are not counted, because they repeat some that were: those of a shard's earlier round
        whose states no store holds."""
        before = self.denoiser.evaluations if isinstance(self.denoiser, CountedDenoiser) else 0
        yield
        if isinstance(self.denoiser, CountedDenoiser):
            self.denoiser.evaluations = before


@dataclass(frozen=True)
class SearchResult:
    """Schedules that a search found.

    Attributes:
        schedules: the model-wide schedule for every step count.
        nfe: network evaluations per sample of the problem, counted; the teacher's included. `Method.search` sets it.
        evaluations: network evaluations of all samples together, guidance counted as 2; `Method.search` sets it. A
            search that takes fewer samples than the problem has spends them on these alone.
        seconds: wall time. `Method.search` sets it.
        per_sample: for methods that choose per sample, for every step count the indices [B, n+1] into the teacher's
            times, 0 being the noisy end; None otherwise. A search that takes fewer samples than the problem has chooses
            for these alone, the first.
        per_sample_orders: with them, for solvers of several orders, the orders of the steps [B, n]; None otherwise.
        evidence: numbers that the choice rests on, for plots; see the method. Under "decisions", a list of plain
            sentences on what the search decided on its way, which the report of a run shows.
        solvers: the solvers of those schedules that are sampled with another than the problem's, by step count. Such a
            schedule takes as many evaluations as so many steps of the problem's solver, in as many steps as it has.
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
    evaluations: int = 0
    solvers: Mapping[int, Solver] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluations:
    """Network evaluations of a search, before it is made.

    Attributes:
        count: of all samples together, guidance counted as 2.
        exact: whether the network's answers cannot change the number. Otherwise `count` is an estimate or a maximum.
        kept: of all samples together, the states and predictions that a store keeps; None for one an evaluation.
    """

    count: int
    exact: bool = True
    kept: int | None = None


class Method:
    """Anything that maps a problem and a list of step counts to schedules.

    A method of one's own implements `find`; `optsteps/methods/README.md` shows a complete one. Everything else has a
    default: `check` and `evaluations` serve the command line, `alone` and `path_schedule` the comparison's oracle.

    The schedules' metadata say how they were found. The keys that other parts of the package read are listed in
    `Schedule`; a method that searches with the problem's solver puts `**problem.solver.described` among them, so that
    the export writes for that solver.
    """

    def chooses_orders(self, problem: SearchProblem) -> bool:
        """Whether the schedules have orders of their own. The comparison then also shows their times without these."""
        return False

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        """Refuse what the method cannot take. Nothing is evaluated here.

        The command line calls this before anything is spent, and leaves out a default rival that refuses; `search`
        calls it once before `find`.

        Args:
            steps: at least one step count, each at least 1.

        Raises:
            ValueError: the problem or a step count does not suit the method.
        """
        checked_steps(steps)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations | None:
        """Evaluations of a search that shares nothing with others, for the run's plan; None where unknown."""
        return None

    def judge(self, problem: SearchProblem) -> Judge | None:
        """The judge by whose figure the method searches; None where it searches by no judge's.

        Raises:
            ValueError: nobody measures the figure.
        """
        return None

    @property
    def starts_freely(self) -> bool:
        """Whether the schedules may begin elsewhere than the teacher, with a scale of the first noise of their own."""
        return False

    def proposals(
        self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE
    ) -> Mapping[int, Sequence[Schedule]]:
        """By step count all schedules that somebody else may try and choose among, at least one.

        A method that samples with several schedules to choose one returns all of them here, and samples with none.
        Without an implementation they are those that `search` finds.
        """
        return {n: [schedule] for n, schedule in self.search(problem, steps, workers).schedules.items()}

    def alone(self) -> Method | None:
        """A method that searches every sample for itself and returns `SearchResult.per_sample`; None: there is none.

        A comparison whose main method has one shows the samples of these schedules in a row of their own, as an oracle:
        they say how much is lost because all samples share one schedule.
        """
        return None

    def path_schedule(self, problem: SearchProblem, path: Tensor, orders: Tensor | None = None) -> Schedule:
        """The schedule of a row [n+1] of `SearchResult.per_sample` and, where there are any, of its orders [n]."""
        teacher = problem.teacher
        return Schedule(
            teacher.times[path], problem.process, None if orders is None else orders.tolist(), teacher.initial_scale
        )

    def sample_schedules(self, problem: SearchProblem, result: SearchResult, steps: int) -> list[Schedule]:
        """The schedule of every sample for one step count, from a result with `per_sample`.

        Raises:
            ValueError: the result has none, or not of every sample.
        """
        if result.per_sample is None:
            raise ValueError(
                f"{type(self).__name__} searches every sample for itself, but its result has no per_sample"
            )
        paths = result.per_sample[steps]
        if len(paths) < len(problem.noise):
            raise ValueError(
                f"the search took {len(paths)} of the {len(problem.noise)} samples, so the others have no schedule of "
                "their own; search with alone(), which takes every sample by itself"
            )
        orders = [None] * len(paths) if result.per_sample_orders is None else result.per_sample_orders[steps]
        return [self.path_schedule(problem, *pair) for pair in zip(paths, orders, strict=True)]

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        """One schedule for every step count; checked, counted and timed.

        Args:
            workers: who computes what is divided over samples; methods that are not divided ignore them.

        Raises:
            ValueError: no step count, one below 1, or as `check`.
        """
        start = time.perf_counter()
        steps = checked_steps(steps)
        self.check(problem, steps)
        with counting(problem.denoiser) as denoiser:
            result = self.find(replace(problem, denoiser=denoiser), steps, workers)
        spent, samples = denoiser.evaluations, len(problem.noise)
        return replace(result, nfe=spent / samples, evaluations=spent, seconds=time.perf_counter() - start)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        """The search itself, of a problem that `check` has passed.

        Args:
            problem: its denoiser is counted; the result's `nfe`, `evaluations` and `seconds` are set from
                outside.
            steps: ascending, without repetition.
            workers: as in `search`.
        """
        raise NotImplementedError(f"{type(self).__name__} implements neither find nor search")


class ShardedMethod(Method, ABC):
    """A search that is map and combine over shards of samples, in one round or several.

    In every round each shard's `partial` is computed, from what the same shard returned in the round before and from
    the decision that was combined then. `combine` turns all of them into the next decision or into the result. Shards
    have a fixed size, so that the numbers do not depend on who computes them. A shard is stored with the number of its
    evaluations, which therefore count where the shard is read from a store as well.

    Attributes:
        shard_size: samples in a shard; bounds the memory of `partial`.
    """

    shard_size: int = 64

    @abstractmethod
    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Any:
        """This round's contribution of the samples `index` [b].

        Args:
            previous: what this returned for the same samples in the round before, None in the first.
            decision: what `combine` returned in the round before, None in the first.

        Returns:
            A tree that a shard can hold: tensors on the CPU, numbers, strings, None, lists, tuples, dicts, and
            dataclasses that are registered with `optsteps.storage.shards.storable`.
        """

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
        """Number of rounds of a search for these step counts."""
        return 1

    def shards(self, problem: SearchProblem) -> Sequence[Tensor]:
        """The numbers [b] of each shard's samples."""
        return torch.arange(len(problem.noise)).split(self.shard_size)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        decisions = self.decisions(problem, steps, workers)
        return next(decision for decision in decisions if isinstance(decision, SearchResult))

    def decisions(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> Iterator[Any]:
        """What `combine` returns in every round, which is made when it is asked for. Arguments as of `find`."""
        shards = self.shards(problem)
        if workers.keeps:  # several searches within one method do not read each other's shards
            workers = workers.on("searched by", **self._search_facts(problem, steps))
        partials: list[Any] = [None] * len(shards)
        decision: Any = None
        number = 0
        while not isinstance(decision, SearchResult):
            name = {"round": number, "rounds": self.rounds(steps)}
            partials = self._partials(problem, steps, workers, name, shards, partials, decision)
            decision = self.combine(problem, steps, partials, decision)
            number += 1
            yield decision

    def _search_facts(self, problem: SearchProblem, steps: Sequence[int]) -> dict[str, Any]:
        """Facts that tell this search from others of the same model, as JSON data."""
        return {
            "method": f"{type(self).__module__}.{type(self).__qualname__}",
            "settings": plain_settings(self),
            "held": fingerprint_held(self),
            "steps": list(steps),
            "data": fingerprint((problem.data, problem.data_cond)),
            **problem.facts,
        }

    def _partials(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        workers: Workers,
        name: dict[str, int],
        shards: Sequence[Tensor],
        partials: Sequence[Any],
        decision: Any,
    ) -> list[Any]:
        """What one round computes of every shard, or reads from the store."""
        counter = problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        names = [{**name, "shard": number, "of": len(shards)} for number in range(len(shards))]

        def compute(number: int) -> Any:
            return self.partial(problem, steps, shards[number], partials[number], decision)

        return counted_shards(counter, workers, names, compute)


def counted_shards(
    counter: CountedDenoiser, workers: Workers, names: Sequence[Name], compute: Callable[[int], T]
) -> list[T]:
    """compute(0), compute(1), ..., one for each of the names; those that are kept count as they did when made.

    Args:
        counter: the denoiser that `compute` evaluates.
        workers, names: see `Workers.shards`; a shard is the pair of a result and its evaluations.
    """
    before = counter.evaluations

    def counted(number: int) -> tuple[T, int]:
        begun = counter.evaluations
        return compute(number), counter.evaluations - begun

    shards = workers.shards(names, counted)
    counter.evaluations = before + sum(evaluations for _, evaluations in shards)
    return [result for result, _ in shards]


def checked_orders(orders: Orders) -> Orders:
    """The setting; ValueError where there is no such one."""
    if orders not in get_args(Orders):
        raise ValueError(f"orders must be 'chosen' or 'fixed', got {orders!r}")
    return orders


def checked_steps(steps: Sequence[int]) -> list[int]:
    """Step counts, ascending and without repetition; ValueError names what is wrong."""
    counts = sorted({int(n) for n in steps})
    if not counts or counts[0] < 1 or any(int(n) != n for n in steps):
        raise ValueError(f"step counts must be a list of integers of at least 1, got {list(steps)}")
    return counts


def steps_between(schedule: Schedule, steps: int) -> Schedule:
    """A schedule of so many steps between the ends of another, for costs that depend on their number and the ends."""
    first, last = schedule.times[[0, -1]].tolist()
    return Schedule(torch.linspace(first, last, steps + 1, dtype=torch.float64), schedule.process)
