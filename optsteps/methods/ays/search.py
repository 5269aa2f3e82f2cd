"""Align Your Steps (Sabour et al., arXiv:2404.14507) from one table of coupled evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import call_nfe
from optsteps.methods.ays.coordinate_search import check_candidates, descend
from optsteps.methods.ays.klub import TabulatedKlub, check_order
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, ShardedMethod, steps_between
from optsteps.methods.handmade import CHOSEN, HandMade
from optsteps.metrics.teacher import mse
from optsteps.metrics.toy import sliced_wasserstein
from optsteps.noise import sample_generator
from optsteps.processes import Flow
from optsteps.schedules import Schedule, build_schedule
from optsteps.storage.shards import storable
from optsteps.trajectories import Trajectories

# (samples [B, ...], reference [R, ...]) -> what is to be small
Criterion = Callable[[Tensor, Tensor], float]
Choice = Literal["judged", "last", "optimum"]
HIGHEST = 1000.0  # noise level of the grid, where the teacher starts at an infinite one


@runtime_checkable
class Limited(Protocol):
    """What a criterion may have beside: word of what it cannot compare, before anything is spent."""

    def check(self, samples: int, shape: Sequence[int]) -> None:
        """Raises ValueError where so many samples of that shape are too few, or of no use to it."""
        ...


class AYS(ShardedMethod):
    """Minimise KLUB (`optsteps.methods.ays.klub`) by coordinate descent, and stop where the samples are best.

    Every data sample is noised along one path through a grid of levels and denoised once at each; the table of
    E|D_s - D_t|^2 that comes of it (`CoupledTable`) gives the bound of every schedule on the grid. From then on the
    descent, at every step count, evaluates nothing.

    KLUB bounds the divergence of paths, not of samples: minimised to the end it makes samples worse, and its authors
    stop early by eye. Here the schedule after every sweep is tried on the problem's noise with the problem's own solver
    and the best by a stated criterion is returned. Judge it on other seeds, like any schedule.

    Data are the problem's, or where it has none the teacher's samples from its noise.

    Args:
        order: of the bound, 1 for Stochastic-DDIM, 2 for SDE-DPM-Solver++(2M). Over few and long steps a linear
            extrapolation of D has the larger bound of the two, and 2 finds no better schedules than 1, under
            second-order solvers either (experiments/ays_toys).
        starts: the hand-made families where descents start; each is walked, and the choice is among all of them. A
            descent keeps its start's ends: those of the teacher or, where schedules are judged under a flow, of the
            range that suits the start best (see `HandMade`).
        levels: steps of the grid, uniform in log noise level between the teacher's ends; at least four times the steps
            of the longest schedule are taken.
        choose: "judged": by the criterion, of the schedules from the starts to convergence; "last": the schedule after
            `max_sweeps`, stopped by hand (of least bound where there are several starts); "optimum": of all on the
            grid, by dynamic programming.
        criterion: "teacher": mean squared difference to the teacher's samples of the same noise; "distribution": sliced
            Wasserstein distance to the data (the teacher's samples where there are none); or one of your own, of
            samples and those. None: "teacher" for deterministic solvers, "distribution" for stochastic ones.
        max_sweeps, candidates: see `descend`.
        seed: of the noising paths and of stochastic solvers.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples measured together.
        block_size: samples in a block of the table, for standard errors.

    `SearchResult.evidence`, by step count: "path", the levels of the P schedules walked through [P, n+1]; "walk", the
    start and the number of sweeps of each; "klub", their bounds [P]; "criterion" [P], if judged; "stop", the place of
    the chosen one; and "table", the `CoupledTable`.

    Raises:
        ValueError: unknown `choose` or `criterion`, an order that is not known, an even number of candidates, no start;
            in `check`, an unknown start or one that has no such schedule, one step where the teacher ends at noise
            level 0, or as the criterion does where it is `Limited`.
    """

    def __init__(
        self,
        order: int = 1,
        starts: Sequence[str] = ("edm", "logsnr"),
        levels: int = 64,
        choose: Choice = "judged",
        criterion: Literal["teacher", "distribution"] | Criterion | None = None,
        max_sweeps: int = 300,
        candidates: int = 11,
        seed: int = 0,
        max_batch: int = 512,
        shard_size: int = 64,
        block_size: int = 16,
    ) -> None:
        if choose not in ("judged", "last", "optimum"):
            raise ValueError(f"choose must be 'judged', 'last' or 'optimum', got {choose!r}")
        if not (criterion is None or callable(criterion) or criterion in ("teacher", "distribution")):
            raise ValueError(f"criterion must be 'teacher', 'distribution' or a function, got {criterion!r}")
        check_order(order)
        check_candidates(candidates)
        if isinstance(starts, str) or not starts:
            raise ValueError(f"starts must be a list of hand-made families, got {starts!r}")
        if min(levels, max_batch, shard_size, block_size) < 1:
            raise ValueError("levels, max_batch, shard_size and block_size must be at least 1")
        self.order, self.starts, self.levels, self.choose, self.criterion = order, starts, levels, choose, criterion
        self.max_sweeps, self.candidates, self.seed = max_sweeps, candidates, seed
        self.max_batch, self.shard_size, self.block_size = max_batch, shard_size, block_size

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        for n in steps:
            for family in self.starts:
                start_levels(problem, family, intervals(problem, n))
        if self.choose == "judged" and isinstance(self.criterion, Limited):
            self.criterion.check(len(problem.noise), problem.noise.shape[1:])

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk where it is needed, the table and, if they are judged, the schedules on the way. How many
        these are depends on the table: the estimate is their number for Gaussian data of standard deviation 0.5."""
        solver, samples = problem.solver, len(problem.noise)
        levels = self._levels(problem, steps)
        count = len(levels) * (samples if problem.data is None else len(problem.data))
        ranges = [HandMade(f).schedules(problem, n) for f in self.starts for n in steps if self._has_ranges(problem)]
        if problem.data is None or self._criterion(problem) == "teacher" or ranges:
            count += samples * (problem.teacher_solver or solver).nfe(problem.teacher)
        count += samples * sum(solver.nfe(schedule) for tried in ranges for schedule in tried)
        judged = self.choose == "judged"
        if judged:
            errors = levels**2 / (1 + 4 * levels**2)  # the least mean squared error of estimating such data
            gaussian = TabulatedKlub(levels, (errors[:, None] - errors).abs(), self.order)
            paths, _ = self._paths(problem, steps, gaussian, partial(self._first_start, problem))
            for n, path in paths.items():
                count += samples * len(path) * solver.nfe(steps_between(problem.teacher, n))
        return Evaluations(count * call_nfe(problem.denoiser), exact=not judged)

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> _Part:
        """First the table of these samples, then, if they are judged, what every schedule of the paths makes of their
        noise."""
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        noise, cond = problem.samples(index)
        if decision is None:
            part, teacher = _Part(), None
            if problem.data is None or self._criterion(problem) == "teacher":
                teacher = teacher_samples(problem, trajectories, index, self.seed)
                part.teacher = teacher.cpu()
            part.tables = self._measured(problem, trajectories, steps, index, teacher, cond)
            if self._has_ranges(problem):
                if teacher is None:
                    teacher = teacher_samples(problem, trajectories, index, self.seed)
                for family in self.starts:
                    part.ranges[family] = HandMade(family).errors(problem, steps, index, trajectories, teacher)
        else:
            part = previous
            for n, path in decision.paths.items():
                walks = [
                    trajectories.ends(s, problem.solver, noise, cond, self.seed, index)
                    for s in (as_schedule(problem, levels) for levels in path)
                ]
                part.samples[n] = torch.stack(walks).cpu()
        part.evaluations += trajectories.evaluations
        return part

    def rounds(self, steps: Sequence[int]) -> int:
        return 2 if self.choose == "judged" else 1

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[_Part], decision: Any = None
    ) -> SearchResult | _Decision:
        """Descend on the joined table; then choose from what was judged."""
        if decision is None:
            decision = self._descended(problem, steps, partials)
            if self.choose == "judged":
                return decision
        walks, bounds = decision.walks, decision.bounds
        evidence: dict[str, Any] = {"path": decision.paths, "walk": walks, "klub": bounds, "table": decision.table}
        if self.choose == "judged":
            evidence["criterion"] = {n: self._judged(problem, n, partials) for n in steps}
            stops = {n: int(values.argmin()) for n, values in evidence["criterion"].items()}
        else:
            stops = {n: _least_of_the_last(walks[n], bounds[n]) for n in steps}
        evidence["stop"] = stops
        schedules = {}
        for n, stop in stops.items():
            start, sweeps = walks[n][stop]
            described = {
                "method": "ays",
                "order": self.order,
                **problem.solver.described,
                "choose": self.choose,
                "start": start,
                "sweeps": sweeps,
                "klub": float(bounds[n][stop]),
                "samples": int(decision.table.counts.sum()),
            }
            schedules[n] = as_schedule(problem, decision.paths[n][stop], described)
        evaluations = sum(part.evaluations for part in partials)
        return SearchResult(schedules, evaluations / len(problem.noise), evidence=evidence)

    def _measured(
        self,
        problem: SearchProblem,
        trajectories: Trajectories,
        steps: Sequence[int],
        index: Tensor,
        teacher: Tensor | None,
        cond: Cond,
    ) -> list[CoupledTable]:
        """The table of this shard's data in blocks: the teacher's samples, or the shard's share of the problem's."""
        if problem.data is None:
            assert teacher is not None
            numbers, data = index, teacher
        else:
            per_sample = len(problem.data) / len(problem.noise)
            first, last = (round(int(k) * per_sample) for k in (index[0], index[-1] + 1))
            numbers = torch.arange(first, last)
            data, cond = problem.data[first:last], take(problem.data_cond, numbers)
        levels = self._levels(problem, steps)
        facts = {"process": problem.process.to_dict(), "seed": self.seed, "max_batch": self.max_batch}
        tables = []
        for block in torch.arange(len(numbers)).split(self.block_size):
            measure = partial(
                CoupledTable.measure,
                process=problem.process,
                data=data[block.to(data.device)],
                cond=take(cond, block),
                levels=levels,
                generators=[sample_generator(self.seed, int(k), stream=2) for k in numbers[block]],
                max_batch=self.max_batch,
            )
            inputs = (measure.keywords["data"], measure.keywords["cond"], levels, numbers[block])
            tables.append(trajectories.once("coupled table", inputs, measure, **facts))
        return tables

    def _has_ranges(self, problem: SearchProblem) -> bool:
        """Are the starts' ranges chosen? Bounds over different ranges say nothing of which is better."""
        return self.choose == "judged" and isinstance(problem.process, Flow)

    def _start(self, problem: SearchProblem, family: str, steps: int, partials: Sequence[_Part]) -> Tensor:
        """The levels above 0 where a descent starts."""
        if not self._has_ranges(problem):
            return start_levels(problem, family, intervals(problem, steps))
        return _positive_levels(problem, HandMade(family).best(problem, steps, [p.ranges[family] for p in partials]))

    def _first_start(self, problem: SearchProblem, family: str, steps: int) -> Tensor:
        """The levels above 0 of the first range where a descent may start."""
        if not self._has_ranges(problem):
            return start_levels(problem, family, intervals(problem, steps))
        return _positive_levels(problem, HandMade(family).schedules(problem, steps)[0])

    def _descended(self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[_Part]) -> _Decision:
        table = CoupledTable.joined([table for part in partials for table in part.tables])
        klub = table.klub(self.order)
        paths, walks = self._paths(problem, steps, klub, partial(self._start, problem, partials=partials))
        return _Decision(paths, walks, {n: klub.of(path) for n, path in paths.items()}, table)

    def _levels(self, problem: SearchProblem, steps: Sequence[int]) -> Tensor:
        """The table's noise levels [K+1]."""
        return grid(problem, max(self.levels, 4 * max(steps)))

    def _paths(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        klub: TabulatedKlub,
        start_of: Callable[[str, int], Tensor],
    ) -> tuple[dict[int, Tensor], dict[int, list[tuple[str, int]]]]:
        """The schedules walked through [P, n+1] by step count, and the start and the sweeps of each; `start_of` a
        family and a step count is where a descent starts."""
        paths, walks = {}, {}
        for n in steps:
            inner = intervals(problem, n)
            if self.choose == "optimum":
                paths[n], walks[n] = klub.optimum(inner)[None], [("optimum", 0)]
                continue
            starts = {family: start_of(family, n) for family in self.starts}
            found = {f: descend(klub, start, self.max_sweeps, self.candidates) for f, start in starts.items()}
            paths[n] = torch.cat(list(found.values()))
            walks[n] = [(family, sweeps) for family, path in found.items() for sweeps in range(len(path))]
        return paths, walks

    def _judged(self, problem: SearchProblem, n: int, partials: Sequence[_Part]) -> Tensor:
        """The criterion for every schedule of n steps that was walked through [P]."""
        samples = torch.cat([part.samples[n] for part in partials], 1)
        criterion = self._criterion(problem)
        if criterion == "teacher" or problem.data is None:
            reference = torch.cat([part.teacher for part in partials if part.teacher is not None])
        else:
            reference = problem.data
        compare: Criterion = _CRITERIA[criterion] if isinstance(criterion, str) else criterion
        return torch.tensor([compare(x, reference) for x in samples], dtype=torch.float64)

    def _criterion(self, problem: SearchProblem) -> str | Criterion:
        return self.criterion or ("distribution" if problem.solver.stochastic else "teacher")


