"""What the commands share: where the configs lie, and how errors reach the terminal."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

_PACKAGE = Path(__file__).parent.parent
# a wheel carries the configs inside the package; a checkout has them beside it
CONFIG_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

# what a user can mend; anything else is a defect of the program and keeps its traceback
_MENDABLE = (HydraException, OmegaConfBaseException, ValueError, OSError, ImportError)


def readable_errors(command: Callable[[], None]) -> Callable[[], None]:
    """Print what the user can mend as one paragraph and exit with 1; OPTSTEPS_DEBUG=1 shows the traceback."""

    @functools.wraps(command)
    def run() -> None:
        # otherwise Hydra prints a traceback of its own before we see the error
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            command()
        except _MENDABLE as error:
            if os.environ.get("OPTSTEPS_DEBUG"):
                raise
            print(f"{Path(sys.argv[0]).stem}: error: {root_error(error)}", file=sys.stderr)
            raise SystemExit(1) from None

    return run


def root_error(error: BaseException) -> BaseException:
    """The error inside Hydra's wrapping of whatever an instantiated class raised."""
    while isinstance(error, HydraException) and isinstance(error.__cause__, _MENDABLE):
        error = error.__cause__
    return error
