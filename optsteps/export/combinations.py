"""A solver's walk as numbers: every state is a linear combination of the start, the network's outputs and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optsteps.schedules import Schedule
from optsteps.solvers import Solver
from optsteps.solvers.base import Denoise, State


@dataclass(frozen=True)
class Combination:
    """x = start x_0 + sum_k outputs[k] D_k + sum_k noises[k] n_k, with unit Gaussian n_k.

    Attributes:
        start: the factor of the state that the walk begins with.
        outputs: of the denoiser's outputs so far, in the order in which they are evaluated.
        noises: of the noise drawn so far.
    """

    start: float
    outputs: list[float]
    noises: list[float]


@dataclass(frozen=True)
class CombinedWalk:
    """A walk down a schedule of n steps that needs no formula of its solver any more.

    Attributes:
        steps: of each evaluation, the step that it belongs to, from 0.
        told: the times [E] that the network is told.
        states: what is evaluated, one combination for each.
        arrivals: the state at the end of every step, n of them.
    """

    steps: list[int]
    told: list[float]
    states: list[Combination]
    arrivals: list[Combination]


def combined(schedule: Schedule, solver: Solver) -> CombinedWalk:
    """The walk of `solver` down `schedule` as combinations.

    The solver itself walks vectors of coefficients: the start is one unit vector, every output of the denoiser and
    every draw of noise another, and since all solvers are linear in these the states are the combinations' numbers.

    Raises:
        ValueError: the solver cannot obey the schedule (`Solver.check`), or the schedule has an amplitude.
    """
    solver.check(schedule)
    if schedule.amplitude is not None:
        raise ValueError("a schedule with an amplitude is no linear combination that all channels share")
    draws = 2 * schedule.steps if solver.stochastic else 0
    evaluations = solver.nfe(schedule)
    basis = torch.eye(1 + evaluations + draws, dtype=torch.float64)

    def numbers(x: Tensor) -> Combination:
        start, outputs, noises = x[0].split([1, evaluations, draws])
        return Combination(start.item(), outputs[: len(told)].tolist(), noises[: paths.drawn].tolist())

    told: list[float] = []
    steps: list[int] = []
    states: list[Combination] = []
    arrivals: list[Combination] = []

    def denoiser(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        states.append(numbers(x))
        told.append(t.item())
        steps.append(len(arrivals))
        return basis[len(told)][None]

    paths = _UnitPaths(basis[1 + evaluations :])
    denoise = Denoise(denoiser, schedule.process, paths=paths)  # type: ignore[arg-type]  # the part of paths in use
    x: Tensor = basis[:1]
    state: State = ()
    with torch.no_grad():
        for i, move in enumerate(solver.moves(schedule, x)):
            x, state = move(state, x, denoise.at(schedule, i))
            arrivals.append(numbers(x))
    return CombinedWalk(steps, told, states, arrivals)


class _UnitPaths:
    """Brownian paths whose independent increments are unit vectors; see `BrownianPaths`.

    A step with an inner time asks for the increment to it, and then for that of the whole step from the same start.
    """

    def __init__(self, units: Tensor) -> None:
        self.units, self.drawn = units, 0
        self._last: tuple[float, float, Tensor] | None = None

    def take(self, index: Tensor) -> _UnitPaths:
        return self

    def increments(self, clock: Tensor, clock_next: Tensor) -> Tensor:
        start, end = clock.item(), clock_next.item()
        if not math.isfinite(end) or end <= start:
            return torch.zeros_like(self.units[:1])
        if self._last is not None and self._last[0] == start and self._last[1] < end:
            middle, to_middle = self._last[1:]
            unit = math.sqrt((middle - start) / (end - start)) * to_middle
            unit = unit + math.sqrt((end - middle) / (end - start)) * self._draw()
        else:
            unit = self._draw()
        self._last = (start, end, unit)
        return unit

    def _draw(self) -> Tensor:
        self.drawn += 1
        return self.units[self.drawn - 1][None]
