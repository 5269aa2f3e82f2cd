"""What the commands share: where the configs lie, and how errors reach the terminal."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_PACKAGE = Path(__file__).parent.parent
# a wheel carries the configs inside the package; a checkout has them beside it
CONFIG_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

R = TypeVar("R")


def readable_errors(job: Callable[..., R]) -> Callable[..., R]:
    """Print what the user can mend as one paragraph and exit with 1; OPTSTEPS_DEBUG=1 shows the traceback.

    Anything else is a defect of the program and keeps its traceback.
    """

    @functools.wraps(job)
    def run(*args: object) -> R:
        try:
            return job(*args)
        except (ValueError, OSError, ImportError) as error:
            if os.environ.get("OPTSTEPS_DEBUG"):
                raise
            print(f"optsteps: error: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    return run
