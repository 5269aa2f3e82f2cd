"""Schedules for the tools that people sample with, and back: diffusers, ComfyUI, k-diffusion, CSV."""

from optsteps.export.arguments import DiffusersArguments, to_diffusers
from optsteps.export.pipeline import apply, restore
from optsteps.export.reading import read_schedule
from optsteps.export.snippet import diffusers_snippet, run_snippets
from optsteps.export.text import to_comfyui, to_csv, to_kdiffusion

__all__ = [
    "DiffusersArguments",
    "apply",
    "diffusers_snippet",
    "read_schedule",
    "restore",
    "run_snippets",
    "to_comfyui",
    "to_csv",
    "to_diffusers",
    "to_kdiffusion",
]
