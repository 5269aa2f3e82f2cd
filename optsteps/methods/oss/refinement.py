"""OSS at a price that users can pay: a coarse grid, then the nodes around its path, on as few samples as it takes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from optsteps.denoisers import CountedDenoiser, call_nfe
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, steps_between
from optsteps.methods.nearness import decibels
from optsteps.methods.oss.amplitude import calibrate_amplitude
from optsteps.metrics.statistics import Interval, spread
from optsteps.metrics.teacher import mse
from optsteps.storage.workers import ALONE, RememberingWorkers, Workers
from optsteps.trajectories import Trajectories

if TYPE_CHECKING:
    from optsteps.methods.oss.search import OSS

# steps of the coarse grid, at least twice as many as the student's
COARSE = 20
# the first search has at least two samples, and as many as hold so many numbers: a point of the plane says little
_NUMBERS = 64
# searches around a path, at most, before it is taken as it is
_MOST = 4

Paths = dict[int, list[int]]


@dataclass
class RefinedSearch:
    """The searches of one method for one problem.

    Args:
        method: what is searched with, and with which settings.
        problem: its denoiser is counted.
        steps: ascending step counts.
        workers: who computes.
    """

    method: OSS
    problem: SearchProblem
    steps: Sequence[int]
    workers: Workers

    def __post_init__(self) -> None:
        cache = self.problem.cache
        keeping = cache.workers if cache.workers.keeps else self.workers.telling(lambda name: None)
        remembering = RememberingWorkers(keeping, "record")
        self.problem = replace(self.problem, cache=replace(cache, workers=remembering))
        self.blocks = blocks(self.problem.noise)
        self.decisions: list[str] = []
        self._walked = 0

    def result(self) -> SearchResult:
        """Search with a first block of samples on the coarse grid and around its path; then with twice the samples
        around the path that was found, as long as that lowers the error on samples that neither search saw."""
        used = 1
        found = self._refined(used, self._coarse(used), spacing=self.spacing // 2)
        while used < len(self.blocks):
            more = self._refined(used + 1, self.paths(found), spacing=2)
            used += 1
            if self.paths(more) == self.paths(found):
                self._decide(f"{self._count(used)} samples choose the schedules that half of them do")
                found = more
                break
            if used == len(self.blocks) or len(self.blocks[used]) < 2:
                found = more
                self._decide(f"{self._count(used)} samples, and none are left that could tell whether they are better")
                break
            gain = self._gain(found, more, used)
            held_back = f"on {len(self.blocks[used])} others [{gain.low:+.2f}, {gain.high:+.2f}]"
            if gain.value >= 0:
                found = more
            if gain.low <= 0:
                self._decide(
                    f"{self._count(used)} samples are no better than half of them: {gain.value:+.2f} dB {held_back}"
                )
                break
            self._decide(f"{self._count(used)} samples gain {gain.value:+.2f} dB over half of them {held_back}")
        if self.method.amplitude:
            calibrated = (calibrate_amplitude(self.problem, s, self.method.max_batch) for s in found.schedules.values())
            found = replace(found, schedules={n: s for n, (s, _) in zip(found.schedules, calibrated, strict=True)})
        return replace(found, evidence={**found.evidence, "decisions": self.decisions})

    @property
    def spacing(self) -> int:
        """The coarse grid's, in the teacher's steps."""
        return max(1, self.problem.teacher.steps // max(COARSE, 2 * self.steps[-1]))

    def paths(self, found: SearchResult) -> Paths:
        """The nodes of the schedules by step count."""
        return {n: list(found.schedules[n].metadata["indices"]) for n in self.steps}

    def _coarse(self, used: int) -> Paths:
        """The paths on every node of a coarse grid."""
        spacing = self.spacing
        grid = None if spacing == 1 else self.problem.teacher.steps // spacing
        found = self._searched(used, grid, None)
        self._decide(
            f"{self._count(used)} samples on a grid of {grid or self.problem.teacher.steps} steps, "
            f"then around its paths"
        )
        return self.paths(found)

    def _refined(self, used: int, paths: Paths, spacing: int) -> SearchResult:
        """The search around the paths, on ever closer nodes, until they do not move."""
        for _ in range(_MOST):
            spacing = max(1, spacing)
            found = self._searched(used, None, windows(paths, self.steps, self.problem.teacher.steps, spacing))
            moved, paths = self.paths(found) != paths, self.paths(found)
            if spacing == 1 and not moved:
                break
            spacing //= 2
        return found

    def _searched(self, used: int, grid_steps: int | None, around: Sequence[Sequence[int]] | None) -> SearchResult:
        """One search with the first blocks of samples."""
        for number in range(self._walked, used):
            self._walk(number)
        method = copy(self.method)
        method.amplitude = False
        method.grid_steps, method.windows, method.walked = grid_steps or "all", around, True
        method.blocks = [block.tolist() for block in self.blocks[:used]]
        return method.find(self.problem.part(torch.cat(list(self.blocks[:used]))), self.steps, self.workers)

    def _walk(self, number: int) -> Tensor:
        """The ends [b, ...] of the teacher's walk for the samples of a block, which is counted here and kept."""
        noise, cond = self.problem.samples(self.blocks[number])
        self._walked = number + 1
        return self._trajectories().record(self.problem.teacher, self.problem.walker, noise, cond).states[:, -1]

    def _gain(self, before: SearchResult, after: SearchResult, number: int) -> Interval:
        """By how many dB the later schedules' samples are nearer to the teacher's: the mean over the samples of a block
        that no search saw and all step counts, with its interval."""
        trajectories, teacher = self._trajectories(), self._walk(number)
        noise, cond = self.problem.samples(self.blocks[number])

        def level(found: SearchResult) -> Tensor:
            ends = [trajectories.ends(found.schedules[n], self.problem.solver, noise, cond) for n in self.steps]
            return decibels(torch.stack([mse(end, teacher) for end in ends]).double()).mean(0).cpu()

        return spread(level(after) - level(before))

    def _trajectories(self) -> Trajectories:
        return Trajectories(self.problem.denoiser, self.method.max_batch, self.problem.cache)

    def _count(self, used: int) -> int:
        return sum(len(block) for block in self.blocks[:used])

    def _decide(self, sentence: str) -> None:
        counter = self.problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        self.decisions.append(f"{sentence} ({counter.evaluations:,} evaluations so far)")


