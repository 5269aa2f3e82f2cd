"""Errors of single steps of a solver of two evaluations per step from the teacher's states."""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import CountedDenoiser
from optsteps.methods.base import SearchProblem
from optsteps.methods.entries import EntrySubset
from optsteps.solvers.base import Denoise
from optsteps.solvers.singlestep import TwoStage
from optsteps.trajectories import Record, Trajectories


def two_stage_errors(
    problem: SearchProblem, record: Record, cond: Cond, nodes: Tensor, max_batch: int, entries: EntrySubset
) -> Tensor:
    """Sums over samples of the mean square of every step's error and of its root, as of `step_errors`: float64
    [2, n, n]. The first evaluation of a step is the teacher's; the second is made for every pair of nodes.

    Args:
        record: of the teacher's walk of b samples.
        cond: their condition.
    """
    solver, samples = problem.solver, len(record.states)
    assert isinstance(solver, TwoStage)
    trajectories = Trajectories(problem.denoiser, max_batch, problem.cache)
    times = problem.teacher.times[nodes]
    sample, i, j = torch.ones(samples, len(nodes), len(nodes), dtype=torch.bool).triu(1).nonzero().unbind(1)

    def errors(denoiser: CountedDenoiser) -> Tensor:
        squares = torch.empty(len(sample), dtype=torch.float64)
        for some in torch.arange(len(sample)).split(max_batch):
            numbers, origin, end = sample[some], i[some], j[some]
            x, first = record.states[numbers, nodes[origin]], record.predictions[numbers, nodes[origin]]
            denoise = Denoise(denoiser, problem.process, take(cond, numbers))
            reached = solver.finish(x, first, times[origin], times[end], denoise)
            missed = entries.of(reached).double() - entries.of(record.states[numbers, nodes[end]]).double()
            squares[some] = missed.square().mean(1).cpu()
        return squares

    facts = {
        "solver": solver.facts,
        "max_batch": max_batch,
        "nodes": nodes.tolist(),
        **entries.facts,
    }
    squares = trajectories.once("two-stage errors", (record.states, record.predictions, cond), errors, **facts)
    table = torch.zeros(2, samples, len(nodes), len(nodes), dtype=torch.float64)
    table[:, sample, i, j] = torch.stack([squares, squares.sqrt()])
    return table.sum(1).masked_fill(~torch.ones(len(nodes), len(nodes), dtype=torch.bool).triu(1), torch.inf)