@storable
@dataclass
class _Part:
    """What a shard has found so far."""

    tables: list[CoupledTable] = field(default_factory=list)
    teacher: Tensor | None = None
    samples: dict[int, Tensor] = field(default_factory=dict)
    ranges: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    evaluations: int = 0


@dataclass
class _Decision:
    """The schedules walked through [P, n+1] by step count, the start and the sweeps of each, their bounds [P], and the
    table that these come from."""

    paths: dict[int, Tensor]
    walks: dict[int, list[tuple[str, int]]]
    bounds: dict[int, Tensor]
    table: CoupledTable


def _least_of_the_last(walk: list[tuple[str, int]], bounds: Tensor) -> int:
    """Of every start's last schedule, the place of the one with the least bound."""
    ends = {start: place for place, (start, _) in enumerate(walk)}
    return min(ends.values(), key=lambda place: float(bounds[place]))


def _mean_squared(samples: Tensor, teacher: Tensor) -> float:
    return float(mse(samples, teacher).mean())


def _sliced(samples: Tensor, reference: Tensor) -> float:
    return sliced_wasserstein(samples.flatten(1), reference.flatten(1))


_CRITERIA: dict[str, Criterion] = {"teacher": _mean_squared, "distribution": _sliced}


def _positive_levels(problem: SearchProblem, schedule: Schedule) -> Tensor:
    """A start's noise levels above 0, between the `ends`."""
    levels = schedule.noise_levels
    return levels[levels > 0].clamp(max=ends(problem)[0])


