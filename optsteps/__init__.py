"""optsteps: time steps of diffusion and flow-matching samplers, searched for your own model."""

from optsteps.deprecation import find_old_modules
from optsteps.export import apply, restore
from optsteps.methods.base import SearchProblem, SearchResult
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule

__version__ = "0.1.0"

find_old_modules()

__all__ = ["Schedule", "SearchProblem", "SearchResult", "apply", "build_schedule", "restore", "sample"]
