"""Teacher trajectories: the states of the many-step sampler that students are measured against."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from optsteps.conditions import Cond, take
from optsteps.denoisers import Denoiser
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers.base import Solver


def trajectory(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    noise: Tensor,
    cond: Cond = None,
    max_batch: int = 512,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """States at every time of `schedule`, sample first: [B, n+1, ...], computed at most `max_batch` samples at once.

    Arguments and errors as of `sample`.
    """
    walks = _walks(denoiser, schedule, solver, noise, cond, max_batch, seed, index, return_trajectory=True)
    return torch.cat([walk.transpose(0, 1) for walk in walks])


def end_points(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    noise: Tensor,
    cond: Cond = None,
    max_batch: int = 512,
    seed: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Last states only: [B, ...], computed at most `max_batch` samples at once. Arguments and errors as of `sample`."""
    return torch.cat(
        list(_walks(denoiser, schedule, solver, noise, cond, max_batch, seed, index, return_trajectory=False))
    )


def _walks(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    noise: Tensor,
    cond: Cond,
    max_batch: int,
    seed: int,
    index: Tensor | None,
    return_trajectory: bool,
) -> Iterator[Tensor]:
    """What `sample` returns, batch by batch."""
    index = torch.arange(len(noise)) if index is None else index
    for start in range(0, len(noise), max_batch):
        part = slice(start, start + max_batch)
        yield sample(denoiser, schedule, solver, noise[part], take(cond, part), seed, index[part], return_trajectory)
