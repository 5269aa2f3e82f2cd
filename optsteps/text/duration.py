"""Durations as people write them."""

from __future__ import annotations

import re

_UNITS = {"h": 3600, "min": 60, "s": 1}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?) *({'|'.join(_UNITS)})")


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them, such as "3.2 min"."""
    for unit in ("h", "min"):
        if seconds >= 1.5 * _UNITS[unit]:
            number = seconds / _UNITS[unit]
            return f"{number:.2g} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else "<1 s"


def seconds_of(text: str) -> float:
    """The seconds of a duration such as "10min", "90s" or "1.5h".

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time such as 10min, 90s or 1.5h")
    return float(match[1]) * _UNITS[match[2]]
