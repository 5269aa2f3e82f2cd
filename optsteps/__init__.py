"""optsteps: time steps of diffusion and flow-matching samplers, searched for your own model.

Names are imported when they are first asked for, so that the commands answer before torch is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from optsteps.deprecation import find_old_modules

if TYPE_CHECKING:
    from optsteps.export import apply, restore
    from optsteps.export.diffusers.scheduler import OptstepsScheduler as OptstepsScheduler
    from optsteps.finding import find
    from optsteps.methods.base import SearchProblem, SearchResult
    from optsteps.sampling import sample
    from optsteps.schedules import Schedule, build_schedule
    from optsteps.tuning import tune as tune

__version__ = "0.1.0"

# without those that need diffusers
__all__ = [
    "Schedule",
    "SearchProblem",
    "SearchResult",
    "apply",
    "build_schedule",
    "find",
    "restore",
    "sample",
]

# the modules that the names are in
_MODULES = {
    "OptstepsScheduler": "export.diffusers.scheduler",
    "Schedule": "schedules",
    "SearchProblem": "methods.base",
    "SearchResult": "methods.base",
    "apply": "export",
    "build_schedule": "schedules",
    "find": "finding",
    "restore": "export",
    "sample": "sampling",
    "tune": "tuning",
}

find_old_modules()


def __getattr__(name: str) -> Any:
    """A name of this package, or one of its modules."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    module = f"{__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:  # what the module itself needs is missing
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
