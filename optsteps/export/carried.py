"""What a schedule carries beside times, orders and a scale: only this package's own sampler obeys it."""

from __future__ import annotations

from optsteps.schedules import Schedule

# what each part is, and how to come by a schedule without it
_PARTS = {
    "amplitude": ("an amplitude after every step", "search with amplitude=false, or sample with optsteps.sample"),
    "weights": (
        "weights of its own for a solver's remembered outputs",
        "sample with optsteps.sample, or in a pipeline of diffusers with optsteps.apply, which obey them",
    ),
    "told_times": (
        "times of its own that the network is told at its steps",
        "sample with optsteps.sample, or in a pipeline of diffusers with optsteps.apply, which obey them",
    ),
}


def check_nothing_carried(schedule: Schedule, reason: str) -> None:
    """Raises ValueError for a schedule with an amplitude, weights or told times.

    Args:
        reason: why the tool cannot obey them, as a clause such as "which a list of sigmas cannot say".
    """
    for name in _PARTS:
        check_not_carried(schedule, name, reason)


def check_not_carried(schedule: Schedule, name: str, reason: str) -> None:
    """Raises ValueError for a schedule with the part of this name, as `check_nothing_carried`."""
    if getattr(schedule, name) is not None:
        what, remedy = _PARTS[name]
        raise ValueError(f"the schedule has {what}, {reason}; {remedy}")


def check_plain_start(schedule: Schedule, form: str) -> None:
    """Raises ValueError for a schedule that starts from noise of another scale than the process's own.

    Args:
        form: what cannot say so, such as "a list of sigmas".
    """
    prior_scale = float(schedule.process.prior_std(schedule.times[0]))
    if schedule.initial_scale is not None and abs(schedule.initial_scale / prior_scale - 1) > 1e-4:
        raise ValueError(
            f"the schedule starts from noise times {schedule.initial_scale:g} where samplers start from noise times "
            f"{prior_scale:g}, which {form} cannot say; search with start=teacher"
        )
