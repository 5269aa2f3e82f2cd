"""Suggestion of a near name for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: " (did you mean dpmpp_2m?)" for dpmp_2m.

    It is empty where none of `names` is near.
    """
    near = get_close_matches(name, [str(candidate) for candidate in names], n=1)
    return f" (did you mean {near[0]}?)" if near else ""
