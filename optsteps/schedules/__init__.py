"""Schedules and their hand-made families. A schedule here is a list of time steps, not a noise schedule (a process)."""

from optsteps.schedules.families import FAMILIES, Final, build_schedule
from optsteps.schedules.published import PUBLISHED, PUBLISHED_LEVELS, published_schedule, snap_levels
from optsteps.schedules.resampling import resampled
from optsteps.schedules.schedule import Schedule

__all__ = [
    "FAMILIES",
    "PUBLISHED",
    "PUBLISHED_LEVELS",
    "Final",
    "Schedule",
    "build_schedule",
    "published_schedule",
    "resampled",
    "snap_levels",
]
