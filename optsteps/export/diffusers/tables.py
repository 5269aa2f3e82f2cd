"""Tables of diffusers' schedulers: the numbers a pipeline calls its network with, and the levels of the steps.

A schedule is put in the scheduler's own units, the scheduler's tables are read back, and the two are compared: a
scheduler is believed only as far as it has been run. Nothing here needs diffusers to be importable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optsteps.export.diffusers.scheduler_config import calls_with_arctan
from optsteps.export.diffusers.schedulers import SchedulerKind, class_name
from optsteps.processes import VP, Process
from optsteps.schedules import Schedule

# a table agrees with a schedule if its levels do to this, absolutely below 1 and relatively above ...
LEVEL_TOLERANCE = 1e-5
# ... and its calls of the network to this, of timesteps that number a thousand: EulerDiscreteScheduler interpolates
# them in float32 and misses by up to 3e-4
TIMESTEP_TOLERANCE = 1e-3
# of the log noise levels that networks under EDM are called with
LOG_LEVEL_TOLERANCE = 1e-5
# diffusers' schedulers that hold levels take alpha_bar at a zero terminal SNR for 2^-24
TERMINAL_LEVEL = (2**24 - 1) ** 0.5


@dataclass(frozen=True)
class Tables:
    """Tables of a run of n steps.

    Attributes:
        timesteps: the numbers that the network is called with [n].
        levels: the noise levels, or a flow's times, that the steps go between [n+1].
    """

    timesteps: Tensor
    levels: Tensor


def network_calls(schedule: Schedule, scheduler: Any) -> Tensor:
    """The numbers that a pipeline calls the network with at the schedule's times, float64 [n+1].

    At EDM's noise level 0 the number is infinite.
    """
    return called_with(schedule.times.detach().cpu(), schedule.process, scheduler)


def called_with(times: Tensor, process: Process, scheduler: Any) -> Tensor:
    """The numbers that a pipeline with this scheduler calls the network with at `times` [n], float64 [n]."""
    if process.name == "edm":
        return times.atan() / (math.pi / 2) if calls_with_arctan(scheduler) else 0.25 * times.log()
    if process.name == "vp":
        return times
    return _clock(times, scheduler) * scheduler.config.num_train_timesteps


def time_called_with(number: float, process: Process, scheduler: Any) -> float:
    """The time at which a network is called with `number`: the inverse of `called_with`."""
    if process.name == "edm":
        return math.tan(math.pi / 2 * number) if calls_with_arctan(scheduler) else math.exp(4 * number)
    if process.name == "vp":
        return number
    t = number / scheduler.config.num_train_timesteps
    return 1 - t if getattr(scheduler.config, "invert_sigmas", False) else t


def schedule_tables(schedule: Schedule, scheduler: Any, kind: SchedulerKind) -> Tables:
    """The schedule in the units of a scheduler, float64: noise levels, or the times of a flow.

    Where the schedule starts at zero SNR, a scheduler that holds its levels has a finite one, `TERMINAL_LEVEL`.
    """
    t, process = schedule.times.detach().cpu(), schedule.process
    levels = _clock(t, scheduler) if process.name == "flow" else process.noise_level(t)
    if process.name == "vp" and kind.table == "sigmas":
        levels[0] = _first_level(schedule)
    return Tables(network_calls(schedule, scheduler)[:-1], levels)


def starts_at_pure_noise(schedule: Schedule) -> bool:
    """Whether the noise level is infinite where the schedule starts."""
    return bool(schedule.process.alpha(schedule.times[0]) == 0)


def _first_level(schedule: Schedule) -> float:
    """The noise level that the schedule starts from, finite for zero terminal SNR.

    The finite level lies above the second, which with linear betas may be higher than `TERMINAL_LEVEL`.
    """
    first, second = schedule.noise_levels[:2].tolist()
    return max(TERMINAL_LEVEL, 2 * second) if starts_at_pure_noise(schedule) else first


def on_timesteps(times: Tensor) -> bool:
    """Whether these times, counted in timesteps, are integers but for rounding."""
    return bool(((times - times.round()).abs() <= TIMESTEP_TOLERANCE).all())


def _clock(t: Tensor, scheduler: Any) -> Tensor:
    """A flow's times by the scheduler's clock, which for some models runs from 0 at noise to 1."""
    return 1 - t if getattr(scheduler.config, "invert_sigmas", False) else t


def scheduler_tables(scheduler: Any, kind: SchedulerKind) -> Tables:
    """The tables that a scheduler holds after `set_timesteps`, one entry for each step."""
    timesteps = scheduler.timesteps.detach().cpu().double()
    if kind.table == "alphas_cumprod":
        levels = _trained_levels(scheduler)
        last = levels[:1] if class_name(scheduler) == "TCDScheduler" else levels.new_zeros(1)
        return Tables(timesteps, torch.cat([levels[timesteps.long()], last]))
    if kind.table == "alphas":
        return Tables(timesteps, scheduler.betas.cpu().double() / scheduler.alphas.cpu().double())
    levels = torch.as_tensor(scheduler.sigmas).detach().cpu().double()
    if kind.stages == 2:
        # a, b, b, c, c, and for the levels the last
        once = [torch.cat([table[:1], table[1::2]]) for table in (timesteps, levels[:-1])]
        return Tables(once[0], torch.cat([once[1], levels[-1:]]))
    return Tables(timesteps, levels)


def _trained_levels(scheduler: Any) -> Tensor:
    alpha_bar = scheduler.alphas_cumprod.detach().cpu().double()
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def check_trained_on(schedule: Schedule, scheduler: Any) -> None:
    """Raises ValueError unless the scheduler's betas are those of the schedule's VP process."""
    process = schedule.process
    if not isinstance(process, VP) or not hasattr(scheduler, "alphas_cumprod"):
        return
    theirs, name = _trained_levels(scheduler), class_name(scheduler)
    if len(theirs) != process.t_limit + 1:
        raise ValueError(
            f"{name} has {len(theirs)} timesteps and the schedule's process has {process.t_limit + 1:g}: they belong "
            "to different models"
        )
    ours = process.noise_level(torch.arange(len(theirs)))
    if torch.inf in (theirs[-1], ours[-1]):  # zero terminal SNR, which schedulers that hold levels call TERMINAL_LEVEL
        theirs[-1], ours[-1] = (levels[-1].clamp(max=TERMINAL_LEVEL) for levels in (theirs, ours))
    # 0.1 % is lost in float32 at the clean end
    apart = ~((theirs / ours).log().abs() <= 1e-3)
    if bool(apart.any()):
        t = int(apart.nonzero()[0])
        raise ValueError(
            f"{name} has noise level {theirs[t].item():g} at timestep {t}, and the schedule's process {process!r} has "
            f"{ours[t].item():g}: they belong to different models; take the scheduler of the model the schedule is for"
        )


def check_tables(name: str, schedule: Schedule, expected: Tables, actual: Tables) -> None:
    """Raises ValueError, naming the first step that differs, unless a scheduler's tables are the expected ones."""
    if len(actual.timesteps) != len(expected.timesteps) or len(actual.levels) != len(expected.levels):
        raise ValueError(
            f"{name} calls the network at {len(actual.timesteps)} times for the {schedule.steps} steps of this schedule"
        )
    tolerance = LOG_LEVEL_TOLERANCE if schedule.process.name == "edm" else TIMESTEP_TOLERANCE
    # written so that NaN is no agreement
    late = ~((actual.timesteps - expected.timesteps).abs() <= tolerance)
    off = (actual.levels != expected.levels) & ~(
        (actual.levels - expected.levels).abs() <= LEVEL_TOLERANCE * expected.levels.clamp(min=1.0)
    )
    for step in range(schedule.steps):
        begin = f"step {step} of {schedule.steps} with {name}"
        if bool(late[step]):
            raise ValueError(_differs(f"{begin} calls the network at", actual.timesteps, expected.timesteps, step))
        if bool(off[step]):
            raise ValueError(_differs(f"{begin} starts from level", actual.levels, expected.levels, step))
    if bool(off[-1]):
        hint = " (build_schedule(..., final='zero') ends there)" if actual.levels[-1] == 0 else ""
        raise ValueError(
            _differs(f"the last step with {name} ends at level", actual.levels, expected.levels, -1) + hint
        )


