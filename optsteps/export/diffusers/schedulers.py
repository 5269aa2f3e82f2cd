"""What is known of diffusers' schedulers: how each is told a schedule, and the tables it then runs.

A scheduler walks two tables: the numbers its pipeline calls the network with, and the levels its `step` goes between.
Here a `Schedule` is put in the scheduler's own units, a scheduler's tables are read back, and the two are compared:
nothing is believed of a scheduler that has not been run. Nothing here needs diffusers to be importable.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

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

Takes = Literal["timesteps", "sigmas", "levels", "ramp"]


@dataclass(frozen=True)
class Kind:
    """What a class of schedulers is like.

    Attributes:
        takes: for every process it can run, the argument of `set_timesteps` that tells it a schedule: "timesteps",
            "sigmas" (without the last), "levels" (sigmas with the last), "ramp" (positions on Karras' curve), or None
            where it takes none.
        stages: evaluations per step.
        scaled: its samples are x / alpha, which starts at the noise level.
        table: what its `step` reads the levels from.
        orders: where it lowers its order at the end, if that can be steered: "few" (below 15 steps) or "always".
        below_one: a flow's first level is kept this far below 1, where its formula has a value.
    """

    takes: Mapping[str, Takes | None]
    stages: int = 1
    scaled: bool = False
    table: Literal["sigmas", "alphas_cumprod", "alphas"] = "sigmas"
    orders: Literal["few", "always"] | None = None
    below_one: float = 0.0


# how far below 1 UniPCMultistepScheduler itself keeps a flow's level, whose logarithm of alpha it takes
_BELOW_ONE = 1e-6
_INTEGERS = Kind({"vp": "timesteps"}, table="alphas_cumprod")
KINDS: dict[str, Kind] = {
    "EulerDiscreteScheduler": Kind({"vp": "levels", "edm": "levels"}, scaled=True),
    "EulerAncestralDiscreteScheduler": Kind({"vp": None}, scaled=True),
    "HeunDiscreteScheduler": Kind({"vp": "timesteps"}, stages=2, scaled=True),
    "LMSDiscreteScheduler": Kind({"vp": None}, scaled=True),
    "DPMSolverMultistepScheduler": Kind({"vp": "timesteps", "flow": None}, orders="few"),
    "DPMSolverSinglestepScheduler": Kind({"vp": "timesteps", "flow": None}, below_one=_BELOW_ONE),
    "DEISMultistepScheduler": Kind({"vp": None, "flow": None}, orders="few", below_one=_BELOW_ONE),
    "UniPCMultistepScheduler": Kind({"vp": None, "flow": "sigmas"}, orders="always", below_one=_BELOW_ONE),
    "IPNDMScheduler": Kind({"vp": None}, table="alphas"),
    "EDMEulerScheduler": Kind({"edm": "ramp"}, scaled=True),
    "EDMDPMSolverMultistepScheduler": Kind({"edm": None}, scaled=True, orders="few"),
    "FlowMatchEulerDiscreteScheduler": Kind({"flow": "sigmas"}),
    "FlowMatchHeunDiscreteScheduler": Kind({"flow": None}, stages=2),
    "FlowMatchLCMScheduler": Kind({"flow": "sigmas"}),
    "LTXEulerAncestralRFScheduler": Kind({"flow": "levels"}),
    "DDPMScheduler": _INTEGERS,
    "DDPMParallelScheduler": _INTEGERS,
    "LCMScheduler": _INTEGERS,
    "TCDScheduler": _INTEGERS,
}

# schedulers that step by the spacing of a grid of their own, whatever list of times they hold
_OWN_GRID = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "CogVideoXDDIMScheduler",
    "PNDMScheduler",
)

# settings that bend a given schedule, and what they must be
_STRAIGHT: dict[str, Any] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_dynamic_shifting": False,
    "shift": 1.0,
    "flow_shift": 1.0,
    "shift_terminal": None,
    "interpolation_type": "linear",
    "sigma_schedule": "karras",
}


def class_name(scheduler: Any) -> str:
    """The name of a scheduler's class, as diffusers has it."""
    return next((part.__name__ for part in type(scheduler).__mro__ if part.__name__ in KINDS), type(scheduler).__name__)


def parameters_of(scheduler: Any) -> set[str]:
    """The settings that a scheduler's class, or the class given, knows."""
    return set(inspect.signature(scheduler.__init__).parameters)


def unapplied(scheduler: Any) -> Any:
    """The scheduler that `optsteps.apply` made this one from, or the scheduler itself."""
    return getattr(scheduler, "_optsteps_original", scheduler)


def kind_of(name: str, process: Process) -> Kind:
    """What the class `name` is like.

    Raises:
        ValueError: the class steps by a grid of its own, is not known, or does not run `process`.
    """
    if name in _OWN_GRID:
        raise ValueError(
            f"{name} computes the time a step ends at from the spacing of its own grid, so it can run no other; "
            "EulerDiscreteScheduler takes the same steps as DDIM between any times"
        )
    if name not in KINDS:
        raise ValueError(f"how {name} is told a schedule is not known; known schedulers: {', '.join(KINDS)}")
    kind = KINDS[name]
    if process.name not in kind.takes:
        able = [other for other, known in KINDS.items() if process.name in known.takes]
        raise ValueError(
            f"{name} samples under a process of the kind {' or '.join(kind.takes)}, and the schedule's is {process!r}; "
            f"take one of {', '.join(able)}"
        )
    return kind


def straightened(schedule: Schedule, kind: Kind, known: Collection[str]) -> dict[str, Any]:
    """The settings under which a scheduler leaves the schedule as it is given, of those `known` to its class."""
    process, clean = schedule.process, schedule.ends_clean
    settings = dict(_STRAIGHT)
    settings["use_flow_sigmas"] = process.name == "flow"
    if process.name == "flow":
        settings["prediction_type"] = "flow_prediction"
    settings["final_sigmas_type"] = "zero" if clean else "sigma_min"
    if kind.scaled:
        # these start noise at sqrt(1 + level^2) for "leading", which is unit variance under VP, otherwise at the level
        settings["timestep_spacing"] = "leading" if process.name == "vp" else "linspace"
    if schedule.orders is not None:
        settings["solver_order"] = max(schedule.orders)
    return {key: value for key, value in settings.items() if key in known}


@dataclass(frozen=True)
class Tables:
    """What a scheduler runs: the numbers the network is called with [n], and the levels of the n steps [n+1]."""

    timesteps: Tensor
    levels: Tensor


def network_calls(schedule: Schedule, scheduler: Any) -> Tensor:
    """What a pipeline calls the network with at the schedule's times, float64 [n+1]; infinite at EDM's level 0."""
    t, process = schedule.times.detach().cpu(), schedule.process
    if process.name == "edm":
        return 0.25 * t.log()
    if process.name == "vp":
        return t
    return _clock(t, scheduler) * scheduler.config.num_train_timesteps


def wanted_tables(schedule: Schedule, scheduler: Any, kind: Kind) -> Tables:
    """The schedule in the units of a scheduler, float64: noise levels, or the times of a flow.

    A scheduler that holds its levels has a finite one, `TERMINAL_LEVEL`, where the schedule starts at zero SNR.
    """
    t, process = schedule.times.detach().cpu(), schedule.process
    levels = _clock(t, scheduler) if process.name == "flow" else process.noise_level(t)
    if process.name == "vp" and kind.table == "sigmas":
        levels[0] = _first_level(schedule)
    return Tables(network_calls(schedule, scheduler)[:-1], levels)


def starts_at_pure_noise(schedule: Schedule) -> bool:
    """Is the noise level infinite where it starts?"""
    return bool(schedule.process.alpha(schedule.times[0]) == 0)


def _first_level(schedule: Schedule) -> float:
    """The noise level it starts from; a finite one for zero terminal SNR, above the next, which with linear betas may
    be higher than `TERMINAL_LEVEL`."""
    first, second = schedule.noise_levels[:2].tolist()
    return max(TERMINAL_LEVEL, 2 * second) if starts_at_pure_noise(schedule) else first


def on_timesteps(times: Tensor) -> bool:
    """Are these times, counted in timesteps, integers but for rounding?"""
    return bool(((times - times.round()).abs() <= TIMESTEP_TOLERANCE).all())


def _clock(t: Tensor, scheduler: Any) -> Tensor:
    """A flow's times as a scheduler has them: for some models they run from 0, noise, to 1."""
    return 1 - t if getattr(scheduler.config, "invert_sigmas", False) else t


def read_tables(scheduler: Any, kind: Kind) -> Tables:
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
    kept = scheduler.alphas_cumprod.detach().cpu().double()
    return ((1 - kept) / kept).sqrt()


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


def check_tables(name: str, schedule: Schedule, wanted: Tables, found: Tables) -> None:
    """Raises ValueError, naming the first step that differs, unless a scheduler's tables are the wanted ones."""
    if len(found.timesteps) != len(wanted.timesteps) or len(found.levels) != len(wanted.levels):
        raise ValueError(
            f"{name} calls the network at {len(found.timesteps)} times for the {schedule.steps} steps of this schedule"
        )
    tolerance = LOG_LEVEL_TOLERANCE if schedule.process.name == "edm" else TIMESTEP_TOLERANCE
    # written so that NaN is no agreement
    late = ~((found.timesteps - wanted.timesteps).abs() <= tolerance)
    off = (found.levels != wanted.levels) & ~(
        (found.levels - wanted.levels).abs() <= LEVEL_TOLERANCE * wanted.levels.clamp(min=1.0)
    )
    for step in range(schedule.steps):
        begin = f"step {step} of {schedule.steps} with {name}"
        if bool(late[step]):
            raise ValueError(_differs(f"{begin} calls the network at", found.timesteps, wanted.timesteps, step))
        if bool(off[step]):
            raise ValueError(_differs(f"{begin} starts from level", found.levels, wanted.levels, step))
    if bool(off[-1]):
        hint = " (build_schedule(..., final='zero') ends there)" if found.levels[-1] == 0 else ""
        raise ValueError(_differs(f"the last step with {name} ends at level", found.levels, wanted.levels, -1) + hint)


def _differs(beginning: str, found: Tensor, wanted: Tensor, position: int) -> str:
    # as many digits as tell them apart
    both = next(
        (pair for n in range(4, 17) if len(set(pair := [f"{x[position].item():.{n}g}" for x in (found, wanted)])) > 1),
        ["nan", f"{wanted[position].item():.9g}"],
    )
    return f"{beginning} {both[0]}, where the schedule has {both[1]}"


def check_amplitude(schedule: Schedule) -> None:
    """Raises ValueError for a schedule with an amplitude, which no scheduler of diffusers applies."""
    if schedule.amplitude is not None:
        raise ValueError(
            "the schedule has an amplitude after every step, which no scheduler of diffusers applies; search with "
            "amplitude=false"
        )


def run_orders(scheduler: Any, kind: Kind, steps: int, clean: bool) -> list[int] | None:
    """The orders that a multistep scheduler gives its steps, None where they cannot be steered."""
    if kind.orders is None:
        return None
    config, ahead = scheduler.config, range(steps, 0, -1)
    lowered = config.lower_order_final and (kind.orders == "always" or steps < 15)
    orders = [min(i + 1, config.solver_order, left if lowered else steps) for i, left in enumerate(ahead)]
    if clean or getattr(config, "euler_at_final", False):
        orders[-1] = 1
    return orders


def effective_orders(schedule: Schedule, orders: Sequence[int]) -> list[int]:
    """The orders that its steps have if they are asked for `orders`: no more than there are outputs to remember, of
    which one at an infinite noise level is none, and 1 to noise level 0."""
    forgotten = starts_at_pure_noise(schedule)
    effective = [min(max(i + 1 - forgotten, 1), order) for i, order in enumerate(orders)]
    if schedule.ends_clean:
        effective[-1] = 1
    return effective


def noise_ratio(schedule: Schedule, scheduler: Any, kind: Kind) -> float:
    """What latents of a pipeline must be multiplied by to start where the schedule does; 1 where they are right."""
    own = float(scheduler.init_noise_sigma) if kind.scaled else 1.0
    return start_scale(schedule, kind) / own


def start_scale(schedule: Schedule, kind: Kind) -> float:
    """The scale of the noise that a scheduler's first sample is, in its own coordinates."""
    scale = float(schedule.scale.detach())
    if not kind.scaled:
        return scale
    # x / alpha, where alpha is 0 that of a large finite level
    alpha = schedule.process.alpha(schedule.times[0].detach())
    return scale / float(alpha) if alpha > 0 else scale * math.hypot(1.0, _first_level(schedule))