def start_levels(problem: SearchProblem, family: str, steps: int) -> Tensor:
    """A hand-made schedule between the `ends` as noise levels [steps+1]."""
    t_max, t_min = problem.process.time_of_noise_level(ends(problem)).tolist()
    return build_schedule(family, problem.process, steps, t_max=t_max, t_min=t_min).noise_levels


def teacher_samples(problem: SearchProblem, trajectories: Trajectories, index: Tensor, seed: int) -> Tensor:
    """The teacher's samples [b, ...] from the problem's noise `index` [b]."""
    walker = problem.teacher_solver or problem.solver
    noise, cond = problem.samples(index)
    return trajectories.ends(problem.teacher, walker, noise, cond, seed, index)


def clean_data(problem: SearchProblem, trajectories: Trajectories, index: Tensor, seed: int) -> tuple[Tensor, Cond]:
    """The problem's clean samples with their cond, or where it has none the teacher's from its noise `index`."""
    if problem.data is not None:
        return problem.data, problem.data_cond
    return teacher_samples(problem, trajectories, index, seed), take(problem.cond, index)


def ends(problem: SearchProblem) -> tuple[float, float]:
    """The teacher's first and last positive noise level. A flow's t = 1 counts as noise level 1000, where the denoiser
    sees next to nothing of the sample either and the bound's integral is 1e-6 of that at noise level 1."""
    levels = problem.teacher.noise_levels
    return min(float(levels[0]), HIGHEST), float(levels[levels > 0][-1])


