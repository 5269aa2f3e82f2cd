"""Families of schedules that a descent may start from."""

from __future__ import annotations

from collections.abc import Sequence

from optsteps.schedules import FAMILIES

# families that have times between any two ends, as the published levels of one model do not
STARTS = tuple(name for name in FAMILIES if name != "published")


def checked_starts(names: Sequence[str]) -> tuple[str, ...]:
    """The names; ValueError unless they are some of `STARTS`."""
    if not names or not set(names) <= set(STARTS):
        raise ValueError(f"starts must be some of {', '.join(STARTS)}, got {list(names)}")
    return tuple(names)
