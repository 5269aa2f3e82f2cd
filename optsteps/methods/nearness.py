"""How near the walks of schedules come to the teacher's samples, on some samples of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods.base import SearchProblem, counted_shards
from optsteps.metrics.teacher import mse
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.shards import storable
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories
from optsteps.walks import ends_together

T = TypeVar("T")


@storable
@dataclass(frozen=True)
class Linearised:
    """What schedules near one miss the teacher by, to first order in the numbers that they differ in, summed over
    samples.

    With r the difference [D] of a sample's end to the teacher's, J [D, R] its derivatives and w its weight:

    Attributes:
        products: sum of w J^T J, float64 [R, R].
        gradient: sum of w J^T r, float64 [R].
        errors: mean squares of r, float64 [B].
    """

    products: Tensor
    gradient: Tensor
    errors: Tensor


def decibels(errors: Tensor) -> Tensor:
    """-10 log10 of squared errors, in dB; finite, so that differences have an interval."""
    limits = torch.finfo(errors.dtype)
    return -10 * errors.clamp(limits.tiny, limits.max).log10()


@dataclass(frozen=True)
class Nearness:
    """The samples of a problem with the teacher's answer to them.

    Args:
        problem: its denoiser is counted.
        workers: who walk; they divide the samples.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples that are walked together.
        walked: samples of a walk of the teacher, which is kept as such.
    """

    problem: SearchProblem
    workers: Workers
    max_batch: int = 512
    shard_size: int = 8
    walked: int = 512
    _answers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def samples(self) -> int:
        """Their number."""
        return len(self.problem.noise)

    @property
    def teacher(self) -> Tensor:
        """The teacher's ends [B, ...], walked when they are first needed."""
        if "ends" not in self._answers:
            problem, batch = self.problem, min(self.walked, self.max_batch)
            trajectories = Trajectories(problem.denoiser, batch, problem.cache)
            ends = trajectories.ends(problem.teacher, problem.walker, problem.noise, problem.cond)
            self._answers["ends"] = ends
        return self._answers["ends"]

    def with_solver(self, solver: Solver) -> Nearness:
        """The same samples and the same teacher, for schedules that are sampled with another solver."""
        return replace(self, problem=replace(self.problem, solver=solver, teacher_solver=self.problem.walker))

    def errors(self, schedules: Sequence[Schedule], index: Tensor | None = None) -> Tensor:
        """Mean squared differences of the schedules' ends to the teacher's, float64 [C, b]; infinite where a walk
        diverged.

        Args:
            index: the numbers [b] of the samples, None for all.
        """

        def errors(index: Tensor) -> Tensor:
            return torch.stack([mse(ends, self._goal(index)) for ends in self._ends(schedules, index)]).cpu()

        return torch.cat(self._shards("errors", schedules, errors, index), 1).nan_to_num(torch.inf, torch.inf)

    def linearised(
        self,
        schedule: Schedule,
        near: Sequence[Schedule],
        distances: Tensor,
        added: float | None,
        index: Tensor | None = None,
    ) -> Linearised:
        """The linearisation around a schedule by forward differences.

        Args:
            near: R schedules, each of which differs from it in one number.
            distances: by how much they differ, float64 [R].
            added: a sample's weight is the inverse of its own error and this, as in the derivative of the mean
                logarithm of their sums; None: it is 1. A sum of exactly 0 has no such derivative, and the weight 0.
            index: the numbers [b] of the samples, None for all.
        """

        def linearised(index: Tensor) -> Linearised:
            base, *ends = self._ends([schedule, *near], index)
            missed = (base.double() - self._goal(index).double()).flatten(1)
            derivatives = torch.stack([(end.double() - base.double()).flatten(1) for end in ends], 2)
            derivatives = derivatives / distances.to(derivatives.device)
            errors = missed.square().mean(1)
            size = missed.shape[1]
            sums = torch.ones_like(errors) if added is None else errors + added
            weight = torch.where(sums > 0, 1 / sums, 0.0)
            weighted = derivatives * (weight / size)[:, None, None]
            products = torch.einsum("bdp,bdq->pq", weighted, derivatives)
            gradient = torch.einsum("bdp,bd->p", weighted, missed)
            return Linearised(products.cpu(), gradient.cpu(), errors.cpu())

        shards = self._shards(f"linearised {distances.tolist()} {added}", [schedule, *near], linearised, index)
        products = torch.stack([shard.products for shard in shards]).sum(0)
        gradient = torch.stack([shard.gradient for shard in shards]).sum(0)
        return Linearised(products, gradient, torch.cat([shard.errors for shard in shards]))

    def _ends(self, schedules: Sequence[Schedule], index: Tensor) -> list[Tensor]:
        problem = self.problem
        return ends_together(problem.denoiser, problem.solver, schedules, *problem.samples(index), self.max_batch)

    def _goal(self, index: Tensor) -> Tensor:
        return self.teacher[index.to(self.teacher.device)]

    def _shards(
        self, part: str, schedules: Sequence[Schedule], compute: Callable[[Tensor], T], index: Tensor | None = None
    ) -> list[T]:
        """What `compute` makes of every shard of the samples `index`, None for all."""
        counter = self.problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        goal = self.teacher  # counted here, not in the shard that first needs it
        shards = (torch.arange(len(goal)) if index is None else index).split(self.shard_size)

        workers, facts = self.workers, dict[str, Any]()
        if workers.keeps:
            workers = workers.on("nearness", **self._facts)
            facts = {"part": part, "schedules": [schedule.facts for schedule in schedules]}
        names = [{**facts, "samples": shard.tolist()} for shard in shards]
        with torch.no_grad():
            return counted_shards(counter, workers, names, lambda number: compute(shards[number]))

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return {**self.problem.facts, "max_batch": self.max_batch}
