"""Timestep Aligner (TimeTuner): the times that the network is told, one step after the other, by a one-step loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import CountedDenoiser, ModelError, call_nfe, expand
from optsteps.fingerprint import plain_settings, solver_facts
from optsteps.methods.base import Evaluations, Method, SearchProblem, SearchResult, checked_steps
from optsteps.noise import sample_generator
from optsteps.schedules import Schedule
from optsteps.solvers import Euler
from optsteps.solvers.base import Denoise, Move, State
from optsteps.storage.shards import storable
from optsteps.storage.workers import Workers
from optsteps.trajectories import Trajectories

Order = Literal["sequential", "parallel"]
States = Literal["teacher", "data"]

# of a stream of `sample_generator`: the noising of data
_STREAM = 2


class TimestepAligner(Method):
    """Told times for the schedule of another method (Xia et al., arXiv:2310.09469, Timestep Aligner, whose code is
    called TimeTuner).

    At step i the network is told rho_i t_i, and the solver keeps t_i. With x_{i+1} the step from x_i, rho_i lowers

        || eps(x_i, t_i) - eps(x_{i+1}, t_{i+1}) ||^2,

    summed over pixels and averaged over samples: along an exact solution of a model whose predictions do not change, a
    step leaves eps as it was. Adam moves one rho at a time, from 1, and that of the last step stays 1.

    As in the released code (github.com/THU-LYJ-Lab/time-tuner), but for these:

    - Told times of a flow keep the velocity (`Schedule.told_as` "slope"), as DDIM's keep eps. The authors have no flow.
    - With order="sequential" the states are those of the problem's own solver, of any order; the authors have DDIM.
      With order="parallel" nothing is remembered, and the step is DDIM's, as there.
    - The samples are the search's, a few, which every iteration draws from. The authors draw new images.
    - Told times are held within the process, and below zero terminal SNR, where a step's rho stays 1. A rho that does
      not lower the loss on all samples stays 1 too.

    Args:
        base: the method whose schedules are told other times.
        order: "sequential": x_i is reached by the steps before, which are tuned already; "parallel": x_i is drawn for
            every step by itself.
        states: "data": the noised data, alpha x_0 + sigma eps, at every step, or for "sequential" at the first.
            "teacher": without data; the teacher's states at the schedule's own times, or for "sequential" the noise.
        iterations: of Adam for every step; the authors take 500.
        rate: of Adam.
        batch: samples of one iteration.
        seed: of the order in which samples are visited, and of the noise on data.
        max_batch: most samples in one call of the denoiser while the teacher is walked.

    `SearchResult.evidence`: "decisions"; by step count "ratios", the rho_i, and "losses", before and after.

    Raises:
        ValueError: a setting out of its range; in `check`, states="data" without data, or a solver that obeys no told
            times or is stochastic; in `search`, a base whose schedules have told times already.
        ModelError: in `search`, a denoiser through which no gradient flows to its time.
    """

    name = "timestep_aligner"

    def __init__(
        self,
        base: Method,
        order: Order = "sequential",
        states: States = "teacher",
        iterations: int = 500,
        rate: float = 2e-3,
        batch: int = 8,
        seed: int = 0,
        max_batch: int = 512,
    ) -> None:
        if order not in ("sequential", "parallel"):
            raise ValueError(f"order must be 'sequential' or 'parallel', got {order!r}")
        if states not in ("teacher", "data"):
            raise ValueError(f"states must be 'teacher' or 'data', got {states!r}")
        if iterations < 1 or batch < 1:
            raise ValueError(f"iterations and batch must be at least 1, got {iterations} and {batch}")
        if not (rate > 0 and math.isfinite(rate)):
            raise ValueError(f"rate must be positive and finite, got {rate}")
        self.base, self.order, self.states = base, order, states
        self.iterations, self.rate, self.batch = iterations, rate, batch
        self.seed, self.max_batch = seed, max_batch

    def chooses_orders(self, problem: SearchProblem) -> bool:
        return self.base.chooses_orders(problem)

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        self.base.check(problem, steps)
        problem.check_answers("timestep_aligner")
        problem.check_repeats("timestep_aligner")
        if self.states == "data" and problem.data is None:
            raise ValueError("timestep_aligner with states='data' needs data: give search.data, or states='teacher'")
        first = problem.teacher.times[:2]
        told = Schedule(first, problem.process, told_times=first[:1], told_as="slope")
        problem.solver.check(told)

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations | None:
        """Those of the base and of all iterations, forwards."""
        of_base = self.base.evaluations(problem, steps)
        if of_base is None:
            return None
        samples, count = self._samples(problem), 0
        for n in checked_steps(steps):
            if n == 1:
                continue
            count += (n - 1) * (5 * samples + 2 * self.iterations * min(self.batch, samples))
            if self.order == "sequential":
                count += (n - 2) * samples
            elif self.states == "teacher":
                count += samples * (problem.teacher.steps + n - 1)
        exact = of_base.exact and (self.order == "sequential" or self.states == "data")
        return Evaluations(of_base.count + count * call_nfe(problem.denoiser), exact=exact)

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        found = self.base.search(problem, steps, workers.on("timestep_aligner"))
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        aligned = {n: self._aligned(problem, schedule, trajectories) for n, schedule in found.schedules.items()}
        schedules = {n: self._told(found.schedules[n], problem, one) for n, one in aligned.items()}
        evidence = {
            "decisions": [_sentence(n, one) for n, one in aligned.items()],
            "ratios": {n: one.ratios for n, one in aligned.items()},
            "losses": {n: (one.before, one.after) for n, one in aligned.items()},
        }
        return SearchResult(schedules, evidence=evidence)

    def _told(self, schedule: Schedule, problem: SearchProblem, aligned: Aligned) -> Schedule:
        described = {"method": self.name, "order": self.order, "states": self.states, **problem.solver.described}
        return replace(schedule, told_times=aligned.told, told_as="slope", metadata={**schedule.metadata, **described})

    def _samples(self, problem: SearchProblem) -> int:
        return len(problem.noise) if self.states == "teacher" or problem.data is None else len(problem.data)

    def _aligned(self, problem: SearchProblem, schedule: Schedule, trajectories: Trajectories) -> Aligned:
        """What is learned for one schedule, or what was learned before."""
        if schedule.told_times is not None:
            raise ValueError("timestep_aligner was given a schedule that has told times already; take another base")

        def learn(denoiser: CountedDenoiser) -> Aligned:
            return _Alignment(self, replace(problem, denoiser=denoiser), schedule).aligned()

        facts: dict[str, Any] = {}
        if problem.cache.workers.keeps:
            solver, walker = (solver_facts(one, schedule, problem.noise) for one in (problem.solver, problem.walker))
            facts = {"settings": plain_settings(self), "start": schedule.facts, "solver": solver, "walker": walker}
            facts["teacher"] = problem.teacher.facts
        samples = (problem.noise, problem.cond) if self.states == "teacher" else (problem.data, problem.data_cond)
        return trajectories.once(self.name, samples, learn, **facts)


@storable
@dataclass(frozen=True)
class Aligned:
    """What an alignment came to.

    Attributes:
        told: times [n] that the network is told.
        ratios: rho of every step.
        before, after: the losses of the steps that are tuned, for rho = 1 and for the chosen rho, on all samples.
    """

    told: Tensor
    ratios: list[float]
    before: list[float]
    after: list[float]


class _Alignment:
    """The alignment of one schedule.

    Args:
        method: its settings.
        problem: its denoiser is counted.
        schedule: n steps without told times.
    """

    def __init__(self, method: TimestepAligner, problem: SearchProblem, schedule: Schedule) -> None:
        self.method, self.problem, self.schedule, self.process = method, problem, schedule, problem.process
        self.of_data = method.states == "data"
        self.cond = problem.data_cond if self.of_data else problem.cond
        self.generator = torch.Generator().manual_seed(method.seed)
        # whether a gradient came through the network, and the time that it was told last
        self.flows, self.asked = False, problem.teacher.times

    def aligned(self) -> Aligned:
        times = self.schedule.times[:-1]
        ratios, losses = torch.ones_like(times), list[tuple[float, float]]()
        if self.schedule.steps > 1:
            tune = self._sequential if self.method.order == "sequential" else self._parallel
            losses = tune(ratios)
            if not self.flows and any(before for before, _ in losses):
                raise ModelError(
                    "timestep_aligner learns by gradients in the time that the network is told, and none flows: the "
                    "denoiser rounds its time, or calls its network under torch.no_grad"
                )
        before, after = ([pair[k] for pair in losses] for k in (0, 1))
        # a product of a rounded ratio may lie a digit above the limit
        told = (ratios * times).clamp(max=self.process.t_limit)
        return Aligned(told, ratios.tolist(), before, after)

    def _sequential(self, ratios: Tensor) -> list[tuple[float, float]]:
        """Tune the ratios [n] in place along the walk that they make; returns the losses before and after."""
        x = self._noised(0) if self.of_data else self.problem.noise * expand(self.schedule.scale, self.problem.noise)
        state: State = ()
        moves, losses = self.problem.solver.moves(self.schedule, x), []
        for i in range(self.schedule.steps - 1):
            ratios[i], loss = self._tuned(i, moves[i], state, x)
            losses.append(loss)
            if i < self.schedule.steps - 2:
                x, state = self._step(moves[i], state, x, self.cond, ratios[i] * self.schedule.times[i])
        return losses

    def _parallel(self, ratios: Tensor) -> list[tuple[float, float]]:
        """The same, every step by itself."""
        states = self._teacher_states() if not self.of_data else None
        losses = []
        for i in range(self.schedule.steps - 1):
            x = self._noised(i) if states is None else states[i]
            ratios[i], loss = self._tuned(i, Euler().moves(self.schedule, x)[i], (), x)
            losses.append(loss)
        return losses

    def _noised(self, step: int) -> Tensor:
        """The data at the time of a step, each with noise of its own, which is the same at all steps."""
        data = self.problem.data
        assert data is not None
        generators = [sample_generator(self.method.seed, k, _STREAM) for k in range(len(data))]
        noise = torch.stack([torch.randn(data.shape[1:], generator=generator) for generator in generators]).to(data)
        t = self.schedule.times[step]
        return expand(self.process.alpha(t), data) * data + expand(self.process.sigma(t), data) * noise

    def _teacher_states(self) -> list[Tensor]:
        """The teacher's states at the schedule's times, which are inserted among its own."""
        teacher, times = self.problem.teacher, self.schedule.times
        inner = times[(times < teacher.times[0]) & (times > teacher.times[-1])]
        merged = torch.cat([teacher.times, inner]).unique().flip(0)
        walked = Schedule(merged, self.process, initial_scale=teacher.initial_scale)
        trajectories = Trajectories(self.problem.denoiser, self.method.max_batch)
        states = trajectories.states(walked, self.problem.walker, self.problem.noise, self.cond)
        return [states[:, int((merged - t).abs().argmin())] for t in times[:-1]]

    def _tuned(self, i: int, move: Move, state: State, x: Tensor) -> tuple[float, tuple[float, float]]:
        """rho of step i from x [B, ...], and the losses on all samples before and after."""
        t, t_next = self.schedule.times[i], self.schedule.times[i + 1]
        # the clocks of EDM and of a flow have no least time with noise
        least = self.process.t_positive if self.process.name == "vp" else torch.finfo(torch.float64).tiny
        largest = self.process.t_finite if self.process.name == "vp" else self.process.t_limit
        with torch.no_grad():
            target = self._eps(x, t, self.cond)

        def loss(ratio: Tensor, index: Tensor) -> Tensor:
            place = index.to(x.device)
            cond, some = take(self.cond, index), tuple(part[place.to(part.device)] for part in state)
            x_next, _ = self._step(move, some, x[place], cond, ratio * t)
            return (target[place] - self._eps(x_next, t_next, cond)).square().flatten(1).sum(1).mean()

        everything = torch.arange(len(x))
        ratio = torch.ones((), dtype=torch.float64)
        with torch.no_grad():
            before = float(loss(ratio, everything))
        if self.process.name == "vp" and bool(self.process.alpha(t) == 0):  # eps says nothing about x_0 there
            return 1.0, (before, before)
        ratio.requires_grad_()
        adam = torch.optim.Adam([ratio], lr=self.method.rate)
        for _ in range(self.method.iterations):
            index = torch.randperm(len(x), generator=self.generator)[: self.method.batch]
            with torch.enable_grad():
                reached = loss(ratio, index)
                gradient, of_network = torch.autograd.grad(reached, [ratio, self.asked], allow_unused=True)
            if not bool(gradient.isfinite()):
                raise ModelError(f"the gradient of timestep_aligner's loss in the told time {float(t):g} is not finite")
            self.flows |= of_network is not None and bool((of_network != 0).any())
            ratio.grad = gradient
            adam.step()
            with torch.no_grad():  # a clamp within the loss would stop the gradient at the first time
                ratio.clamp_(float(least / t), max(1.0, float(largest / t)))
        with torch.no_grad():
            after = float(loss(ratio, everything))
        return (float(ratio), (before, after)) if after < before else (1.0, (before, before))

    def _step(self, move: Move, state: State, x: Tensor, cond: Cond, told: Tensor) -> tuple[Tensor, State]:
        def noted(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            self.asked = t
            return self.problem.denoiser(x, t, cond)

        return move(state, x, Denoise(noted, self.process, cond, told=told, told_as="slope"))

    def _eps(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The prediction of the noise in x [B, ...]."""
        denoised = Denoise(self.problem.denoiser, self.process, cond)(x, t)
        return (x - expand(self.process.alpha(t), x) * denoised) / expand(self.process.sigma(t), x)


def _sentence(steps: int, aligned: Aligned) -> str:
    if not aligned.before:
        return f"{steps} step: nothing to align"
    ratios = ", ".join(f"{ratio:.3f}" for ratio in aligned.ratios)
    return (
        f"{steps} steps: the network is told the times multiplied by {ratios}, which took the one-step loss from "
        f"{sum(aligned.before):.4g} to {sum(aligned.after):.4g}; every iteration was followed backwards too, which is "
        "not counted"
    )
