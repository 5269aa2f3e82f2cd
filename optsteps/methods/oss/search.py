"""Optimal Stepsize Distillation (Pei et al., arXiv:2503.21774), Algorithms 1 and 2: a programme on the teacher's times.

Indices into the teacher's times count from the noisy end, 0 ... N; the paper counts from the clean end.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.base import (
    Evaluations,
    Orders,
    SearchProblem,
    SearchResult,
    ShardedMethod,
    checked_orders,
    checked_steps,
    steps_between,
)
from optsteps.methods.entries import EntrySubset
from optsteps.methods.oss.amplitude import calibrate_amplitude
from optsteps.methods.oss.grid import flow_scale, grid_of
from optsteps.methods.oss.per_sample import PerSample
from optsteps.methods.oss.pooled import Pooled
from optsteps.methods.oss.programme import Average, Paths, Programme, Start
from optsteps.methods.oss.refinement import RefinedSearch, planned_evaluations
from optsteps.schedules import Schedule
from optsteps.solvers.multistep import Multistep
from optsteps.solvers.singlestep import TwoStage
from optsteps.storage.workers import Workers


class OSS(ShardedMethod):
    """Choose the n of the teacher's steps whose end point comes nearest the teacher's, for every n from one search.

    Level k holds, at every node j that exactly k steps can reach, the state nearest to the teacher's at this node:
    cost[i -> j] = mean squared difference of (the step from level k-1's state at i to t_j) and the teacher's x_j;
    r[k][j] = the i of least cost. Reading r back from the clean end gives the indices, so the schedule is the path
    whose cost was minimised. The search is optimal under the paper's assumption that a state nearer to the teacher's
    stays nearer, not over all subsets.

    The paper states this in flow coordinates. A first-order step is the same map under every process, and a node's
    costs differ by one factor, so the choice in the model's own coordinates, which is made here, is the same.

    With a multistep solver (Algorithm 2) a step may have the solver's order or any lower one. The pair (order, i) of
    least cost is kept, the remembered outputs travel with the node, and the schedule holds the orders (of averaged
    paths each step's most frequent one). With a solver of two evaluations per step every pair of nodes costs one
    evaluation a level, so the search is on a coarser grid.

    Costs to all later times are inner products, a row of candidates at once. Teacher and student share the multiple
    sigma(t) of the initial noise, which is nearly all of a noisy state. It is taken off first, so that no precision is
    lost to cancellation; the rest is of the size of x_0, and its products are formed in float64. States stay in the
    model's dtype.

    Args:
        start: "teacher": the first step leaves from the teacher's first time. "free": any node may be first; the
            initial noise is put there unscaled in flow coordinates, and the schedule keeps that scale.
        average: the way from many samples to one schedule. "pooled": one programme on costs averaged over samples; its
            path has the least mean cost. "mean" or "median", the paper's: the average of the samples' own index
            vectors, rounded half up, which is a path that no programme searched. (Increments of at least 1 survive
            both.) None: "pooled", or with `published` the released code's "median".
        published: reproduce the released code. A level starts from the one before ("at most k steps"), the read-back
            mixes levels and may repeat index 0, and "median" averages the entries len//2 and len//2 - 1, truncated
            towards the clean end. A repeated index is a step of no length, which the `Schedule` leaves out.
        grid_steps: number of the teacher's steps whose ends may be chosen, spread as evenly as possible. "all": all
            steps, but 25 for solvers of two evaluations per step. "auto": a coarse grid, then only the nodes around its
            paths until these do not move, with two samples at first and twice as many as long as that lowers the error
            on others that neither search saw (see `RefinedSearch`). None: "auto" for "pooled", which alone has it,
            otherwise "all".
        amplitude: calibrate the schedules' amplitude (eq. 13) on the problem's samples.
        orders: "chosen": a step of a multistep solver has the order of least cost. "fixed": it has the solver's order,
            or the highest that its memory allows, as in samplers that take no orders (k-diffusion's, ComfyUI's).
        channels, frames: indices of the channels, and of a video's frames, that costs are taken over. None: all. A
            table of costs for a whole video is products of many large states; the paper takes a part of it.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples searched together. Memory grows with it and not with the number of samples, except that
            "pooled" keeps every sample's states.

    `SearchResult.per_sample` holds the choice of every sample; with grid_steps "auto" that of the first samples, which
    the search took; `alone` and grid_steps "all" take them all. With "pooled" a sample chooses among the steps from the
    states that the pooled steps reach, which takes no further evaluation; otherwise by a programme of its own.

    `SearchResult.evidence`: "final_mse", for every n the samples' costs at the clean end [B]; for "pooled" also
    "costs", every level's mean costs of every order from the nodes left to those reached [M, I, J] (inf where there is
    no such step).

    Raises:
        ValueError: unknown `start`, `average` or `orders`; in `check`, more steps than the grid has or more grid steps
            than the teacher has, a solver that is stochastic or of more than two evaluations per step, channels or
            frames that the samples do not have, or `published` with another solver than Euler's.
    """

    def __init__(
        self,
        start: Start = "teacher",
        average: Average | None = None,
        published: bool = False,
        grid_steps: int | Literal["auto", "all"] | None = None,
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
        if published and average == "pooled":
            raise ValueError("the released code has no pooled average; use average='mean' or 'median'")
        if max_batch < 1 or shard_size < 1:
            raise ValueError(f"max_batch and shard_size must be at least 1, got {max_batch} and {shard_size}")
        self.start, self.average, self.published, self.amplitude = start, average, published, amplitude
        self.max_batch, self.shard_size = max_batch, shard_size
        if grid_steps is None:
            grid_steps = "auto" if average == "pooled" else "all"
        if isinstance(grid_steps, str) and grid_steps not in ("auto", "all"):
            raise ValueError(f"grid_steps must be a number, 'auto' or 'all', got {grid_steps!r}")
        self.grid_steps = grid_steps
        self.entries, self.orders = EntrySubset(channels, frames), checked_orders(orders)
        if grid_steps == "auto" and average != "pooled":
            raise ValueError("grid_steps='auto' searches one path for all samples: it needs average='pooled'")
        # of a search around a path, see `RefinedSearch`
        self.windows: Sequence[Sequence[int]] | None = None
        self.blocks: Sequence[Sequence[int]] | None = None
        self.walked = False

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        problem.check_answers("oss")
        problem.check_repeats("oss")
        grid_of(problem.solver)
        available = len(self.programme.nodes(problem)) - 1
        available = problem.teacher.steps if self.grid_steps == "auto" else available
        if max(steps) > available:
            raise ValueError(
                f"{max(steps)} student steps were asked for, but the teacher has only {available} to choose from; a "
                "student's times are a subset of the teacher's"
            )
        if self.published and problem.solver.name != "euler":
            raise ValueError(f"the released code knows Euler's steps only, not those of {problem.solver.name!r}")
        self.entries.of(problem.noise[:1])

    @property
    def starts_freely(self) -> bool:
        return self.start == "free"

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return isinstance(problem.solver, Multistep) and problem.solver.order > 1

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk and one evaluation for every source of every level but node 0 of the first, whose
        evaluation is the walk's; with two evaluations per step also one for every step from a source to a later target.
        With `published`, which evaluates only what a level improves, the number is a maximum; with grid_steps "auto" it
        is that of a search whose first doubling of the samples is its last.
        """
        if self.grid_steps == "auto":
            return planned_evaluations(self, problem, checked_steps(steps))
        programme, steps = self.programme, checked_steps(steps)
        nodes = programme.nodes(problem)
        solver, times = problem.solver, problem.teacher.times[nodes]
        walk = problem.walker.nfe(problem.teacher)
        per_sample = walk - 1
        for sources, targets in programme.levels(len(nodes) - 1, steps):
            per_sample += len(sources)
            if isinstance(solver, TwoStage):
                i, j = (sources[:, None] < targets).nonzero().unbind(1)
                per_sample += int((~solver.single(problem.process, times[sources[i]], times[targets[j]])).sum())
        if self.amplitude:
            per_sample += sum(walk + solver.nfe(steps_between(problem.teacher, n)) for n in steps)
        return Evaluations(per_sample * len(problem.noise) * call_nfe(problem.denoiser), not self.published)

    @property
    def programme(self) -> Programme:
        """The programme that `average` names."""
        kind = Pooled if self.average == "pooled" else PerSample
        grid_steps = self.grid_steps if isinstance(self.grid_steps, int) else None
        return kind(
            self.start,
            self.average,
            self.published,
            grid_steps,
            self.orders,
            self.entries,
            self.max_batch,
            self.windows,
            self.walked,
        )

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        if self.grid_steps == "auto":
            return RefinedSearch(self, problem, steps, workers).result()
        return super().find(problem, steps, workers)

    def shards(self, problem: SearchProblem) -> Sequence[Tensor]:
        if self.blocks is None:
            return super().shards(problem)
        return [part for block in self.blocks for part in torch.tensor(block).split(self.shard_size)]

    def rounds(self, steps: Sequence[int]) -> int:
        return self.programme.rounds(steps)

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Any:
        """Per sample: the whole search of these samples. Pooled: one level of it, after the decision on the last."""
        return self.programme.partial(problem, steps, index, previous, decision)

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> Any:
        """Average the samples' paths, or decide the level that the shards' mean costs are for."""
        paths = self.programme.combine(problem, steps, partials, decision)
        if not isinstance(paths, Paths):
            return paths
        schedules = {n: self.path_schedule(problem, paths.common[n], paths.common_orders[n]) for n in steps}
        if self.amplitude:
            schedules = {n: calibrate_amplitude(problem, s, self.max_batch)[0] for n, s in schedules.items()}
        orders = paths.per_sample_orders if self.chooses_orders(problem) else None
        return SearchResult(
            schedules, per_sample=paths.per_sample, per_sample_orders=orders, evidence=dict(paths.evidence)
        )

    def alone(self) -> OSS:
        """The same search with a programme for every sample by itself."""
        method = copy(self)
        method.average = "mean" if self.average == "pooled" else self.average
        method.grid_steps = "all" if self.grid_steps == "auto" else self.grid_steps
        return method

    def path_schedule(self, problem: SearchProblem, path: Tensor, orders: Tensor | None = None) -> Schedule:
        """As `Method.path_schedule`. The schedule keeps the orders where the solver has several."""
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
