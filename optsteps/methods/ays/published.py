"""Align Your Steps as published (Sabour et al., arXiv:2404.14507, Sec. 3.3 and App. B)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods.ays.coordinate_search import check_candidates, descend, interpolated, with_midpoints
from optsteps.methods.ays.data import clean_data
from optsteps.methods.ays.klub_monte_carlo import MonteCarloKlub
from optsteps.methods.ays.levels import as_schedule, intervals, start_levels
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories


class PublishedAYS(Method):
    """Algorithm 1 as its authors run it: for 10 steps, then refined to 20 and 40, and interpolated for the rest.

    The 10 steps start from a hand-made schedule and stop early after a number of sweeps. Midpoints (in log) are then
    inserted twice, and only these are moved, until they rest. Every other step count is a log-linear interpolation of
    the 40 steps.

    Every term of the bound (`MonteCarloKlub`, the paper's Algorithm 2) costs two evaluations per data sample, and every
    sweep over n steps 2 x 2 x `candidates` x (n - 1) of them. Use `AYS` to search, and this to reproduce the paper.

    Args:
        max_sweeps: sweeps over the 10 steps, which is the early stop. The paper sets it by looking at pictures.
        max_iterations: most sweeps over the inserted points. With few data the estimates' noise alone keeps them
            moving.
        start: the hand-made family where the search starts: "edm", or "time_uniform" for discrete-time models.
        c: the data's standard deviation for importance sampling.
        candidates: see `descend`.
        seed: of all noise.
        max_batch: most samples in one call of the denoiser.

    Raises:
        ValueError: an even number of candidates; in `check`, an unknown start, or one step where the teacher ends at
            noise level 0.

    `SearchResult.evidence`: "path", the schedules of 10 steps after every sweep; "hierarchy", those of 10, 20 and 40.
    """

    def __init__(
        self,
        max_sweeps: int = 10,
        max_iterations: int = 300,
        start: str = "edm",
        c: float = 0.5,
        candidates: int = 11,
        seed: int = 0,
        max_batch: int = 512,
    ) -> None:
        check_candidates(candidates)
        self.max_sweeps, self.max_iterations, self.start, self.c = max_sweeps, max_iterations, start, c
        self.candidates, self.seed, self.max_batch = candidates, seed, max_batch

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        problem.check_answers("ays_published")
        start_levels(problem, self.start, 10)
        for n in steps:
            intervals(problem, n)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """A maximum: every sweep that there may be and, where the data are the teacher's samples, these."""
        samples = len(problem.noise) if problem.data is None else len(problem.data)
        moved = 9 * self.max_sweeps  # the inner points of 10 steps, then the new ones of 20 and 40
        moved += (10 + 20) * self.max_iterations if any(n != 10 for n in steps) else 0
        count = 2 * 2 * self.candidates * moved * samples
        if problem.data is None:
            count += samples * problem.walker.nfe(problem.teacher)
        return Evaluations(count * call_nfe(problem.denoiser), exact=False)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        data, cond = clean_data(problem, trajectories, torch.arange(len(problem.noise)), self.seed)
        klub = MonteCarloKlub(problem.denoiser, problem.process, data, cond, self.c, 1, self.max_batch, self.seed)
        start = start_levels(problem, self.start, 10)
        path = descend(klub, start, self.max_sweeps, self.candidates)
        hierarchy = {10: path[-1]}
        if any(n != 10 for n in steps):
            for n in (20, 40):
                finer, new = with_midpoints(hierarchy[n // 2])
                hierarchy[n] = descend(klub, finer, self.max_iterations, self.candidates, new)[-1]

        def levels_of(n: int) -> Tensor:
            inner = intervals(problem, n)
            return hierarchy[inner] if inner in hierarchy else interpolated(hierarchy[40], inner)

        described = {"method": "ays_published", "sweeps": self.max_sweeps, "c": self.c, "samples": len(data)}
        return SearchResult(
            {n: as_schedule(problem, levels_of(n), described) for n in steps},
            evidence={"path": path, "hierarchy": hierarchy},
        )