def _differs(beginning: str, actual: Tensor, expected: Tensor, position: int) -> str:
    values = (actual[position].item(), expected[position].item())
    # as many digits as tell them apart
    pairs = ([f"{value:.{digits}g}" for value in values] for digits in range(4, 17))
    texts = next((pair for pair in pairs if pair[0] != pair[1]), ["nan", f"{values[1]:.9g}"])
    return f"{beginning} {texts[0]}, where the schedule has {texts[1]}"


def noise_ratio(schedule: Schedule, scheduler: Any, kind: SchedulerKind) -> float:
    """The factor by which latents of a pipeline must be multiplied to start where the schedule does."""
    scheduler_scale = float(scheduler.init_noise_sigma) if kind.scaled else 1.0
    return start_scale(schedule, kind) / scheduler_scale


def start_scale(schedule: Schedule, kind: SchedulerKind) -> float:
    """The scale of the noise that a scheduler's first sample is, in the scheduler's coordinates."""
    scale = float(schedule.scale.detach())
    if not kind.scaled:
        return scale
    # x / alpha; where alpha is 0, the scale of a large finite level
    alpha = schedule.process.alpha(schedule.times[0].detach())
    return scale / float(alpha) if alpha > 0 else scale * math.hypot(1.0, _first_level(schedule))
