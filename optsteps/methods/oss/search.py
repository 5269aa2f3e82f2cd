"""Optimal Stepsize Distillation (Pei et al., arXiv:2503.21774), Algorithms 1 and 2: a programme on the teacher's times.

Indices into the teacher's times count from the noisy end, 0 ... N; the paper counts from the clean end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.base import (
    Evaluations,
    SearchProblem,
    SearchResult,
    ShardedMethod,
    checked_steps,
    steps_between,
)
from optsteps.methods.oss.amplitude import calibrate_amplitude
from optsteps.methods.oss.entries import Entries
from optsteps.methods.oss.grid import Grid, flow_scale, grid_of
from optsteps.schedules import Schedule
from optsteps.solvers.multistep import Multistep
from optsteps.solvers.singlestep import TwoStage
from optsteps.storage.shards import storable

Start = Literal["teacher", "free"]
Average = Literal["mean", "median", "pooled"]
Orders = Literal["chosen", "fixed"]


class OSS(ShardedMethod):
    """Choose the n of the teacher's steps whose end point comes nearest the teacher's, for every n from one search.

    Level k holds, at every node j that exactly k steps can reach, the state nearest the teacher's there:
    cost[i -> j] = mean squared difference of (the step from level k-1's state at i to t_j) and the teacher's x_j;
    r[k][j] = the i of least cost. Reading r back from the clean end gives the indices, so the schedule returned is the
    path whose cost was minimised. The paper states this in flow coordinates; a first-order step is the same map under
    every process and a node's cost differs by one factor, so the choice is the same (and is made in the model's own
    coordinates here). It is optimal under the paper's assumption that a state nearer the teacher's stays nearer, not
    over all subsets.

    With a multistep solver (Algorithm 2) a step may have the solver's order or any lower one: the pair (order, i) of
    least cost is kept, the remembered outputs travel with the node, and the schedule holds the orders (averaged: each
    step's most frequent one). With a solver of two evaluations per step every pair of nodes costs one evaluation a
    level, so it is searched on a coarser grid.

    Costs to all later times are inner products, a row of candidates at once. To lose no precision to cancellation, the
    multiple sigma(t) of the initial noise, which teacher and student share and which is all but all of a noisy state,
    is taken off first; what is left is of the size of x_0, and its products are formed in float64. States stay in the
    model's dtype.

    Args:
        start: "teacher": the first step leaves from the teacher's first time. "free": any node may be first; the
            initial noise is put there unscaled in flow coordinates, and the schedule keeps that scale.
        average: how one schedule comes of many samples. "pooled": one programme on costs averaged over samples, whose
            path is the one whose mean cost was minimised. "mean" or "median", the paper's: of the samples' own index
            vectors, rounded half up (increments of at least 1 survive both), a path that nobody searched. None:
            "pooled", or where `published` the released code's "median".
        published: reproduce the released code: a level starts from the one before ("at most k steps"), the read-back
            mixes levels and may repeat index 0, and "median" averages the entries len//2 and len//2 - 1, truncated
            towards the clean end. A repeated index is a step of no length and is left out of the `Schedule`.
        grid_steps: choose among the ends of so many of the teacher's steps, as evenly spread as may be, instead of all.
            None: all, but 25 for solvers of two evaluations per step.
        amplitude: calibrate the schedules' amplitude (eq. 13) on the problem's samples.
        orders: "chosen": a step of a multistep solver has the order of least cost; "fixed": its full order, or the
            highest that is there, as samplers run it that cannot be told orders (k-diffusion's, ComfyUI's).
        channels, frames: numbers of the channels, and of a video's frames, that costs are taken over; None for all. A
            table of costs for a whole video is products of many large states, and the paper takes some of it.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples searched together; memory grows with it, not with the number of samples ("pooled" keeps
            every sample's states).

    `SearchResult.per_sample` holds what every sample would choose: by a programme of its own, or for "pooled" among the
    steps from the states that the pooled steps reach, which takes no further evaluation.

    `SearchResult.evidence`: "final_mse", for every n the samples' costs at the clean end [B]; for "pooled" also
    "costs", every level's mean costs of every order from the nodes left to those reached [M, I, J] (inf where there is
    no such step).

    Raises:
        ValueError: unknown `start`, `average` or `orders`; in `check`, more steps than the grid has or more grid steps
            than the teacher has, a solver that is stochastic or of more than two evaluations per step, channels or
            frames that the samples have not, or `published` with another solver than Euler's.
    """

    def __init__(
        self,
        start: Start = "teacher",
        average: Average | None = None,
        published: bool = False,
        grid_steps: int | None = None,
        amplitude: bool = False,
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
        orders: Orders = "chosen",
    ) -> None:
        if start not in ("teacher", "free"):
            raise ValueError(f"start must be 'teacher' or 'free', got {start!r}")
        average = average or ("median" if published else "pooled")
        if average not in ("mean", "median", "pooled"):
            raise ValueError(f"average must be 'mean', 'median' or 'pooled', got {average!r}")
        if orders not in ("chosen", "fixed"):
            raise ValueError(f"orders must be 'chosen' or 'fixed', got {orders!r}")
        if published and average == "pooled":
            raise ValueError("the released code has no pooled average; use average='mean' or 'median'")
        if max_batch < 1 or shard_size < 1:
            raise ValueError(f"max_batch and shard_size must be at least 1, got {max_batch} and {shard_size}")
        self.start, self.average, self.published, self.amplitude = start, average, published, amplitude
        self.max_batch, self.shard_size, self.grid_steps = max_batch, shard_size, grid_steps
        self.entries, self.orders = Entries(channels, frames), orders

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        grid_of(problem.solver)
        available = len(self._nodes(problem)) - 1
        if max(steps) > available:
            raise ValueError(
                f"{max(steps)} student steps were asked for, but the teacher has only {available} to choose from; a "
                "student's times are a subset of the teacher's"
            )
        if self.published and problem.solver.name != "euler":
            raise ValueError(f"the released code knows Euler's steps only, not those of {problem.solver.name!r}")
        self.entries.of(problem.noise[:1])

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return isinstance(problem.solver, Multistep) and problem.solver.order > 1

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk and, level by level, a node for every source; with two evaluations per step also one for
        every step from a source to a later target. `published` evaluates only what a level improves: so many at most.
        """
        nodes, steps = self._nodes(problem), checked_steps(steps)
        solver, times = problem.solver, problem.teacher.times[nodes]
        walk = (problem.teacher_solver or solver).nfe(problem.teacher)
        per_sample = walk
        for sources, targets in self._levels(len(nodes) - 1, steps):
            per_sample += len(sources)
            if isinstance(solver, TwoStage):
                i, j = (sources[:, None] < targets).nonzero().unbind(1)
                per_sample += int((~solver.single(problem.process, times[sources[i]], times[targets[j]])).sum())
        if self.amplitude:
            per_sample += sum(walk + solver.nfe(steps_between(problem.teacher, n)) for n in steps)
        return Evaluations(per_sample * len(problem.noise) * call_nfe(problem.denoiser), not self.published)

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> _Paths | _PooledLevel:
        """Per sample: the whole search of these samples. Pooled: one level of it, after the decision on the last."""
        if self.average == "pooled":
            return self._pooled_level(problem, steps, index, previous, decision)
        grid = self._started(problem, steps, index)
        least = torch.full((len(grid), grid.last + 1), torch.inf, dtype=torch.float64)
        origin = torch.zeros_like(least, dtype=torch.long)
        choice = torch.zeros_like(origin)
        levels, finals = [], {}
        for k, (sources, targets) in enumerate(self._levels(grid.last, steps), start=1):
            if not self.published:
                least.fill_(torch.inf)  # exactly k steps: nothing is kept from the level before
            grid.evaluate(sources, targets)
            # sample by sample: the table of one sample is all that lies in memory
            best = [_least(self._costs(grid, b, sources, targets)) for b in range(len(grid))]
            costs, chosen, source = (torch.stack(part) for part in zip(*best, strict=True))
            source = sources[source]
            better = costs < least[:, targets]
            grid.advance(chosen, source, targets, better)
            for table, new in ((least, costs), (origin, source), (choice, chosen)):
                table[:, targets] = torch.where(better, new, table[:, targets])
            levels.append((origin.clone(), choice.clone()))
            if k in steps:
                finals[k] = grid.final_mse()
        read = {n: _read_back(levels[:n]) for n in steps}
        orders = torch.tensor(grid.choices)
        return _Paths(
            {n: path for n, (path, _) in read.items()},
            {n: orders[chosen] for n, (_, chosen) in read.items()},
            finals,
            grid.trajectories.evaluations,
        )

    def alone(self) -> OSS:
        """The same search with a programme for every sample alone, whose paths are a bound for any schedule of all."""
        own = copy(self)
        own.average = "mean" if self.average == "pooled" else self.average
        return own

    def rounds(self, steps: Sequence[int]) -> int:
        return steps[-1] + 1 if self.average == "pooled" else 1

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> SearchResult | list[_PooledDecision]:
        """Average the samples' paths, or decide the level that the shards' mean costs are for."""
        if self.average == "pooled":
            return self._pooled_decision(problem, steps, partials, decision or [])
        paths, orders, finals = (
            {n: torch.cat([getattr(part, name)[n] for part in partials]) for n in steps}
            for name in ("paths", "orders", "finals")
        )
        nfe = sum(part.evaluations for part in partials) / len(problem.noise)
        nodes = self._nodes(problem)
        schedules = {}
        for n in steps:
            path = nodes[self._average(paths[n], len(nodes) - 1)]
            schedules[n] = self.path_schedule(problem, path, orders[n].mode(0).values)
            paths[n] = nodes[paths[n]]
        return self._result(problem, schedules, nfe, {"final_mse": finals}, paths, orders)

    def path_schedule(self, problem: SearchProblem, path: Tensor, orders: Tensor | None = None) -> Schedule:
        """The schedule of a path [n+1] of indices into the teacher's times, such as a row of `per_sample`, and of the
        orders [n] of its steps, which it keeps where the solver has several."""
        path = path.unique_consecutive()  # the released code may repeat index 0
        times = problem.teacher.times
        scale = problem.teacher.initial_scale
        if self.start == "free" and path[0] > 0:
            scale = float(problem.teacher.scale * flow_scale(problem.process, times, int(path[0])))
        described = {
            "method": "oss",
            "start": self.start,
            "average": self.average,
            "orders": self.orders,
            "published": self.published,
            **problem.solver.described,
            "samples": len(problem.noise),
            "teacher_steps": problem.teacher.steps,
            "indices": path.tolist(),
        }
        kept = orders.tolist() if orders is not None and self.chooses_orders(problem) else None
        return Schedule(times[path], problem.process, kept, initial_scale=scale, metadata=described)

    def _started(self, problem: SearchProblem, steps: Sequence[int], index: Tensor) -> Grid:
        grid = grid_of(problem.solver)(problem, index, self._nodes(problem), self.max_batch, self.entries)
        for node in self._starts(grid.last, steps):
            grid.put_start(node)
        return grid

    def _costs(self, grid: Grid, sample: int, sources: Tensor, targets: Tensor) -> Tensor:
        """`Grid.costs` of the orders that a step may have."""
        costs = grid.costs(sample, sources, targets)
        if self.orders == "chosen":
            return costs
        highest = torch.isfinite(costs).sum(0) - 1
        return costs.masked_fill(torch.arange(len(costs))[:, None, None] != highest, torch.inf)

    def _starts(self, last: int, steps: Sequence[int]) -> list[int]:
        """The nodes that may be first: those from which the fewest steps asked still fit."""
        if self.start == "teacher":
            return [0]
        return list(range(last if self.published else last - steps[0] + 1))

    def _levels(self, last: int, steps: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """For k = 1 ... max(steps): the nodes that k - 1 steps can reach and leave, and those that k steps can reach
        and from which some wanted step count can still be completed exactly."""
        sources = self._starts(last, steps)
        for k in range(1, steps[-1] + 1):
            if self.published:
                targets = list(range(1, last + 1))
            else:
                # the nearest step count still ahead leaves the most nodes usable
                ahead = next((n - k for n in steps if n > k), None)
                targets = [] if ahead is None else list(range(k, last - ahead + 1))
                targets += [last] if k in steps else []
            yield torch.tensor(sources), torch.tensor(targets)
            sources = [node for node in targets if node < last]

    def _average(self, paths: Tensor, last: int) -> Tensor:
        """One path [n+1] for paths [B, n+1] of nodes 0 ... last."""
        count = len(paths)
        if self.average == "mean":
            return (2 * paths.sum(0) + count) // (2 * count)
        if self.published:
            # the released code counts, sorts and truncates from the clean end
            from_clean = (last - paths).sort(0).values
            return last - (from_clean[count // 2] + from_clean[count // 2 - 1]) // 2
        ordered = paths.sort(0).values
        return (ordered[(count - 1) // 2] + ordered[count // 2] + 1) // 2

    def _result(
        self,
        problem: SearchProblem,
        schedules: dict[int, Schedule],
        nfe: float,
        evidence: dict[str, Any],
        paths: dict[int, Tensor],
        orders: dict[int, Tensor],
    ) -> SearchResult:
        if self.amplitude:
            for n, schedule in schedules.items():
                schedules[n], cost = calibrate_amplitude(problem, schedule, self.max_batch)
                nfe += cost
        return SearchResult(schedules, nfe, 0.0, paths, orders if self.chooses_orders(problem) else None, evidence)

    def _pooled_level(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        index: Tensor,
        previous: _PooledLevel | None,
        decision: list[_PooledDecision] | None,
    ) -> _PooledLevel:
        levels, decided = list(self._levels(len(self._nodes(problem)) - 1, steps)), decision or []
        grid, finals = (None, {}) if previous is None else (previous.grid, previous.finals)
        if grid is None:  # the first round, or the last one was read from a store
            grid = self._started(problem, steps, index)
            for k in range(len(decided)):
                if k > 0:
                    _advance(grid, decided[k - 1], levels[k - 1][1])
                grid.evaluate(*levels[k])
        if decided:
            _advance(grid, decided[-1], levels[len(decided) - 1][1])
            if len(decided) in steps:
                finals = {**finals, len(decided): grid.final_mse()}
        total, own = torch.empty(0), torch.empty(2, len(grid), 0, dtype=torch.long)
        if len(decided) < len(levels):
            sources, targets = levels[len(decided)]
            grid.evaluate(sources, targets)
            total = torch.zeros(len(grid.choices), len(sources), len(targets), dtype=torch.float64)
            own = torch.empty(2, len(grid), len(targets), dtype=torch.long)
            for sample in range(len(grid)):
                costs = self._costs(grid, sample, sources, targets)
                total += costs
                own[:, sample] = torch.stack(_least(costs)[1:])
        return _PooledLevel(finals, total, own, grid.choices, grid.trajectories.evaluations, grid)

    def _pooled_decision(
        self,
        problem: SearchProblem,
        steps: Sequence[int],
        partials: Sequence[_PooledLevel],
        decided: list[_PooledDecision],
    ) -> SearchResult | list[_PooledDecision]:
        nodes = self._nodes(problem)
        last = len(nodes) - 1
        levels = list(self._levels(last, steps))
        if len(decided) < len(levels):
            sources, _ = levels[len(decided)]
            costs = torch.stack([part.costs for part in partials]).sum(0) / len(problem.noise)
            _, choice, source = _least(costs)
            own_choice, own_source = torch.cat([part.own for part in partials], 1)
            return [*decided, _PooledDecision(costs, choice, sources[source], own_choice, sources[own_source])]
        tables = []
        for (_, targets), level in zip(levels, decided, strict=True):
            # what was decided for all samples and, below it, what each would choose
            table = torch.zeros(2, len(problem.noise) + 1, last + 1, dtype=torch.long)
            table[0, :, targets] = torch.cat([level.origin[None], level.own_origin])
            table[1, :, targets] = torch.cat([level.choice[None], level.own_choice])
            tables.append((table[0], table[1]))
        orders = torch.tensor(partials[0].choices)
        schedules, own_paths, own_orders = {}, {}, {}
        for n in steps:
            path, choice = _read_back(tables[:n])
            schedules[n] = self.path_schedule(problem, nodes[path[0]], orders[choice[0]])
            own_paths[n], own_orders[n] = nodes[path[1:]], orders[choice[1:]]
        nfe = sum(part.evaluations for part in partials) / len(problem.noise)
        finals = {n: torch.cat([part.finals[n] for part in partials]) for n in steps}
        evidence = {"final_mse": finals, "costs": [level.costs for level in decided]}
        return self._result(problem, schedules, nfe, evidence, own_paths, own_orders)

    def _nodes(self, problem: SearchProblem) -> Tensor:
        """Indices [N+1] of the teacher's times that may be chosen."""
        whole = problem.teacher.steps
        coarse = min(25, whole) if isinstance(problem.solver, TwoStage) else whole
        wanted = coarse if self.grid_steps is None else self.grid_steps
        if not 1 <= wanted <= whole:
            raise ValueError(f"grid_steps must lie between 1 and the teacher's {whole} steps, got {wanted}")
        return torch.linspace(0, whole, wanted + 1, dtype=torch.float64).round().long()


@storable
@dataclass(frozen=True)
class _Paths:
    """What a shard of samples chose: for every n paths [b, n+1], orders [b, n] and final costs [b]; what it cost."""

    paths: dict[int, Tensor]
    orders: dict[int, Tensor]
    finals: dict[int, Tensor]
    evaluations: int


@storable
@dataclass(frozen=True)
class _PooledLevel:
    """A shard in the pooled programme: final costs [b] of the step counts done, the sum over samples of this level's
    costs [M, I, J], for every target each sample's own choice of order and source [2, b, J], the orders they are of,
    the evaluations so far, and the nodes: too large for a store, and made again from the decisions where a shard was
    read from one."""

    finals: dict[int, Tensor]
    costs: Tensor
    own: Tensor
    choices: list[int]
    evaluations: int
    grid: Grid | None = field(default=None, metadata={"stored": False})


@dataclass(frozen=True)
class _PooledDecision:
    """One level decided for all samples: mean costs [M, I, J], and for every target the choice of order and the node
    of least cost [J], beside each sample's own [B, J]."""

    costs: Tensor
    choice: Tensor
    origin: Tensor
    own_choice: Tensor
    own_origin: Tensor


def _advance(grid: Grid, decided: _PooledDecision, targets: Tensor) -> None:
    """Every sample's step to the targets [J] that were decided for all."""
    everywhere = torch.ones(len(grid), len(targets), dtype=torch.bool)
    choice, origin = (part.expand(len(grid), -1) for part in (decided.choice, decided.origin))
    grid.advance(choice, origin, targets, everywhere)


def _least(costs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Least cost of a table [M, I, J] for every target, its choice and its source [J]; of equals the lowest order, then
    the noisiest source."""
    least = costs.flatten(0, 1).min(0)
    return least.values, least.indices // costs.shape[1], least.indices % costs.shape[1]


def _read_back(levels: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Paths [B, n+1] and choices [B, n] from the clean end back through the n levels' origins and choices, each
    [B, N+1]."""
    node = torch.full((len(levels[0][0]), 1), levels[0][0].shape[1] - 1)
    path, choices = [node], []
    for origin, choice in reversed(levels):
        choices.append(choice.gather(1, node))
        node = origin.gather(1, node)
        path.append(node)
    return torch.cat(path[::-1], 1), torch.cat(choices[::-1], 1)
