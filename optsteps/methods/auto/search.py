"""Auto: every method names candidates, the solver runs them against each other, and the winner is refined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods.auto.paid_once import PaidOnce
from optsteps.methods.auto.race import Heat, distinct, race
from optsteps.methods.base import Method, SearchProblem, SearchResult, checked_steps
from optsteps.methods.nearness import Nearness
from optsteps.methods.refine.coordinates import GapCoordinates, WeightCoordinates
from optsteps.methods.refine.gauss_newton import Refined, refined
from optsteps.schedules import Schedule
from optsteps.solvers.multistep import Multistep
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories

# fit samples: so many, or as many as hold so many numbers, but at most half of the problem's
FIT, NUMBERS = 16, 64
# of the corrections of weights, one after the other
RIDGES = (1.0, 0.1, 0.01)


class Auto(Method):
    """The best schedule for a model, a solver and a step count, found by trying and never worse than what was tried.

    1. Every method of the pool names its candidates, on the fit samples. One that cannot take part is left out.
    2. The candidates race with the real solver (`race`), on twice as many samples.
    3. The winner's times are refined (`refined`): steps are fitted on the fit samples, and the schedule that is best on
       the selection samples replaces the winner if it is better there by its paired interval.

    The teacher is walked once for every sample that is asked for, whatever the methods of the pool ask of it, where
    their shards hold all fit samples. The fit samples are the problem's first (`fitted`), those that race are among its
    first half, and the selection samples are all others, of which no more are asked than are needed (`parts`).

    Args:
        pool: the methods by name; those that are preferred among equal ones first.
        refine: whether the winner is refined.
        rounds: of the refinement, at most.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples that are walked together.

    `SearchResult.evidence`: "decisions"; "heats" and "refined" by step count.

    Raises:
        ValueError: an empty pool; in `check`, a stochastic solver, fewer than 4 samples, or that nobody in the pool can
            take part.
    """

    def __init__(
        self,
        pool: Mapping[str, Method],
        refine: bool = True,
        rounds: int = 6,
        weights: bool = False,
        max_batch: int = 512,
        shard_size: int = 8,
    ) -> None:
        if not pool:
            raise ValueError("the pool is empty: name at least one method, such as logsnr")
        self.pool, self.refine, self.rounds, self.weights = dict(pool), refine, rounds, weights
        self.max_batch, self.shard_size = max_batch, shard_size

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        for solver in (problem.solver, problem.walker):
            if solver.stochastic:
                raise ValueError(
                    f"auto compares with the teacher's samples, which the stochastic solver {solver.name!r} does not "
                    "repeat; choose a deterministic solver, or a method for stochastic ones, such as ays"
                )
        if len(problem.noise) < 4:
            raise ValueError(
                f"auto fits on half of the samples and selects on the others: it needs at least 4, got "
                f"{len(problem.noise)} (search.samples)"
            )
        able, reasons = self._able(problem, checked_steps(steps))
        if not able:
            raise ValueError("no method of auto's pool can take part: " + "; ".join(reasons))

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return any(method.chooses_orders(problem) for method in self.pool.values())

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        decisions = _Decisions(problem)
        # what is kept of several searches that share walks says nothing on what one of them costs by itself
        cache = replace(problem.cache, workers=PaidOnce(problem.cache.workers.on("auto")))
        problem = replace(problem, cache=cache)
        fit = torch.arange(fitted(problem.noise))
        runs, *held = (self._nearness(problem, part, workers) for part in parts(problem.noise))
        # nor is what they are kept with, which depends on who asked for a shared walk first
        apart = workers.on("auto", pool=list(self.pool))
        proposals = self._proposals(_part(problem, fit), steps, apart, decisions)
        heats = {n: race(distinct(proposals[n]), runs) for n in steps}
        for n in steps:
            decisions.add(_told(n, heats[n]))
        found, schedules = dict[int, Refined](), dict[int, Schedule]()
        for n in steps:
            winner = heats[n][-1].ran[0]
            schedules[n] = self._described(problem, winner.schedule, winner.names)
            if self.refine:
                found[n] = refined(GapCoordinates(winner.schedule), runs, held, fit, self.rounds)
                if self.weights and isinstance(problem.solver, Multistep):
                    decisions.add(_refinement_told(n, found[n]))
                    weighted = WeightCoordinates(found[n].schedule, problem.solver)
                    found[n] = refined(weighted, runs, held, fit, 2, RIDGES)
                schedules[n] = self._described(problem, found[n].schedule, winner.names)
                decisions.add(_refinement_told(n, found[n]))
        evidence = {"decisions": decisions.sentences, "heats": heats, "refined": found}
        return SearchResult(schedules, evidence=evidence)

    def _nearness(self, problem: SearchProblem, samples: Tensor, workers: Workers) -> Nearness:
        walked = fitted(problem.noise)
        return Nearness(_part(problem, samples), workers, self.max_batch, self.shard_size, walked)

    def _able(self, problem: SearchProblem, steps: Sequence[int]) -> tuple[dict[str, Method], list[str]]:
        """The methods of the pool that can take part, and why the others cannot."""
        able, reasons = dict[str, Method](), list[str]()
        for name, method in self.pool.items():
            try:
                method.check(problem, steps)
                able[name] = method
            except ValueError as error:
                reasons.append(f"{name} ({error})")
        return able, reasons

    def _proposals(
        self, problem: SearchProblem, steps: Sequence[int], workers: Workers, decisions: _Decisions
    ) -> dict[int, list[tuple[str, Schedule]]]:
        """The candidates by step count, with the names of their methods."""
        # the whole walk is kept first: whoever asks for its ends finds it
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        trajectories.record(problem.teacher, problem.walker, problem.noise, problem.cond)
        able, reasons = self._able(problem, steps)
        if reasons:
            decisions.add("left out of the pool: " + "; ".join(reasons))
        proposals: dict[int, list[tuple[str, Schedule]]] = {n: [] for n in steps}
        for name, method in able.items():
            for n, schedules in method.proposals(problem, steps, workers).items():
                proposals[n] += [(name, schedule) for schedule in schedules]
        decisions.add(f"{len(able)} methods name their candidates")
        return proposals

    def _described(self, problem: SearchProblem, schedule: Schedule, names: Sequence[str]) -> Schedule:
        described: dict[str, Any] = {
            "method": "auto",
            "from": list(names),
            **problem.solver.described,
            "samples": len(problem.noise),
        }
        return replace(schedule, metadata=described)


def _part(problem: SearchProblem, samples: Tensor) -> SearchProblem:
    """The problem of some of its samples."""
    noise, cond = problem.samples(samples)
    return replace(problem, noise=noise, cond=cond)


def fitted(noise: Tensor) -> int:
    """How many samples of a problem a refinement fits on: the first of those that run in the race."""
    return min(max(FIT, -(-NUMBERS // noise[0].numel())), len(noise) // 2)


def parts(noise: Tensor) -> list[Tensor]:
    """The numbers of the samples that race, twice as many as are fitted on, and of the selection samples in the parts
    in which they are asked: as many as are fitted on, then as many as were asked before."""
    samples, fit = len(noise), fitted(noise)
    ends = [min(2 * fit, samples // 2)]
    ends.append(min(ends[0] + fit, samples))
    while ends[-1] < samples:
        ends.append(min(2 * ends[-1] - ends[0], samples))
    return [torch.arange(first, end) for first, end in zip([0, *ends[:-1]], ends, strict=True)]


class _Decisions:
    """Sentences on what was decided, each with the evaluations so far."""

    def __init__(self, problem: SearchProblem) -> None:
        counter = problem.denoiser
        assert isinstance(counter, CountedDenoiser)
        self.counter, self.sentences = counter, list[str]()

    def add(self, sentence: str) -> None:
        self.sentences.append(f"{sentence} ({self.counter.evaluations:,} evaluations so far)")


def _told(steps: int, heats: Sequence[Heat]) -> str:
    first, last = heats[0], heats[-1]
    names = " and ".join(last.ran[0].names)
    return f"{steps} steps: {names} wins the race of {len(first.ran)} candidates with {last.levels[0]:.2f} dB"


def _refinement_told(steps: int, found: Refined) -> str:
    gain, start = found.gain, found.iterates[0]
    interval = f"{gain.value:+.2f} dB [{gain.low:+.2f}, {gain.high:+.2f}]"
    verdict = "its winner stays" if found.schedule is start else "and takes its place"
    return f"{steps} steps: refined, the winner gains {interval} on the selection samples {verdict}"
