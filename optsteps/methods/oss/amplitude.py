"""Amplitude calibration (OSS, arXiv:2503.21774, eq. 13): few-step states brought to the teacher's range of values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from optsteps.conditions import take
from optsteps.denoisers import CountedDenoiser
from optsteps.methods.base import SearchProblem
from optsteps.sampling import calibrated
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, State
from optsteps.trajectories import Trajectories

QUANTILES = (0.05, 0.95)


@torch.no_grad()
def calibrate_amplitude(problem: SearchProblem, schedule: Schedule, max_batch: int = 512) -> tuple[Schedule, float]:
    """`schedule` with an amplitude, and the network evaluations per sample that it cost.

    At every time an affine map per channel (dimension 1) takes the 5 % and 95 % quantiles of the student's values, the
    earlier maps applied, to those of the teacher's. Both are taken over all samples and pixels of the problem, so the
    map is fixed: it travels with the schedule, and a sample does not depend on its batch.

    Args:
        problem: its samples are the calibration set; the paper uses 512.
        schedule: its times must be times of the teacher.
        max_batch: most samples in one call of the denoiser.

    Raises:
        ValueError: a time of the schedule that the teacher does not visit.
    """
    visited = problem.teacher.times[:, None] == schedule.times[None, :]
    if not bool(visited.any(0).all()):
        missing = schedule.times[~visited.any(0)][0].item()
        raise ValueError(f"amplitude is calibrated at the teacher's times, and {missing!r} is not one of them")
    nodes = visited.long().argmax(0)
    denoiser = CountedDenoiser(problem.denoiser)
    trajectories = Trajectories(problem.denoiser, max_batch, problem.cache)
    parts = range(0, len(problem.noise), max_batch)
    conds = [take(problem.cond, slice(i, i + max_batch)) for i in parts]
    noise = problem.noise.split(max_batch)
    walker = problem.teacher_solver or problem.solver
    teacher = torch.cat(
        [
            trajectories.states(problem.teacher, walker, part, cond)[:, nodes.to(part.device)]
            for part, cond in zip(noise, conds, strict=True)
        ]
    )
    student = [part * schedule.scale.to(part) for part in noise]
    states: list[State] = [()] * len(student)
    amplitude = torch.zeros(schedule.steps, problem.noise.shape[1], 2, dtype=torch.float64)
    amplitude[..., 0] = 1.0
    found = schedule
    for i, move in enumerate(problem.solver.moves(schedule, problem.noise)):
        for part, cond in enumerate(conds):
            denoise = Denoise(denoiser, problem.process, cond)
            student[part], states[part] = move(states[part], student[part], denoise)
        amplitude[i] = _affine(torch.cat(student), teacher[:, i + 1])
        found = Schedule(
            schedule.times, schedule.process, schedule.orders, schedule.initial_scale, amplitude, schedule.metadata
        )
        student = [calibrated(found, i, x) for x in student]
    return found, (trajectories.evaluations + denoiser.evaluations) / len(problem.noise)


def _affine(student: Tensor, teacher: Tensor) -> Tensor:
    """Gain and offset per channel [C, 2] that take the quantiles of student [B, C, ...] to those of teacher."""
    (low, high), (wanted_low, wanted_high) = (_quantiles(x) for x in (student, teacher))
    gain = torch.where(high > low, (wanted_high - wanted_low) / (high - low), 1.0)
    return torch.stack([gain, wanted_low - gain * low], dim=1)


def _quantiles(x: Tensor) -> Tensor:
    # numpy, because torch.quantile refuses more than 2^24 values
    values = x.detach().double().transpose(0, 1).flatten(1).cpu().numpy()
    return torch.from_numpy(np.quantile(values, QUANTILES, axis=1))
