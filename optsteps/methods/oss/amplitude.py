"""Amplitude calibration (OSS, arXiv:2503.21774, eq. 13): maps that bring few-step states to the teacher's range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from optsteps.conditions import take
from optsteps.denoisers import counting
from optsteps.methods.base import SearchProblem
from optsteps.sampling import calibrated
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, State
from optsteps.trajectories import Trajectories

QUANTILES = (0.05, 0.95)


@torch.no_grad()
def calibrate_amplitude(problem: SearchProblem, schedule: Schedule, max_batch: int = 512) -> tuple[Schedule, float]:
    """`schedule` with an amplitude, and the network evaluations per sample that the calibration took.

    At every time an affine map per channel (dimension 1) takes the 5 % and 95 % quantiles of the student's values, with
    the earlier maps applied, to those of the teacher's values. Both are taken over all samples and pixels of the
    problem. The map is therefore fixed: the schedule holds it, and a sample does not depend on its batch.

    Args:
        problem: its samples are the calibration set; the paper uses 512.
        schedule: its times must be times of the teacher.
        max_batch: most samples in one call of the denoiser.

    Raises:
        ValueError: the teacher does not visit a time of the schedule; weights or told times that the problem's solver
            cannot obey.
    """
    problem.solver.check(schedule)
    visited = problem.teacher.times[:, None] == schedule.times[None, :]
    if not bool(visited.any(0).all()):
        missing = schedule.times[~visited.any(0)][0].item()
        raise ValueError(f"amplitude is calibrated at the teacher's times, and {missing!r} is not one of them")
    nodes = visited.long().argmax(0)
    parts = range(0, len(problem.noise), max_batch)
    conds = [take(problem.cond, slice(i, i + max_batch)) for i in parts]
    noise = problem.noise.split(max_batch)
    student = [part * schedule.scale.to(part) for part in noise]
    states: list[State] = [()] * len(student)
    amplitude = torch.zeros(schedule.steps, problem.noise.shape[1], 2, dtype=torch.float64)
    amplitude[..., 0] = 1.0
    calibrated_schedule = schedule
    with counting(problem.denoiser) as denoiser:
        trajectories = Trajectories(denoiser, max_batch, problem.cache)
        teacher = torch.cat(
            [
                trajectories.states(problem.teacher, problem.walker, part, cond)[:, nodes.to(part.device)]
                for part, cond in zip(noise, conds, strict=True)
            ]
        )
        for i, move in enumerate(problem.solver.moves(schedule, problem.noise)):
            for part, cond in enumerate(conds):
                denoise = Denoise(denoiser, problem.process, cond).at(schedule, i)
                student[part], states[part] = move(states[part], student[part], denoise)
            amplitude[i] = _affine(torch.cat(student), teacher[:, i + 1])
            calibrated_schedule = replace(schedule, amplitude=amplitude)
            student = [calibrated(calibrated_schedule, i, x) for x in student]
    return calibrated_schedule, denoiser.evaluations / len(problem.noise)


def _affine(student: Tensor, teacher: Tensor) -> Tensor:
    """Gain and offset per channel [C, 2] that take the quantiles of student [B, C, ...] to those of teacher."""
    (low, high), (teacher_low, teacher_high) = (_quantiles(x) for x in (student, teacher))
    gain = torch.where(high > low, (teacher_high - teacher_low) / (high - low), 1.0)
    return torch.stack([gain, teacher_low - gain * low], dim=1)


def _quantiles(x: Tensor) -> Tensor:
    # numpy, because torch.quantile refuses more than 2^24 values
    values = x.detach().double().transpose(0, 1).flatten(1).cpu().numpy()
    return torch.from_numpy(np.quantile(values, QUANTILES, axis=1))
