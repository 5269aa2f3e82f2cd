"""Hand-made schedules: the families of `optsteps.schedules`, as methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe, counting
from optsteps.deprecation import old_names
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.methods.between_ends import BetweenEnds, Levels, with_range
from optsteps.processes import Flow, Process
from optsteps.schedules import FAMILIES, Final, Schedule, build_schedule
from optsteps.storage.workers import ALONE, Workers
from optsteps.trajectories import Trajectories

# families whose formula is stated in noise levels
IN_NOISE_LEVELS = ("edm", "exponential", "logsnr", "cosine")


class HandMade(BetweenEnds):
    """A family of `optsteps.schedules` between the ends of the teacher's schedule, or on a range of its own.

    The families' authors use the model's own range for models of EDM's and of a DDPM's kind.

    Args:
        family: name of the family.
        final, noise_max, noise_min, max_batch, shard_size: see `BetweenEnds`. The families that reach noise level 0 by
            themselves are `time_uniform` and, under a flow, `flow_shift`.
        parameters: the family's own parameters. The scale of `cosine` may be "data": the standard deviation of all
            entries of the teacher's samples, for which the teacher is walked.

    Raises:
        ValueError: unknown family; otherwise as `BetweenEnds`.
    """

    def __init__(
        self,
        family: str,
        final: Final | None = None,
        noise_max: Levels = None,
        noise_min: Levels = None,
        max_batch: int = 512,
        shard_size: int = 64,
        **parameters: Any,
    ) -> None:
        if family not in FAMILIES:
            raise ValueError(f"unknown schedule {family!r}; known: {', '.join(FAMILIES)}")
        super().__init__(final, noise_max, noise_min, max_batch, shard_size)
        self.family, self.parameters = family, parameters

    @property
    def measures_scale(self) -> bool:
        """Whether the scale is that of the teacher's samples, which nobody knows before the search."""
        return self.family == "cosine" and self.parameters.get("scale") == "data"

    def scaled(self, scale: float) -> HandMade:
        """The method with a scale that is known."""
        return HandMade(
            self.family, self.final, self.noise_max, self.noise_min, self.max_batch, self.shard_size, scale=scale
        )

    def outlines(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        return self.scaled(1.0).outlines(problem, steps) if self.measures_scale else super().outlines(problem, steps)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """As of `BetweenEnds`, and the teacher's walk where its samples have the scale."""
        found = super().evaluations(problem, steps)
        if not self.measures_scale or found.count:
            return found
        return Evaluations(problem.walker.nfe(problem.teacher) * len(problem.noise) * call_nfe(problem.denoiser))

    def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
        return (
            Method.search(self, problem, steps, workers)
            if self.measures_scale
            else super().search(problem, steps, workers)
        )

    def proposals(
        self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE
    ) -> Mapping[int, Sequence[Schedule]]:
        if not self.measures_scale:
            return super().proposals(problem, steps, workers)
        with counting(problem.denoiser) as denoiser:
            scale = next(self.decisions(replace(problem, denoiser=denoiser), checked_steps(steps), workers))
        return self.scaled(scale).proposals(problem, steps, workers)

    def rounds(self, steps: Sequence[int]) -> int:
        return 2 if self.measures_scale else 1

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Any:
        """With the scale to be measured, first the moments [3] of the samples' entries: count, sum, sum of squares."""
        if not self.measures_scale:
            return super().partial(problem, steps, index)
        if decision is None:
            ends = self.teacher_ends(problem, index).double()
            return torch.stack([ends.new_tensor(ends.numel()), ends.sum(), ends.square().sum()]).cpu()
        known = self.scaled(decision)
        if all(len(known.outlines(problem, n)) == 1 for n in steps):
            return None
        with problem.uncounted():  # the first round's walk
            teacher = self.teacher_ends(problem, index)
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        return known.errors(problem, steps, index, trajectories, teacher)

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> Any:
        if not self.measures_scale:
            return super().combine(problem, steps, partials)
        if decision is None:
            count, total, squares = torch.stack(list(partials)).sum(0)
            return float((squares / count - (total / count).square()).sqrt())
        known = self.scaled(decision)
        if partials[0] is None:
            return SearchResult({n: known.schedules(problem, n)[0] for n in steps})
        return known.combine(problem, steps, partials)

    @property
    def in_noise_levels(self) -> bool:
        return self.family in IN_NOISE_LEVELS

    def reaches_clean(self, process: Process) -> bool:
        return self.family == "time_uniform" or (self.family == "flow_shift" and isinstance(process, Flow))

    def between(self, process: Process, steps: int, t_max: float, t_min: float, final: Final) -> Schedule:
        return build_schedule(self.family, process, steps, t_max, t_min, final, **self.parameters)

    def schedules(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        if self.family != "published":
            return super().schedules(problem, steps)
        final = self.final or ("zero" if problem.teacher.ends_clean else "t_min")
        schedule = build_schedule("published", problem.process, steps, final=final, **self.parameters)
        return [with_range(schedule, "its authors'")]


__getattr__ = old_names(
    __name__,
    BetweenEnds="optsteps.methods.between_ends.BetweenEnds",
    Given="optsteps.methods.given.GivenSchedules",
    GivenSchedules="optsteps.methods.given.GivenSchedules",
    with_range="optsteps.methods.between_ends.with_range",
)
