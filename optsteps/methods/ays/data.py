"""Samples that AYS measures on, the teacher's or the problem's clean ones, and the tables of them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.methods.base import SearchProblem
from optsteps.noise import sample_generator
from optsteps.trajectories import Trajectories


def teacher_samples(problem: SearchProblem, trajectories: Trajectories, index: Tensor, seed: int) -> Tensor:
    """The teacher's samples [b, ...] from the problem's noise `index` [b]."""
    noise, cond = problem.samples(index)
    return trajectories.ends(problem.teacher, problem.walker, noise, cond, seed, index)


def clean_data(problem: SearchProblem, trajectories: Trajectories, index: Tensor, seed: int) -> tuple[Tensor, Cond]:
    """The problem's clean samples with their cond; where it has none, the teacher's samples from its noise `index`."""
    if problem.data is not None:
        return problem.data, problem.data_cond
    return teacher_samples(problem, trajectories, index, seed), take(problem.cond, index)


def coupled_tables(
    problem: SearchProblem,
    trajectories: Trajectories,
    index: Tensor,
    teacher: Tensor | None,
    levels: Tensor,
    seed: int,
    block_size: int,
) -> list[CoupledTable]:
    """The tables on the noise levels [K+1] of a shard's data, in blocks; none where the shard has no data.

    Args:
        index: the shard's samples of the problem's noise [b].
        teacher: the teacher's samples [b, ...] of them, which are the data where the problem has none. Otherwise the
            data are the shard's share of the problem's.
        seed: of the noising paths.
        block_size: samples in a table.
    """
    if problem.data is None:
        assert teacher is not None
        numbers, data, cond = index, teacher, take(problem.cond, index)
    else:
        per_sample = len(problem.data) / len(problem.noise)
        first, last = (round(int(k) * per_sample) for k in (index[0], index[-1] + 1))
        numbers = torch.arange(first, last)
        data, cond = problem.data[first:last], take(problem.data_cond, numbers)
    facts = {"process": problem.process.to_dict(), "seed": seed, "max_batch": trajectories.max_batch}
    tables = []
    # a shard's share of few data may be none
    for block in torch.arange(len(numbers)).split(block_size) if len(numbers) else ():
        measure = partial(
            CoupledTable.measure,
            process=problem.process,
            data=data[block.to(data.device)],
            cond=take(cond, block),
            levels=levels,
            generators=[sample_generator(seed, int(k), stream=2) for k in numbers[block]],
            max_batch=trajectories.max_batch,
        )
        inputs = (measure.keywords["data"], measure.keywords["cond"], levels, numbers[block])
        tables.append(trajectories.once("coupled table", inputs, measure, **facts))
    return tables
