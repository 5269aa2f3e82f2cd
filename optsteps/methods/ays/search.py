"""Align Your Steps (Sabour et al., arXiv:2404.14507) from one table of coupled evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.ays.coordinate_search import check_candidates, descend
from optsteps.methods.ays.criterion import CRITERIA, Criterion, Limited
from optsteps.methods.ays.data import coupled_tables, teacher_samples
from optsteps.methods.ays.klub import TabulatedKlub, check_order
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.methods.ays.levels import as_schedule, grid, intervals, positive_levels, start_levels
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, ShardedMethod, steps_between
from optsteps.methods.handmade import HandMade
from optsteps.processes import Flow
from optsteps.storage.shards import storable
from optsteps.trajectories import Trajectories

Choice = Literal["judged", "last", "optimum"]


class AYS(ShardedMethod):
    """Minimise KLUB (`optsteps.methods.ays.klub`) by coordinate descent, and stop where the samples are best.

    Every data sample is noised along one path through a grid of levels and denoised once at each. The table of
    E|D_s - D_t|^2 (`CoupledTable`) gives the bound of every schedule on the grid, so the descent itself evaluates
    nothing, whatever the step count.

    KLUB bounds the divergence of paths, not of samples. Minimised to the end it makes samples worse, and its authors
    stop early by eye. Here the schedule after every sweep is tried on the problem's noise with the problem's solver,
    and the best by a stated criterion is returned. Judge it on other seeds, like any schedule.

    The data are the problem's. Where it has none, they are the teacher's samples from its noise.

    Args:
        order: order of the bound, 1 for Stochastic-DDIM, 2 for SDE-DPM-Solver++(2M). Over few and long steps a linear
            extrapolation of D has the larger bound. Order 2 finds no better schedules than order 1, not even for
            second-order solvers (experiments/ays_toys).
        starts: the hand-made families where descents start. The choice is among the schedules of all descents. A
            descent keeps its start's ends: those of the teacher or, where schedules are judged under a flow, those of
            the range that suits the start best (see `HandMade`).
        levels: steps of the grid, uniform in log noise level between the teacher's ends. The grid has at least four
            times the steps of the longest schedule.
        choose: "judged": the schedule that is best by the criterion, of all from the starts to convergence. "last": the
            schedule after `max_sweeps`, stopped by hand; with several starts the one of least bound. "optimum": the one
            of least bound of all on the grid, by dynamic programming.
        criterion: "teacher": mean squared difference to the teacher's samples of the same noise. "distribution": sliced
            Wasserstein distance to the data (the teacher's samples where there are none). Or a function of the samples
            and these. None: "teacher" for deterministic solvers, "distribution" for stochastic ones.
        max_sweeps, candidates: see `descend`.
        seed: of the noising paths and of stochastic solvers.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples measured together.
        block_size: samples in a block of the table, for standard errors.

    `SearchResult.evidence`, by step count: "path", the levels [P, n+1] of the P schedules on the descents' way; "walk",
    the start and the number of sweeps of each; "klub", their bounds [P]; "criterion" [P], if judged; "stop", the index
    of the chosen one; and "table", the `CoupledTable`.

    Raises:
        ValueError: unknown `choose`, `criterion` or order, an even number of candidates, no start; in `check`, an
            unknown start or one that has no such schedule, one step where the teacher ends at noise level 0, or as the
            criterion where it is `Limited`.
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
        problem.check_answers("ays")
        for n in steps:
            for family in self.starts:
                start_levels(problem, family, intervals(problem, n))
        if self.choose == "judged" and isinstance(self.criterion, Limited):
            self.criterion.check(len(problem.noise), problem.noise.shape[1:])

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk where it is needed, the table and, if they are judged, the schedules on the way. The
        table decides how many these are. The estimate is their number for Gaussian data of standard deviation 0.5."""
        solver, samples = problem.solver, len(problem.noise)
        levels = self._levels(problem, steps)
        count = len(levels) * (samples if problem.data is None else len(problem.data))
        ranges = [HandMade(f).schedules(problem, n) for f in self.starts for n in steps if self._has_ranges(problem)]
        if problem.data is None or self._criterion(problem) == "teacher" or ranges:
            count += samples * problem.walker.nfe(problem.teacher)
        count += samples * sum(solver.nfe(schedule) for tried in ranges for schedule in tried)
        judged, tried = self.choose == "judged", 1 + sum(map(len, ranges))
        if judged:
            errors = levels**2 / (1 + 4 * levels**2)  # the least mean squared error of estimating such data
            gaussian = TabulatedKlub(levels, (errors[:, None] - errors).abs(), self.order)
            paths, _ = self._paths(problem, steps, gaussian, partial(self._first_start, problem))
            for n, path in paths.items():
                count += samples * len(path) * solver.nfe(steps_between(problem.teacher, n))
                tried += len(path)
        return Evaluations(count * call_nfe(problem.denoiser), exact=not judged, kept=samples * tried)

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> _Part:
        """First the table of these samples; then, if schedules are judged, the samples of every schedule on the way."""
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        noise, cond = problem.samples(index)
        if decision is None:
            part, teacher = _Part(), None
            if problem.data is None or self._criterion(problem) == "teacher":
                teacher = teacher_samples(problem, trajectories, index, self.seed)
                part.teacher = teacher.cpu()
            levels = self._levels(problem, steps)
            part.tables = coupled_tables(problem, trajectories, index, teacher, levels, self.seed, self.block_size)
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
        return SearchResult(schedules, evidence=evidence)

    def _has_ranges(self, problem: SearchProblem) -> bool:
        """Whether the starts' ranges are chosen. Bounds over different ranges do not tell which range is better."""
        return self.choose == "judged" and isinstance(problem.process, Flow)

    def _start(self, problem: SearchProblem, family: str, steps: int, partials: Sequence[_Part]) -> Tensor:
        """The levels above 0 where a descent starts."""
        if not self._has_ranges(problem):
            return start_levels(problem, family, intervals(problem, steps))
        return positive_levels(problem, HandMade(family).best(problem, steps, [p.ranges[family] for p in partials]))

    def _first_start(self, problem: SearchProblem, family: str, steps: int) -> Tensor:
        """The levels above 0 of the first range where a descent may start."""
        if not self._has_ranges(problem):
            return start_levels(problem, family, intervals(problem, steps))
        return positive_levels(problem, HandMade(family).schedules(problem, steps)[0])

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
        """The schedules on the descents' way [P, n+1] by step count, and the start and the sweeps of each; a descent
        starts at the levels start_of(family, step count)."""
        paths, walks = {}, {}
        for n in steps:
            inner = intervals(problem, n)
            if self.choose == "optimum":
                paths[n], walks[n] = klub.optimum(inner)[None], [("optimum", 0)]
                continue
            starts = {family: start_of(family, n) for family in self.starts}
            descents = {f: descend(klub, start, self.max_sweeps, self.candidates) for f, start in starts.items()}
            paths[n] = torch.cat(list(descents.values()))
            walks[n] = [(family, sweeps) for family, path in descents.items() for sweeps in range(len(path))]
        return paths, walks

    def _judged(self, problem: SearchProblem, n: int, partials: Sequence[_Part]) -> Tensor:
        """The criterion [P] of every schedule of n steps on the way."""
        samples = torch.cat([part.samples[n] for part in partials], 1)
        criterion = self._criterion(problem)
        if criterion == "teacher" or problem.data is None:
            reference = torch.cat([part.teacher for part in partials if part.teacher is not None])
        else:
            reference = problem.data
        compare: Criterion = CRITERIA[criterion] if isinstance(criterion, str) else criterion
        return torch.tensor([compare(x, reference) for x in samples], dtype=torch.float64)

    def _criterion(self, problem: SearchProblem) -> str | Criterion:
        return self.criterion or ("distribution" if problem.solver.stochastic else "teacher")


@storable
@dataclass
class _Part:
    """Measurements of a shard so far."""

    tables: list[CoupledTable] = field(default_factory=list)
    teacher: Tensor | None = None
    samples: dict[int, Tensor] = field(default_factory=dict)
    ranges: dict[str, dict[int, Tensor]] = field(default_factory=dict)


@dataclass
class _Decision:
    """The schedules on the descents' way [P, n+1] by step count, the start and the sweeps of each, their bounds [P],
    and the table that gives the bounds."""

    paths: dict[int, Tensor]
    walks: dict[int, list[tuple[str, int]]]
    bounds: dict[int, Tensor]
    table: CoupledTable


def _least_of_the_last(walk: list[tuple[str, int]], bounds: Tensor) -> int:
    """Index of the schedule of least bound among the last ones of every start."""
    ends = {start: place for place, (start, _) in enumerate(walk)}
    return min(ends.values(), key=lambda place: float(bounds[place]))
