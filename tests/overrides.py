"""Overrides of the command line for tests that are not about the method."""

from __future__ import annotations

import re
from collections.abc import Sequence


def with_oss(overrides: Sequence[str]) -> list[str]:
    """These overrides with OSS as the main method unless they choose one: it has no pool, and takes two samples."""
    chosen = any(re.match(r"(method|experiment)(@\w+)?=", one) for one in overrides)
    return [*overrides] if chosen else [*overrides, "method=oss"]
