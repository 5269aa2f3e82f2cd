"""Cost of a search as its user pays it: the network evaluations of all samples, and the network's time for them."""

from __future__ import annotations

from collections.abc import Sequence

from optsteps.reporting.markdown import NOTHING
from optsteps.text.duration import duration


def cost_and_time(evaluations: Sequence[float], seconds: Sequence[float]) -> tuple[str, str]:
    """Evaluations such as "60,544", and the time in brackets, such as "(3.2 min)".

    Args:
        evaluations: of one search, or of several that share a line: then their range. Empty where they are not known.
        seconds: that the network takes for them. Empty where its rate is not known.
    """
    if not evaluations:
        return NOTHING, ""
    count = _range([f"{number:,.0f}" for number in sorted(evaluations)])
    known = len(seconds) > 0 and any(evaluations)
    return count, f"({_range([duration(number) for number in sorted(seconds)])})" if known else ""


def _range(ascending: Sequence[str]) -> str:
    first, last = ascending[0], ascending[-1]
    return first if first == last else f"{first} to {last}"