def grid(problem: SearchProblem, steps: int) -> Tensor:
    """Noise levels [steps+1], uniform in log, between the `ends`."""
    top, bottom = ends(problem)
    levels = torch.logspace(0, 1, steps + 1, base=bottom / top, dtype=torch.float64) * top
    levels[0], levels[-1] = top, bottom
    return levels


def as_schedule(problem: SearchProblem, levels: Tensor, metadata: dict[str, Any] | None = None) -> Schedule:
    """The schedule of positive noise levels, followed by 0 where the teacher's is.

    Ends of the teacher are taken over exactly, with the scale of its noise; those of a range of its own stay.
    """
    times, described = problem.process.time_of_noise_level(levels), metadata or {}
    teacher, clean = problem.teacher.times, int(problem.teacher.ends_clean)
    top, bottom = ends(problem)
    at_top, at_bottom = (math.isclose(*pair, rel_tol=1e-9) for pair in ((levels[0], top), (levels[-1], bottom)))
    first = teacher[:1] if at_top else times[:1]
    last = teacher[-1 - clean : len(teacher) - clean] if at_bottom else times[-1:]
    times = torch.cat([first, times[1:-1], last, teacher[len(teacher) - clean :]])
    if not (at_top and at_bottom):
        described = {**described, "range": CHOSEN}
    scale = problem.teacher.initial_scale if at_top else None
    return Schedule(times, problem.process, initial_scale=scale, metadata=described)


def intervals(problem: SearchProblem, steps: int) -> int:
    """Steps that KLUB speaks of: not the one to noise level 0."""
    inner = steps - problem.teacher.ends_clean
    if inner < 1:
        raise ValueError(f"{steps} steps leave none above noise level 0, where the teacher ends")
    return inner
