"""A near name for one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, known: Iterable[str]) -> str:
    """What follows the names that are known in a message on one that is not: " (did you mean dpmpp_2m?)" for dpmp_2m,
    nothing where none of them is near."""
    near = get_close_matches(name, [str(one) for one in known], n=1)
    return f" (did you mean {near[0]}?)" if near else ""
