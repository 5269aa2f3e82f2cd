"""Classes of diffusers' schedulers: the argument that tells each a schedule, and the settings that leave it as given.

Nothing here needs diffusers to be importable.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optsteps.deprecation import old_names
from optsteps.export.carried import check_nothing_carried
from optsteps.processes import Process
from optsteps.schedules import Schedule

Takes = Literal["timesteps", "sigmas", "levels", "ramp"]


# the scheduler nearest to a solver of optsteps, under every process that has one
SCHEDULERS: dict[str, dict[str, str]] = {
    "euler": {
        "vp": "EulerDiscreteScheduler",
        "edm": "EDMEulerScheduler",
        "flow": "FlowMatchEulerDiscreteScheduler",
    },
    "heun": {"vp": "HeunDiscreteScheduler", "flow": "FlowMatchHeunDiscreteScheduler"},
    "dpmpp_2m": {
        "vp": "DPMSolverMultistepScheduler",
        "edm": "EDMDPMSolverMultistepScheduler",
        "flow": "DPMSolverMultistepScheduler",
    },
    "dpmpp_2s": {"vp": "DPMSolverSinglestepScheduler", "flow": "DPMSolverSinglestepScheduler"},
    "deis": {"vp": "DEISMultistepScheduler", "flow": "DEISMultistepScheduler"},
    "unipc": {"vp": "UniPCMultistepScheduler", "flow": "UniPCMultistepScheduler"},
}


@dataclass(frozen=True)
class SchedulerKind:
    """Properties of a class of schedulers.

    Attributes:
        takes: for every process it can run, the argument of `set_timesteps` that tells it a schedule: "timesteps",
            "sigmas" (without the last), "levels" (sigmas with the last), "ramp" (positions on Karras' curve), or None
            where it takes none.
        stages: evaluations per step.
        scaled: its samples are x / alpha, whose scale at the start is the noise level.
        table: the attribute that its `step` reads the levels from.
        orders: when it lowers the order of its last steps, if a setting steers that: "few" (in runs of less than 15
            steps) or "always"; None where no setting does.
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
_INTEGERS = SchedulerKind({"vp": "timesteps"}, table="alphas_cumprod")
KINDS: dict[str, SchedulerKind] = {
    "EulerDiscreteScheduler": SchedulerKind({"vp": "levels", "edm": "levels"}, scaled=True),
    "EulerAncestralDiscreteScheduler": SchedulerKind({"vp": None}, scaled=True),
    "HeunDiscreteScheduler": SchedulerKind({"vp": "timesteps"}, stages=2, scaled=True),
    "LMSDiscreteScheduler": SchedulerKind({"vp": None}, scaled=True),
    "DPMSolverMultistepScheduler": SchedulerKind({"vp": "timesteps", "flow": None}, orders="few"),
    "DPMSolverSinglestepScheduler": SchedulerKind({"vp": "timesteps", "flow": None}, below_one=_BELOW_ONE),
    "DEISMultistepScheduler": SchedulerKind({"vp": None, "flow": None}, orders="few", below_one=_BELOW_ONE),
    "UniPCMultistepScheduler": SchedulerKind({"vp": None, "flow": "sigmas"}, orders="always", below_one=_BELOW_ONE),
    "IPNDMScheduler": SchedulerKind({"vp": None}, table="alphas"),
    "EDMEulerScheduler": SchedulerKind({"edm": "ramp"}, scaled=True),
    "EDMDPMSolverMultistepScheduler": SchedulerKind({"edm": None}, scaled=True, orders="few"),
    "FlowMatchEulerDiscreteScheduler": SchedulerKind({"flow": "sigmas"}),
    "FlowMatchHeunDiscreteScheduler": SchedulerKind({"flow": None}, stages=2),
    "FlowMatchLCMScheduler": SchedulerKind({"flow": "sigmas"}),
    "LTXEulerAncestralRFScheduler": SchedulerKind({"flow": "levels"}),
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
    """The names of the settings that the constructor of a scheduler, or of a class, takes."""
    return set(inspect.signature(scheduler.__init__).parameters)


def unapplied(scheduler: Any) -> Any:
    """The scheduler that `optsteps.apply` made this one from, or the scheduler itself."""
    return getattr(scheduler, "_optsteps_original", scheduler)


def kind_of(name: str, process: Process) -> SchedulerKind:
    """The properties of the class `name`.

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
        able = [other for other, properties in KINDS.items() if process.name in properties.takes]
        raise ValueError(
            f"{name} samples under a process of the kind {' or '.join(kind.takes)}, and the schedule's is {process!r}; "
            f"take one of {', '.join(able)}"
        )
    return kind


def neutral_settings(schedule: Schedule, kind: SchedulerKind, names: Collection[str]) -> dict[str, Any]:
    """The settings under which a scheduler leaves a schedule as it is given; only those among `names`."""
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
    return {key: value for key, value in settings.items() if key in names}


def check_applicable(schedule: Schedule) -> None:
    """Raises ValueError for a schedule with an amplitude, weights or told times."""
    check_nothing_carried(schedule, "which no scheduler of diffusers applies")


def default_scheduler(schedule: Schedule) -> str:
    """The class of the scheduler nearest to the solver that the schedule was searched with, else of Euler's method."""
    return _nearest(str(schedule.metadata.get("solver", "euler")), schedule.process)


def missing_solver(solver: str, process: Process) -> list[str]:
    """A sentence where no scheduler is known for a solver under a process, so that Euler's method takes its place."""
    if process.name in SCHEDULERS.get(solver, {}):
        return []
    return [
        f"no scheduler of diffusers is known that runs a given schedule with {solver} under this process: the export "
        f"takes {_nearest(solver, process)}, another solver than the schedules are for"
    ]


def _nearest(solver: str, process: Process) -> str:
    return SCHEDULERS.get(solver, {}).get(process.name, SCHEDULERS["euler"][process.name])


__getattr__ = old_names(__name__, Kind="SchedulerKind")
