"""Trajectories of a denoiser, their ends, and its predictions of x_0; each is computed once.

Samples are evaluated in batches of at most a fixed size. Where a store is given, the results of a batch are kept under
the content that determines them, so that methods, step counts, jobs of a sweep and runs that were cut off share them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from optsteps.conditions import Cond, fingerprint, take
from optsteps.denoisers import CountedDenoiser, Denoiser, counting, in_batches
from optsteps.deprecation import old_names
from optsteps.fingerprint import solver_facts
from optsteps.sampling import sample, walk
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.files import zeros_on_disk
from optsteps.storage.shards import storable
from optsteps.storage.workers import ALONE, Workers

T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """Where the work of a denoiser is kept.

    Args:
        workers: who computes. Where they keep shards, their facts determine the denoiser and its device.
        precision: dtype in which trajectories and predictions are kept. They are rounded to it for the process that
            computed them as well, so that results do not depend on who did. None: the dtype that they have.
        scratch: folder for the states of searches under way, where these do not fit into memory. None: they are on the
            noise's device.
    """

    workers: Workers = ALONE
    precision: torch.dtype | None = None
    scratch: Path | None = None

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Zeros of that shape for the states of a search, with the dtype of `like`."""
        return like.new_zeros(shape) if self.scratch is None else zeros_on_disk(shape, like.dtype, self.scratch)

    def moved(self, states: Tensor) -> Tensor:
        """States of a search, moved from memory to the place where they are kept."""
        return states if self.scratch is None else self.zeros(states.shape, states).copy_(states)


NO_CACHE = Cache()


@storable
@dataclass(frozen=True)
class Record:
    """All that a walk down a schedule of n steps saw.

    Attributes:
        states: x_i at every time, sample first: [B, n+1, ...].
        predictions: D(x_i, t_i) at every time but the last, [B, n, ...]: those that the walk's steps began with, at
            the schedule's told times where it has any.
    """

    states: Tensor
    predictions: Tensor


class Trajectories:
    """Trajectories and predictions of one denoiser.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...]. A `CountedDenoiser` counts the evaluations below as well.
        max_batch: most samples in one call of it.
        cache: where its work is kept.

    Attributes:
        evaluations: network evaluations of everything requested so far; results that were found in a store count with
            the evaluations that they once took.
    """

    def __init__(self, denoiser: Denoiser, max_batch: int = 512, cache: Cache = NO_CACHE) -> None:
        self.denoiser, self.max_batch, self.cache = denoiser, max_batch, cache
        self.evaluations = 0

    def record(
        self,
        schedule: Schedule,
        solver: Solver,
        noise: Tensor,
        cond: Cond = None,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Record:
        """States and predictions of a walk, sample first. Arguments and errors as of `sample`."""

        def recorded(denoiser: CountedDenoiser, noise: Tensor, cond: Cond, index: Tensor) -> Record:
            steps = walk(denoiser, schedule, solver, noise, cond, seed, index)
            states, predictions = zip(*steps, strict=True)
            return Record(*(self._rounded(torch.stack(part, 1)) for part in (states, predictions[:-1])))

        batches = self._walks("record", recorded, schedule, solver, noise, cond, seed, index)
        return Record(*(torch.cat([getattr(b, name) for b in batches]).to(noise) for name in ("states", "predictions")))

    def states(
        self,
        schedule: Schedule,
        solver: Solver,
        noise: Tensor,
        cond: Cond = None,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Tensor:
        """States of the record [B, n+1, ...]. Arguments and errors as of `sample`."""
        return self.record(schedule, solver, noise, cond, seed, index).states

    def ends(
        self,
        schedule: Schedule,
        solver: Solver,
        noise: Tensor,
        cond: Cond = None,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Tensor:
        """Last states only: [B, ...]. Arguments and errors as of `sample`."""

        def end(denoiser: CountedDenoiser, noise: Tensor, cond: Cond, index: Tensor) -> Tensor:
            return self._rounded(sample(denoiser, schedule, solver, noise, cond, seed, index))

        return torch.cat(self._walks("ends", end, schedule, solver, noise, cond, seed, index)).to(noise)

    def predictions(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """D(x [B, ...], t [B], cond), for any B, without a graph."""

        def predictions(denoiser: CountedDenoiser, _: int) -> Tensor:
            return self._rounded(in_batches(denoiser, x, t, cond, self.max_batch))

        names = self._names([(x, t, cond)])
        return self._kept("predictions", {"max_batch": self.max_batch}, names, predictions)[0].to(x)

    def once(self, part: str, inputs: Cond, compute: Callable[[CountedDenoiser], T], **facts: Any) -> T:
        """`compute(denoiser)`, or its result from before.

        Args:
            part: name of this computation.
            inputs: the tensors it depends on, as a nested condition.
            facts: everything else it depends on, as JSON data.
        """
        return self._kept(part, facts, self._names([inputs]), lambda denoiser, _: compute(denoiser))[0]

    def _walks(
        self,
        part: Literal["record", "ends"],
        walked: Callable[[CountedDenoiser, Tensor, Cond, Tensor], T],
        schedule: Schedule,
        solver: Solver,
        noise: Tensor,
        cond: Cond,
        seed: int,
        index: Tensor | None,
    ) -> list[T]:
        """What `walked` makes of every batch of the noise with its cond and numbers."""
        numbers = torch.arange(len(noise)) if index is None else index
        batches = [slice(k, k + self.max_batch) for k in range(0, len(noise), self.max_batch)]
        inputs = [(noise[batch], take(cond, batch), numbers[batch]) for batch in batches]
        facts: dict[str, Any] = {}
        if self.cache.workers.keeps:
            facts = {"schedule": schedule.facts, "solver": solver_facts(solver, schedule, noise)}
            facts["seed"] = seed if solver.stochastic else None
        names = self._names(inputs if solver.stochastic else [some[:2] for some in inputs])

        def batch(denoiser: CountedDenoiser, number: int) -> T:
            if part == "ends":
                whole = self._on("record", facts).kept(names[number])
                if whole is not None:  # a search has kept the whole walk
                    denoiser.evaluations = whole[1]
                    return whole[0].states[:, -1].to(noise)
            return walked(denoiser, *inputs[number])

        return self._kept(part, facts, names, batch)

    def _names(self, inputs: Sequence[Cond]) -> list[dict[str, str]]:
        """Names that tell computations on these tensors apart."""
        return [{"inputs": fingerprint(i)} if self.cache.workers.keeps else {} for i in inputs]

    def _on(self, part: str, facts: dict[str, Any]) -> Workers:
        return self.cache.workers.on(part, precision=str(self.cache.precision), **facts)

    def _kept(
        self,
        part: str,
        facts: dict[str, Any],
        names: Sequence[dict[str, str]],
        compute: Callable[[CountedDenoiser, int], T],
    ) -> list[T]:
        """What `compute` makes of each of the inputs so named with a counted denoiser."""
        with counting(self.denoiser) as total:

            def counted(number: int) -> tuple[T, int]:
                denoiser = CountedDenoiser(total.denoiser)
                with torch.no_grad():  # a network whose weights are still to be trained would keep every activation
                    return compute(denoiser, number), denoiser.evaluations

            shards = self._on(part, facts).shards(names, counted)
            total.evaluations = sum(evaluations for _, evaluations in shards)
        self.evaluations += total.evaluations
        return [result for result, _ in shards]

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.cache.precision is None else x.to(self.cache.precision)


__getattr__ = old_names(__name__, Keeping="Cache", NOWHERE="NO_CACHE")
