"""Schedules of other step counts, by log-linear interpolation of noise levels (AYS, arXiv:2404.14507)."""

from __future__ import annotations

import torch
from torch import Tensor

from optsteps.processes import as_times
from optsteps.schedules.schedule import Schedule


def resampled(schedule: Schedule, steps: int) -> Schedule:
    """The schedule with another number of steps: its noise levels, read at equidistant positions and interpolated
    linearly in their logarithm, as AYS's authors do with their ten steps (arXiv:2404.14507).

    Times at positions that the schedule has itself are its own to the last bit, and so are both ends. Noise level 0 at
    the end stays a step of its own: the levels above it are resampled. An infinite level, as at a flow's t = 1, is
    interpolated as if it were that of `process.t_finite`.

    Args:
        steps: number of steps, at least 1. The schedule's own number returns the schedule itself.

    Raises:
        ValueError: fewer than one step; a schedule whose steps have orders, an amplitude, weights or told times, which
            no step between them has; a single step to noise level 0, which has no two levels to interpolate.
    """
    if steps != int(steps) or steps < 1:
        raise ValueError(f"a schedule is resampled to at least 1 step, a whole number, got {steps}")
    if steps == schedule.steps:
        return schedule
    if schedule.orders is not None or schedule.amplitude is not None or schedule.carried:
        raise ValueError(
            f"the {schedule.steps} steps of this schedule have orders, an amplitude, weights or told times, which do "
            f"not carry over to {steps} steps: search for {steps} steps, or search without orders "
            "(method.orders=fixed) and resample that"
        )
    times = schedule.times[:-1] if schedule.ends_clean else schedule.times
    intervals = int(steps) - schedule.ends_clean
    if len(times) == 1:
        raise ValueError(f"one step to noise level 0 has no two levels, and cannot be resampled to {steps} steps")
    process, levels = schedule.process, schedule.noise_levels[: len(times)]
    if bool(levels[0].isinf()):
        finite = process.noise_level(process.t_finite).maximum(2 * levels[1])
        levels = torch.cat([finite[None], levels[1:]])
    between = process.time_of_noise_level(log_linear(levels, intervals).clamp(levels[-1], levels[0]))
    position = _positions(levels, intervals)
    own = times[position.round().long()]
    resampled_times = torch.where(position == position.round(), own, between)
    if schedule.ends_clean:
        resampled_times = torch.cat([resampled_times, as_times([process.t_clean])])
    metadata = {**schedule.metadata, "resampled_from_steps": schedule.steps}
    return Schedule(resampled_times, process, initial_scale=schedule.initial_scale, metadata=metadata)


def log_linear(levels: Tensor, steps: int) -> Tensor:
    """Positive noise levels [k] at steps + 1 equidistant positions between the first and the last of them, interpolated
    linearly in their logarithm."""
    log_levels, position = levels.log(), _positions(levels, steps)
    below = position.floor().clamp(max=len(log_levels) - 2).long()
    return torch.lerp(log_levels[below], log_levels[below + 1], position - below).exp()


def _positions(levels: Tensor, steps: int) -> Tensor:
    """Equidistant positions [steps+1] from the first level, 0, to the last, len(levels) - 1."""
    return torch.linspace(0, len(levels) - 1, steps + 1, dtype=torch.float64)
