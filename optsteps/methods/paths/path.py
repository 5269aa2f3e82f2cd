"""Shortest paths whose edges are the student's own steps, under several weights of an error; the samples choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product, takewhile
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe, counting
from optsteps.methods.base import (
    Evaluations,
    Orders,
    SearchProblem,
    SearchResult,
    checked_orders,
    checked_steps,
    steps_between,
)
from optsteps.methods.paths.base import TeacherTableMethod
from optsteps.methods.paths.error_weight import Weight, check_weight, error_weight
from optsteps.methods.paths.shortest_path import forward, shortest_path
from optsteps.methods.paths.step_errors import step_errors
from optsteps.methods.paths.teacher_table import table_of
from optsteps.methods.paths.two_stage_errors import two_stage_errors
from optsteps.metrics.teacher import mse
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.solvers.multistep import Euler, Multistep
from optsteps.solvers.singlestep import TwoStage
from optsteps.storage.shards import storable
from optsteps.storage.workers import ALONE, Workers
from optsteps.trajectories import Trajectories

# by step count a path and its orders, None for the solver's own
Paths = dict[int, tuple[Tensor, Tensor | None]]
# the paths of so many steps by the costs of every order [M, n, ..., n]
Edges = Callable[[Solver, Tensor, Sequence[int]], Paths]
Norm = Literal["l2", "squared"]

# nodes of the grid by how many earlier ones a step's cost depends on
_GRID = {0: 200, 1: 100, 2: 40}
_GRID_TWO_STAGE = 25


@storable
@dataclass(frozen=True)
class StepErrors:
    """A shard's errors of steps.

    Attributes:
        own: sums of the squares and of their roots for every order of the student's solver [M, 2, P], as `step_errors`
            returns them, of the P entries that are `forward`.
        euler: those of Euler's steps [1, 2, P].
        size: sum of the mean squares of the teacher's samples.
        ends: these samples [b, ...]; None where the shard was read from a store.
    """

    own: Tensor
    euler: Tensor
    size: float
    ends: Tensor | None = field(default=None, metadata={"stored": False})


@storable
@dataclass(frozen=True)
class Misses:
    """What a shard's samples miss the teacher's by in one round of the race.

    Attributes:
        logs: by step count the logarithms [C, b] of the mean squares for every schedule of the round.
        ends: as of `StepErrors`.
    """

    logs: dict[int, Tensor]
    ends: Tensor | None = field(default=None, metadata={"stored": False})


@dataclass(frozen=True)
class Round:
    """What runs in a round of the race.

    Attributes:
        schedules: C by step count.
        first, end: the samples that they run on, from the problem's `first` to the one before its `end`.
        logs: those of the samples before `first` [C, first], by step count.
    """

    schedules: dict[int, list[Schedule]]
    first: int
    end: int
    logs: dict[int, Tensor]


class Path(TeacherTableMethod):
    """The path of least total error of the student's own steps, each from the teacher's own state, under the weights of
    an error that suit the samples best.

    An edge's cost is the error of the student's step: for a multistep solver that of its own order, with what the
    teacher saw at the nodes before remembered, so that a node of the search is a pair of times, or a triple for order
    3 and above. Further candidates of such a solver have Euler's steps for edges, which are cruder but know the end
    of no step beforehand, and steps of a lower order wherever that has the lesser mean error. For solvers of two
    evaluations a step the second evaluation is made, on a coarser grid.

    What an error made at noise level s does to the end is not in the teacher's table, and the best guess depends on the
    model. So there is a path for each of several weights w(s) of errors in EDM's coordinates and for several kinds of
    edges, and they race: all of them sample with the real solver from a quarter of the search's noise, and the best
    from the rest too. For every step count the one with the least mean logarithm of the squared difference to the
    teacher's samples wins, that of the highest mean PSNR.

    Args:
        weights: "edm": 1; "flow": 1 / (1 + s); a number m: sigma_d / sqrt(s^2 + sigma_d^2), the part of an error that
            reaches the end where the data are Gaussian with deviation sigma_d, which is m times the size (root mean
            square) of the teacher's samples.
        norms: "l2": the mean over samples of the root mean square error; "squared": the mean of the mean square.
        orders: as of `OSS`: "chosen", or "fixed" for samplers that take no orders.
        finalists: candidates of a step count that run on all samples.
        grid_steps: number of the teacher's steps whose ends may be chosen, spread as evenly as possible. None: all up
            to 200 for Euler's steps, up to 100 for pairs, 40 for triples, 25 for two evaluations a step.
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.

    `SearchResult.evidence`: "finalists", by step count -10 log10 of the mean square of every finalist, a mean over
    samples, best first.

    Raises:
        ValueError: no weight or an unknown one, no norm or an unknown one, unknown `orders`; in `check` as
            `TeacherTableMethod`, or more steps than the grid has.
    """

    name = "path"

    def __init__(
        self,
        weights: Sequence[Weight] = ("edm", "flow", 0.5, 1.0, 2.0, 4.0, 8.0),
        norms: Sequence[Norm] = ("squared",),
        orders: Orders = "chosen",
        finalists: int = 3,
        grid_steps: int | None = None,
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        super().__init__(max_batch, shard_size, channels, frames)
        for weight in weights:
            check_weight(weight)
        if not weights:
            raise ValueError("at least one weight is needed, such as 'edm'")
        if not norms or not set(norms) <= {"l2", "squared"}:
            raise ValueError(f"norms are 'l2', 'squared' or both, got {list(norms)}")
        if finalists < 1:
            raise ValueError(f"at least one candidate must run on all samples, got finalists = {finalists}")
        self.weights, self.norms, self.orders = tuple(weights), tuple(norms), checked_orders(orders)
        self.finalists, self.grid_steps = finalists, grid_steps

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return self.orders == "chosen" and isinstance(problem.solver, Multistep) and problem.solver.order > 1

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        super().check(problem, steps)
        if isinstance(problem.solver, TwoStage):
            problem.check_answers("path")
        if not isinstance(problem.solver, (Multistep, TwoStage)):
            raise ValueError(
                f"path knows solvers of one and of two evaluations per step; {problem.solver.name!r} is neither"
            )
        available = len(self.nodes(problem, problem.solver)) - 1
        if max(steps) > available:
            raise ValueError(f"{max(steps)} student steps were asked for, but the grid has only {available}")

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk, one evaluation for every pair of nodes where the solver takes two per step, and the race.
        The last is a maximum, because candidates of several weights may be the same."""
        solver, samples = problem.solver, len(problem.noise)
        candidates = len(self.weights) * len(self.norms) * len(self._edges(problem))
        finalists = min(self.finalists, candidates)
        walks = candidates * _first(samples) + finalists * (samples - _first(samples))
        walk = sum(solver.nfe(steps_between(problem.teacher, n)) for n in checked_steps(steps))
        pairs = 0
        if isinstance(solver, TwoStage):
            times = problem.teacher.times[self.nodes(problem, solver)]
            i, j = torch.triu_indices(len(times), len(times), 1)
            pairs = int((~solver.single(solver.formulas(problem.process), times[i], times[j])).sum())
        count = samples * (problem.walker.nfe(problem.teacher) + pairs) + walks * walk
        return Evaluations(count * call_nfe(problem.denoiser), exact=False)

    def rounds(self, steps: Sequence[int]) -> int:
        return 3

    def proposals(
        self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE
    ) -> Mapping[int, Sequence[Schedule]]:
        """The paths of every weight, norm and kind of edges."""
        with counting(problem.denoiser) as denoiser:
            first = next(self.decisions(replace(problem, denoiser=denoiser), checked_steps(steps), workers))
        assert isinstance(first, Round)
        return first.schedules

    def nodes(self, problem: SearchProblem, solver: Solver) -> Tensor:
        """Indices [n] of the teacher's times that may be chosen where the edges are this solver's steps."""
        whole = problem.teacher.steps
        most = _GRID_TWO_STAGE if isinstance(solver, TwoStage) else _GRID[_memory(solver)]
        steps = min(most, whole) if self.grid_steps is None else self.grid_steps
        if not 1 <= steps <= whole:
            raise ValueError(f"grid_steps must lie between 1 and the teacher's {whole} steps, got {steps}")
        return torch.linspace(0, whole, steps + 1, dtype=torch.float64).round().long()

    def partial(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        index: Tensor,
        previous: StepErrors | Misses | None = None,
        decision: Round | None = None,
    ) -> StepErrors | Misses:
        """The errors of the samples' steps, then what they miss the teacher's by in each round of the race."""
        if previous is None or decision is None:
            return self._errors(problem, index)
        running = (decision.first <= index) & (index < decision.end)
        if not bool(running.any()):
            return Misses({n: torch.empty(len(decision.schedules[n]), 0) for n in steps}, previous.ends)
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        ends = previous.ends
        if ends is None:
            with problem.uncounted():
                ends = trajectories.ends(problem.teacher, problem.walker, *problem.samples(index))
        noise, cond = problem.samples(index[running])
        goal = ends[running.to(ends.device)]

        def log(schedule: Schedule) -> Tensor:
            return mse(trajectories.ends(schedule, problem.solver, noise, cond), goal).log10().cpu()

        return Misses({n: torch.stack([log(schedule) for schedule in decision.schedules[n]]) for n in steps}, ends)

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Round | None = None
    ) -> Round | SearchResult:
        """All candidates, then the finalists, then the best of them for every step count; of equal ones the first."""
        samples = len(problem.noise)
        if decision is None:
            candidates = self._candidates(problem, steps, partials)
            return Round(candidates, 0, _first(samples), {n: torch.empty(len(candidates[n]), 0) for n in steps})
        logs = {n: torch.cat([decision.logs[n], *(part.logs[n] for part in partials)], 1) for n in steps}
        # a walk that diverged is the worst
        figures = {n: -10 * logs[n].nan_to_num(torch.inf, torch.inf, -torch.inf).mean(1) for n in steps}
        best = {n: figures[n].argsort(descending=True, stable=True)[: self.finalists].tolist() for n in steps}
        schedules = {n: [decision.schedules[n][number] for number in best[n]] for n in steps}
        if decision.end < samples:
            return Round(schedules, decision.end, samples, {n: logs[n][best[n]] for n in steps})
        return SearchResult(
            {n: schedules[n][0] for n in steps}, evidence={"finalists": {n: figures[n][best[n]] for n in steps}}
        )

    def _errors(self, problem: SearchProblem, index: Tensor) -> StepErrors:
        noise, cond = problem.samples(index)
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        record = trajectories.record(problem.teacher, problem.walker, noise, cond)
        table, solver = table_of(problem, record, self.entries), problem.solver
        nodes = self.nodes(problem, solver)
        euler = step_errors(table, Euler(), 1, 0, self.nodes(problem, Euler()))[None]
        if isinstance(solver, Euler):
            own = euler
        elif isinstance(solver, TwoStage):
            own = two_stage_errors(problem, record, cond, nodes, self.max_batch, self.entries)[None]
        else:
            assert isinstance(solver, Multistep)
            memory = _memory(solver)
            own = torch.stack([step_errors(table, solver, m, memory, nodes) for m in range(1, memory + 2)])
        size = float(table.squares(table.states()[-1]).sum())
        own, euler = (errors[..., forward(errors.shape[-1], errors.ndim - 4)] for errors in (own, euler))
        return StepErrors(own, euler, size, record.states[:, -1].clone())

    def _candidates(
        self, problem: SearchProblem, steps: Sequence[int], shards: Sequence[StepErrors]
    ) -> dict[int, list[Schedule]]:
        """A path for every weight, norm and kind of edges; without those that are the same."""
        size = (sum(shard.size for shard in shards) / len(problem.noise)) ** 0.5
        found: dict[int, list[Schedule]] = {n: [] for n in steps}
        for edges in self._edges(problem):
            solver, name = (Euler(), "euler") if edges is _euler else (problem.solver, "own")
            nodes = self.nodes(problem, solver)
            times = problem.teacher.times[nodes]
            alpha, sigma = problem.process.alpha(times), problem.process.sigma(times)
            packed = torch.stack([getattr(shard, name) for shard in shards]).sum(0)
            possible = forward(len(nodes), _memory(solver))
            errors = packed.new_full((*packed.shape[:2], *possible.shape), torch.inf)
            errors[..., possible] = packed
            for weight, norm in product(self.weights, self.norms):
                factor = error_weight(alpha, sigma, weight, size)
                costs = errors[:, 1] * factor if norm == "l2" else errors[:, 0] * factor**2
                for n, (path, orders) in edges(problem.solver, costs, steps).items():
                    described = {"weight": weight, "norm": norm, "edges": edges.__name__.strip("_")}
                    schedule = self.schedule(problem, times[path], **described, indices=nodes[path].tolist())
                    if orders is not None:
                        schedule = replace(schedule, orders=_taken(problem, schedule.times, orders))
                    if all(s.orders != schedule.orders or not torch.equal(s.times, schedule.times) for s in found[n]):
                        found[n].append(schedule)
        return found

    def _edges(self, problem: SearchProblem) -> list[Edges]:
        if not isinstance(problem.solver, Multistep) or problem.solver.order == 1:
            return [_own]
        return [_own, _euler, _chosen] if self.orders == "chosen" else [_own, _euler]


