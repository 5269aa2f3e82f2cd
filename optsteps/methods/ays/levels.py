"""Noise levels of AYS's schedules: the ends, the grid, hand-made starts, and the way back to a schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.between_ends import CHOSEN
from optsteps.schedules import Schedule, build_schedule

HIGHEST = 1000.0  # noise level of the grid, where the teacher starts at an infinite one


def ends(problem: SearchProblem) -> tuple[float, float]:
    """The teacher's first and last positive noise level.

    A flow's t = 1 counts as noise level 1000. There the denoiser sees next to nothing of the sample either, and the
    bound's integral is 1e-6 of that at noise level 1.
    """
    levels = problem.teacher.noise_levels
    return min(float(levels[0]), HIGHEST), float(levels[levels > 0][-1])


def grid(problem: SearchProblem, steps: int) -> Tensor:
    """Noise levels [steps+1], uniform in log, between the `ends`."""
    top, bottom = ends(problem)
    levels = torch.logspace(0, 1, steps + 1, base=bottom / top, dtype=torch.float64) * top
    levels[0], levels[-1] = top, bottom
    return levels


def as_schedule(problem: SearchProblem, levels: Tensor, metadata: dict[str, Any] | None = None) -> Schedule:
    """The schedule of positive noise levels, followed by 0 where the teacher's is.

    Ends that are the teacher's are copied exactly, with the scale of its noise. Other ends stay, and the metadata name
    the range.
    """
    times, described = problem.process.time_of_noise_level(levels), metadata or {}
    teacher, clean = problem.teacher.times, int(problem.teacher.ends_clean)
    top, bottom = ends(problem)
    at_top, at_bottom = (math.isclose(*pair, rel_tol=1e-9) for pair in ((levels[0], top), (levels[-1], bottom)))
    first = teacher[:1] if at_top else times[:1]
    last = teacher[-1 - clean : len(teacher) - clean] if at_bottom else times[-1:]
    times = torch.cat([first, times[1:-1], last, teacher[len(teacher) - clean :]])
    if not (at_top and at_bottom):
        described = {**described, "range": CHOSEN}
    scale = problem.teacher.initial_scale if at_top else None
    return Schedule(times, problem.process, initial_scale=scale, metadata=described)


def intervals(problem: SearchProblem, steps: int) -> int:
    """Number of the steps that the bound covers: all but the one to noise level 0.

    Raises:
        ValueError: there is none.
    """
    inner = steps - problem.teacher.ends_clean
    if inner < 1:
        raise ValueError(f"{steps} steps leave none above noise level 0, where the teacher ends")
    return inner


def positive_levels(problem: SearchProblem, schedule: Schedule) -> Tensor:
    """A start's noise levels above 0, between the `ends`."""
    levels = schedule.noise_levels
    return levels[levels > 0].clamp(max=ends(problem)[0])


def start_levels(problem: SearchProblem, family: str, steps: int) -> Tensor:
    """A hand-made schedule between the `ends` as noise levels [steps+1]."""
    t_max, t_min = problem.process.time_of_noise_level(ends(problem)).tolist()
    return build_schedule(family, problem.process, steps, t_max=t_max, t_min=t_min).noise_levels
