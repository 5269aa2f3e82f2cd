"""The published searches for paths, restated naively: loops over pairs of nodes, steps that are really taken."""

from __future__ import annotations

import math

from torch import Tensor

from optsteps.methods import SearchProblem
from optsteps.processes import Process
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
