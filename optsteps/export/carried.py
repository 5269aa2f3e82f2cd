"""What a schedule carries beside times, orders and a scale: only this package's own sampler obeys it."""

from __future__ import annotations

from optsteps.schedules import Schedule

# what each part is, and how to come by a schedule without it
_PARTS = {
    "amplitude": ("an amplitude after every step", "search with amplitude=false, or sample with optsteps.sample"),
    "weights": (
        "weights of its own for a solver's remembered outputs",
        "sample with optsteps.sample, which obeys them",
    ),
    "told_times": (
        "times of its own that the network is told at its steps",
        "sample with optsteps.sample, which obeys them",
    ),
}


def check_nothing_carried(schedule: Schedule, reason: str) -> None:
    """Raises ValueError for a schedule with an amplitude, weights or told times.

    Args:
        reason: why the tool cannot obey them, as a clause such as "which a list of sigmas cannot say".
    """
    for name, (what, remedy) in _PARTS.items():
        if getattr(schedule, name) is not None:
            raise ValueError(f"the schedule has {what}, {reason}; {remedy}")
