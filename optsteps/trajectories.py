"""Teacher trajectories: the states of the many-step sampler that students are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver


def trajectory(
    denoiser: Denoiser, schedule: Schedule, solver: Solver, noise: Tensor, cond: Cond = None, max_batch: int = 512
) -> Tensor:
    """States at every time of `schedule`, sample first: [B, n+1, ...], computed at most `max_batch` samples at once.

    Raises as `sample`.
    """
    parts = [
        sample(denoiser, schedule, solver, part, take(cond, slice(i, i + max_batch)), return_trajectory=True)
        for i, part in zip(range(0, len(noise), max_batch), noise.split(max_batch), strict=True)
    ]
    return torch.cat([part.transpose(0, 1) for part in parts])


def end_points(
    denoiser: Denoiser, schedule: Schedule, solver: Solver, noise: Tensor, cond: Cond = None, max_batch: int = 512
) -> Tensor:
    """Last states only: [B, ...], computed at most `max_batch` samples at once. Raises as `sample`."""
    return torch.cat(
        [
            sample(denoiser, schedule, solver, part, take(cond, slice(i, i + max_batch)))
            for i, part in zip(range(0, len(noise), max_batch), noise.split(max_batch), strict=True)
        ]
    )
