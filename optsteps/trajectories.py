"""What a denoiser makes of samples: trajectories, their ends, predictions of x_0; each computed once.

Samples go through it in batches of at most a fixed size. Where a store is given, what comes of a batch is kept by the
content that determines it, so methods, step counts, jobs of a sweep and runs that were cut off share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from optsteps.conditions import Cond, fingerprint, take
from optsteps.denoisers import CountedDenoiser, Denoiser
from optsteps.deprecation import old_names
from optsteps.fingerprint import solver_facts
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver
from optsteps.storage.files import zeros_on_disk
from optsteps.storage.workers import ALONE, Workers

T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """Where the work of a denoiser is kept.

    Args:
        workers: who computes; where they keep shards, their facts determine the denoiser, device and all.
        precision: trajectories and predictions are kept in this dtype, and rounded to it for whoever computed them too,
            so that results do not depend on who did; None: in the dtype they have.
        scratch: a folder for the states of searches under way, where they are more than fits into memory; None: they
            are where the noise is.
    """

    workers: Workers = ALONE
    precision: torch.dtype | None = None
    scratch: Path | None = None

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Zeros of that shape for the states of a search, with the dtype of `like`."""
        return like.new_zeros(shape) if self.scratch is None else zeros_on_disk(shape, like.dtype, self.scratch)

    def moved(self, states: Tensor) -> Tensor:
        """States of a search, from memory to where they are kept."""
        return states if self.scratch is None else self.zeros(states.shape, states).copy_(states)


NO_CACHE = Cache()


class Trajectories:
    """Trajectories and predictions of one denoiser.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...].
        max_batch: most samples in one call of it.
        cache: where its work is kept.

    Attributes:
        evaluations: network evaluations that all asked for so far takes, counted; what was found in a store counts too.
    """

    def __init__(self, denoiser: Denoiser, max_batch: int = 512, cache: Cache = NO_CACHE) -> None:
        self.denoiser, self.max_batch, self.cache = denoiser, max_batch, cache
        self.evaluations = 0

    def states(
        self,
        schedule: Schedule,
        solver: Solver,
        noise: Tensor,
        cond: Cond = None,
        seed: int = 0,
        index: Tensor | None = None,
    ) -> Tensor:
        """States at every time of `schedule`, sample first: [B, n+1, ...]. Arguments and errors as of `sample`."""
        return self._walks(schedule, solver, noise, cond, seed, index, return_trajectory=True)

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
        return self._walks(schedule, solver, noise, cond, seed, index, return_trajectory=False)

    def predictions(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """D(x [B, ...], t [B], cond), for any B, without a graph."""

        def predictions(denoiser: CountedDenoiser, _: int) -> Tensor:
            parts = (slice(k, k + self.max_batch) for k in range(0, len(x), self.max_batch))
            return self._rounded(torch.cat([denoiser(x[part], t[part], take(cond, part)) for part in parts]))

        names = self._names([(x, t, cond)])
        return self._kept("predictions", {"max_batch": self.max_batch}, names, predictions)[0].to(x)

    def once(self, part: str, inputs: Cond, compute: Callable[[CountedDenoiser], T], **facts: Any) -> T:
        """`compute(denoiser)`, or what came of it before.

        Args:
            part: name of this computation.
            inputs: the tensors it depends on, as a nested condition.
            facts: what else it depends on, JSON data.
        """
        return self._kept(part, facts, self._names([inputs]), lambda denoiser, _: compute(denoiser))[0]

    def _walks(
        self,
        schedule: Schedule,
        solver: Solver,
        noise: Tensor,
        cond: Cond,
        seed: int,
        index: Tensor | None,
        return_trajectory: bool,
    ) -> Tensor:
        numbers = torch.arange(len(noise)) if index is None else index
        batches = [slice(k, k + self.max_batch) for k in range(0, len(noise), self.max_batch)]
        inputs = [(noise[batch], take(cond, batch), numbers[batch]) for batch in batches]
        facts: dict[str, Any] = {}
        if self.cache.workers.keeps:
            facts = {"schedule": schedule.facts, "solver": solver_facts(solver, schedule, noise)}
            facts["seed"] = seed if solver.stochastic else None
        names = self._names(inputs if solver.stochastic else [some[:2] for some in inputs])

        def walk(denoiser: CountedDenoiser, number: int) -> Tensor:
            if not return_trajectory:
                whole = self._on("states", facts).kept(names[number])
                if whole is not None:  # a search has kept the whole way
                    denoiser.evaluations = whole[1]
                    return whole[0][:, -1]
            x, cond, index = inputs[number]
            path = sample(denoiser, schedule, solver, x, cond, seed, index, return_trajectory)
            return self._rounded(path.transpose(0, 1) if return_trajectory else path)

        return torch.cat(self._kept("states" if return_trajectory else "ends", facts, names, walk)).to(noise)

    def _names(self, inputs: Sequence[Cond]) -> list[dict[str, str]]:
        """What tells computations on these tensors apart."""
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

        def counted(number: int) -> tuple[T, int]:
            denoiser = CountedDenoiser(self.denoiser)
            with torch.no_grad():  # a network whose weights are still to be trained would keep every activation
                return compute(denoiser, number), denoiser.evaluations

        shards = self._on(part, facts).shards(names, counted)
        self.evaluations += sum(evaluations for _, evaluations in shards)
        return [found for found, _ in shards]

    def _rounded(self, x: Tensor) -> Tensor:
        return x if self.cache.precision is None else x.to(self.cache.precision)


__getattr__ = old_names(__name__, Keeping="Cache", NOWHERE="NO_CACHE")
