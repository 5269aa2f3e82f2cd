"""Searches for paths, restated naively: loops over pairs of nodes or over all paths, steps that are really taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from optsteps.methods import SearchProblem
from optsteps.processes import Process
from optsteps.solvers.base import Denoise
from optsteps.solvers.multistep import Multistep
from optsteps.trajectories import Record, Trajectories


def walked(problem: SearchProblem) -> Record:
    return Trajectories(problem.denoiser).record(problem.teacher, problem.walker, problem.noise, problem.cond)


def jump(process: Process, record: Record, times: Tensor, i: int, j: int) -> Tensor:
    """One Euler step (DDIM's map) of every sample from the teacher's state at node i to t_j, [B, ...]."""
    x, denoised = record.states[:, i], record.predictions[:, i]
    eps = (x - process.alpha(times[i]) * denoised) / process.sigma(times[i])
    return process.alpha(times[j]) * denoised + process.sigma(times[j]) * eps


def boss_costs(problem: SearchProblem) -> list[list[float]]:
    """E ||jump - x_j||^2 in flow coordinates."""
    record, times, process = walked(problem), problem.teacher.times, problem.process
    last = len(times) - 1
    table = [[math.inf] * (last + 1) for _ in range(last + 1)]
    for i in range(last):
        for j in range(i + 1, last + 1):
            missed = (jump(process, record, times, i, j) - record.states[:, j]).flatten(1)
            missed = missed / (process.alpha(times[j]) + process.sigma(times[j]))
            table[i][j] = float(missed.square().sum(1).mean())
    return table


def gits_costs(problem: SearchProblem, metric: str) -> list[list[float]]:
    """ "l2": E ||jump - x_j||; "dev": E [distance of the jump from the chord] - E [distance of x_j from it]."""
    record, times, process = walked(problem), problem.teacher.times, problem.process
    alpha = process.alpha(times)
    if not bool((alpha > 0).all()):
        alpha = alpha + process.sigma(times)
    last = len(times) - 1
    first = record.states[:, 0].flatten(1) / alpha[0]
    chord = record.states[:, last].flatten(1) / alpha[last] - first

    def off_chord(points: Tensor) -> Tensor:
        relative = points - first
        along = (relative * chord).sum(1, keepdim=True) / chord.square().sum(1, keepdim=True)
        return (relative - along * chord).square().sum(1).sqrt()

    table = [[math.inf] * (last + 1) for _ in range(last + 1)]
    for i in range(last):
        for j in range(i + 1, last + 1):
            end = jump(process, record, times, i, j).flatten(1) / alpha[j]
            there = record.states[:, j].flatten(1) / alpha[j]
            if metric == "l2":
                table[i][j] = float((end - there).square().sum(1).sqrt().mean())
            else:
                table[i][j] = float(off_chord(end).mean()) - (float(off_chord(there).mean()) if j < last else 0.0)
    return table


def best_path(costs: list[list[float]], steps: int, coefficient: float) -> list[int]:
    """V_1(i) = c(i, last), V_k(i) = min over i < j < last of c(i, j) + coefficient V_{k-1}(j)."""
    last = len(costs) - 1
    values = {1: {i: (costs[i][last], [i, last]) for i in range(last)}}
    for k in range(2, steps + 1):
        values[k] = {}
        for i in range(last):
            options = [
                (costs[i][j] + coefficient * values[k - 1][j][0], [i, *values[k - 1][j][1]])
                for j in range(i + 1, last)
                if j in values[k - 1]
            ]
            if options:
                values[k][i] = min(options)
    return values[steps][0][1]


def stepped(
    problem: SearchProblem, record: Record, solver: Multistep, order: int, path: tuple[int, ...], j: int
) -> Tensor:
    """Mean squares [B] of the error of the step to node j after the teacher's states at the nodes `path`, by the
    solver's own protocol."""
    times, formulas = problem.teacher.times, solver.formulas(problem.process)
    state = solver.init(record.states[:, 0])
    for node in path[:-1]:
        t = times[node].expand(len(record.states))
        x, denoised = record.states[:, node], record.predictions[:, node]
        state = solver.remember(formulas, state, t, solver.quantity(formulas, x, t, denoised), state[2])
    state = (state[0], state[1], torch.zeros(len(record.states), dtype=torch.long))  # x_i needs no correction

    def known(_x: Tensor, _t: Tensor, _cond: object = None) -> Tensor:
        return record.predictions[:, path[-1]]

    x, state = solver.step(
        state, record.states[:, path[-1]], times[path[-1]], times[j], Denoise(known, problem.process), order
    )
    if j < len(times) - 1:
        t = times[j].expand(len(x))
        x = solver.arrive(formulas, state, x, t, record.predictions[:, j])
    return (x - record.states[:, j]).square().flatten(1).mean(1)


def step_error(
    problem: SearchProblem, record: Record, order: int, path: tuple[int, ...], j: int, weight: str | float, norm: str
) -> float:
    """The weighted error of the step of the problem's solver to node j after the nodes `path`, a mean over samples."""
    solver, process, t = problem.solver, problem.process, problem.teacher.times
    if isinstance(solver, Multistep):
        squares = stepped(problem, record, solver, order, path, j)
    else:
        x = record.states[:, path[-1]]
        denoise = Denoise(problem.denoiser, process)
        missed = solver.step(solver.init(x), x, t[path[-1]], t[j], denoise)[0] - record.states[:, j]
        squares = missed.square().flatten(1).mean(1)
    level = process.noise_level(t[j])
    if weight == "edm":
        factor = torch.tensor(1.0)
    elif weight == "flow":
        factor = 1 / (1 + level)
    else:
        deviation = float(weight) * record.states[:, -1].square().mean().sqrt()
        factor = deviation / (level**2 + deviation**2).sqrt()
    squares = squares * (factor / process.alpha(t[j])) ** 2
    return float((squares if norm == "squared" else squares.sqrt()).mean())


def all_paths(last: int, steps: int) -> list[tuple[int, ...]]:
    return [(0, *inner, last) for inner in combinations(range(1, last), steps - 1)]


def path_error(
    problem: SearchProblem, record: Record, path: Sequence[int], orders: Sequence[int], weight: str | float, norm: str
) -> float:
    """Total of a path's errors, its steps of the given orders."""
    return sum(
        step_error(problem, record, order, tuple(path[: k + 1]), path[k + 1], weight, norm)
        for k, order in enumerate(orders)
    )
