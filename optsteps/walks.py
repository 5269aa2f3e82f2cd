"""Walks of many schedules from the same noise, of which every part that several share is walked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optsteps.conditions import Cond, concatenate
from optsteps.denoisers import CountedDenoiser, Denoiser, in_batches
from optsteps.sampling import Walks, calibrated, check_batch, check_channels, sample
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Solver, State


@dataclass
class _Point:
    """Where the walks of some schedules are, all of them the same so far.

    Attributes:
        x: the states [B, ...].
        time: at which the network is asked.
        state: the solver's.
        walks: the numbers of the schedules that go on from here.
    """

    x: Tensor
    time: float
    state: State
    walks: list[int] = field(default_factory=list)


@torch.no_grad()
def ends_together(
    denoiser: Denoiser,
    solver: Solver,
    schedules: Sequence[Schedule],
    noise: Tensor,
    cond: Cond = None,
    max_batch: int = 512,
) -> list[Tensor]:
    """Last states [B, ...] of the walk down every schedule, each as `sample` has it, without a graph.

    Two walks that begin alike, at the same scale, times and orders, share the evaluations of that part. The walks go
    in step, so that the network sees up to `max_batch` states of different walks at once. Memory holds the states of
    all walks at one step. A denoiser that walks by itself (`Walks`) shares nothing.

    Args:
        denoiser: D(x [B, ...], t [B], cond) -> [B, ...].
        solver: the rule for one step, which draws no noise.
        schedules: of one process; they may have different numbers of steps.
        noise: unit Gaussian [B, ...].
        cond: condition of the batch, or None.
        max_batch: most samples in one call of the denoiser.

    Raises:
        ValueError: a stochastic solver; as `sample`.
    """
    if solver.stochastic:
        raise ValueError(f"walks share no steps of {solver.name}, which draws noise: sample them one by one")
    check_batch(noise, cond)
    for schedule in schedules:
        check_channels(schedule, noise)
        solver.check(schedule)
    counted = denoiser if isinstance(denoiser, CountedDenoiser) else CountedDenoiser(denoiser)
    if isinstance(counted.denoiser, Walks):
        return [sample(counted, schedule, solver, noise, cond) for schedule in schedules]
    moves = [solver.moves(schedule, noise) for schedule in schedules]
    steps = [_steps(solver, schedule) for schedule in schedules]
    points: dict[Any, _Point] = {}
    for number, schedule in enumerate(schedules):
        start = float(schedule.scale), float(schedule.times[0]), _asked(schedule, 0)
        if start not in points:
            points[start] = _Point(noise * schedule.scale.to(noise), _asked(schedule, 0), ())
        points[start].walks.append(number)
    ends: dict[int, Tensor] = {}
    for step in range(max(schedule.steps for schedule in schedules)):
        answers = _answers(counted, list(points.values()), cond, max_batch)
        here, points = list(points.values()), {}
        for place, (point, answer) in enumerate(zip(here, answers, strict=True)):
            arrivals: dict[tuple[Any, ...], tuple[Tensor, State]] = {}
            for number in point.walks:
                schedule, taken = schedules[number], steps[number][step]
                if taken not in arrivals:
                    denoise = Denoise(_Answered(counted, answer), schedule.process, cond).at(schedule, step)
                    x, state = moves[number][step](point.state, point.x, denoise)
                    arrivals[taken] = calibrated(schedule, step, x), state
                x, state = arrivals[taken]
                if step + 1 == schedule.steps:
                    ends[number] = x
                    continue
                arrival = place, taken, _asked(schedule, step + 1)
                if arrival not in points:
                    points[arrival] = _Point(x, arrival[-1], state)
                points[arrival].walks.append(number)
    return [ends[number] for number in range(len(schedules))]


class _Answered:
    """A denoiser whose first answer is known.

    Args:
        denoiser: asked from the second call on.
        answer: the first.
    """

    def __init__(self, denoiser: Denoiser, answer: Tensor) -> None:
        self.denoiser, self.answer = denoiser, [answer]

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        return self.answer.pop() if self.answer else self.denoiser(x, t, cond)


def _answers(denoiser: Denoiser, points: Sequence[_Point], cond: Cond, max_batch: int) -> list[Tensor]:
    """D at every point [B, ...]."""
    sizes = [len(point.x) for point in points]
    x = torch.cat([point.x for point in points])
    times = [torch.full((size,), point.time, dtype=torch.float64) for size, point in zip(sizes, points, strict=True)]
    t, conds = torch.cat(times).to(x.device), concatenate([cond] * len(points))
    return list(in_batches(denoiser, x, t, conds, max_batch).split(sizes))


def _asked(schedule: Schedule, step: int) -> float:
    """The time at which the network is asked in a step."""
    return float((schedule.times if schedule.told_times is None else schedule.told_times)[step])


def _steps(solver: Solver, schedule: Schedule) -> list[tuple[Any, ...]]:
    """What determines where each step arrives, beside the steps before and the answer that it begins with."""
    orders = schedule.orders or solver.orders(schedule.steps)
    carried = [
        [None] * schedule.steps if part is None else map(tuple, part.flatten(1).tolist())
        for part in (schedule.weights, schedule.amplitude)
    ]
    told_as = [schedule.told_as] * schedule.steps
    return list(zip(schedule.times.tolist()[1:], orders, *carried, told_as, strict=True))
