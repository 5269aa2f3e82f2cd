"""Schedules for the schedulers and pipelines of Hugging Face's diffusers."""

from optsteps.export.diffusers.arguments import DiffusersArguments, to_diffusers
from optsteps.export.diffusers.pipeline import apply, restore
from optsteps.export.diffusers.schedulers import missing_solver
from optsteps.export.diffusers.snippet import diffusers_snippet, run_snippets

__all__ = [
    "DiffusersArguments",
    "apply",
    "diffusers_snippet",
    "missing_solver",
    "restore",
    "run_snippets",
    "to_diffusers",
]