def _memory(solver: Solver) -> int:
    """How many nodes before a step's origin its cost depends on; orders above 3 are taken for 3."""
    return min(solver.order - 1, 2) if isinstance(solver, Multistep) else 0


def _first(samples: int) -> int:
    """How many samples all candidates run on."""
    return (samples + 3) // 4


def _taken(problem: SearchProblem, times: Tensor, orders: Tensor) -> tuple[int, ...]:
    """The orders that the steps between the times [n+1] have, where the orders [n] are asked for."""
    solver = problem.solver
    assert isinstance(solver, Multistep)
    formulas, t, t_next = solver.formulas(problem.process), times[:-1], times[1:]
    return tuple(solver.usable(formulas, solver.remembered(formulas, t), t, t_next, orders).tolist())


def _own(solver: Solver, costs: Tensor, steps: Sequence[int]) -> Paths:
    """The paths of steps of the orders that the solver takes by itself."""
    highest, memory = len(costs), costs.ndim - 3
    # step counts by the lower orders that a walk of so many steps ends with, the last first
    endings: dict[tuple[int, ...], list[int]] = {}
    for n in steps:
        lower = takewhile(lambda order: order < highest, reversed(solver.orders(n)))
        endings.setdefault(tuple(lower), []).append(n)
    paths: dict[int, Tensor] = {}
    for orders, counts in endings.items():
        last = [costs[order - 1] for order in orders]
        paths |= shortest_path(costs[-1], counts, memory=memory, endings=last)
    return {n: (path, None) for n, path in paths.items()}


def _euler(solver: Solver, costs: Tensor, steps: Sequence[int]) -> Paths:
    """The paths of Euler's steps, which remember nothing."""
    return {n: (path, None) for n, path in shortest_path(costs[0], steps).items()}


def _chosen(solver: Solver, costs: Tensor, steps: Sequence[int]) -> Paths:
    """The paths of steps of whatever orders have the least mean errors, and these."""
    memory = costs.ndim - 3
    least, choice = costs.min(0)
    paths: Paths = {}
    for n, path in shortest_path(least, steps, memory=memory).items():
        # the nodes that every step's cost depends on, the first repeated where fewer came before
        visits = [path[(torch.arange(n) - m).clamp(min=0)] for m in range(memory, -2, -1)]
        paths[n] = path, choice[tuple(visits)] + 1
    return paths
