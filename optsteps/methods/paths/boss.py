"""Bellman Optimal Stepsize Straightening (Nguyen et al., arXiv:2312.16414), its search for the times."""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.methods.paths.base import EulerPath, flow_coordinates
from optsteps.methods.paths.teacher_table import TeacherTable


class BOSS(EulerPath):
    """The path of least total squared error of Euler's steps, each from the teacher's own state (Algorithm 1).

    c(i, j) = E ||x_i + (t_j - t_i) v_i - x_j||^2 in flow coordinates, x / (alpha + sigma); the sum over pixels is taken
    as their mean, which changes no path. The authors take a teacher of 100 Euler steps at uniform times and 100
    samples. An Euler teacher's own steps cost nothing here, so it should have several times the student's steps. The
    authors' second half, which tunes the network afterwards, is `optsteps.models.training.StraighteningTraining`.

    Args:
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.
    """

    name = "boss"

    def costs(self, table: TeacherTable) -> Tensor:
        scale = flow_coordinates(table.process, table.times)[:, None]
        costs = torch.full((table.steps + 1, table.steps + 1), torch.inf, dtype=torch.float64)
        for i in range(table.steps):
            costs[i, i + 1 :] = table.squares(table.missed(i) / scale[i + 1 :]).sum(0)
        return costs