def planned_evaluations(method: OSS, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
    """About what a search takes whose first doubling of the samples is its last, with two searches on closer nodes for
    every number of samples."""
    search = RefinedSearch(method, problem, steps, ALONE)
    last = problem.teacher.steps
    coarse, windowed = copy(method), copy(method)
    coarse.grid_steps = last // search.spacing
    even = {n: [k * last // n for k in range(n + 1)] for n in steps}
    windowed.grid_steps, windowed.windows = "all", windows(even, steps, last, 1)
    walk = problem.walker.nfe(problem.teacher)
    fit = [m.evaluations(problem, steps).count / len(problem.noise) - walk for m in (coarse, windowed)]
    used = [sum(len(block) for block in search.blocks[:number]) for number in (1, 2, 3)]
    students = sum(problem.solver.nfe(steps_between(problem.teacher, n)) for n in steps)
    nfe = call_nfe(problem.denoiser)
    count = used[0] * (fit[0] + 2 * fit[1]) + (2 * used[1] * fit[1] if used[1] > used[0] else 0)
    count += nfe * (used[2] * walk + 2 * (used[2] - used[1]) * students)
    if method.amplitude:
        count += nfe * len(problem.noise) * (len(steps) * walk + students)
    return Evaluations(round(count), exact=False)


def blocks(noise: Tensor) -> list[Tensor]:
    """Numbers of the samples of noise [B, ...] in blocks, each of which doubles what came before, but for the last."""
    samples = len(noise)
    ends = [min(max(2, -(-_NUMBERS // noise[0].numel())), samples)]
    while ends[-1] < samples:
        ends.append(min(2 * ends[-1], samples))
    return [torch.arange(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def windows(paths: Paths, steps: Sequence[int], last: int, spacing: int) -> list[list[int]]:
    """The nodes that paths near the given ones may visit after 0, 1, ... steps: those of any of these paths and their
    neighbours at a distance of `spacing`, where the remaining steps still fit."""
    near: list[set[int]] = [set() for _ in range(steps[-1])]
    for n in steps:
        for k, node in enumerate(paths[n][:-1]):
            for neighbour in (node - spacing, node, node + spacing):
                near[k].add(min(max(neighbour, k), last - (n - k)))
    return [sorted(nodes) for nodes in near]
