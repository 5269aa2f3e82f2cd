"""Schedules, lists of time steps for a sampler (not noise schedules, which are processes here), and their families."""

from optsteps.schedules.schedule import (
    FAMILIES,
    PUBLISHED_LEVELS,
    Final,
    Schedule,
    build_schedule,
    snap_levels,
)

__all__ = ["FAMILIES", "PUBLISHED_LEVELS", "Final", "Schedule", "build_schedule", "snap_levels"]
