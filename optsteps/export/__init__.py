"""Schedules for the tools that people sample with, and back: diffusers, ComfyUI, k-diffusion, CSV."""

from optsteps.export.diffusers import (
    DiffusersArguments,
    apply,
    diffusers_snippet,
    missing_solver,
    restore,
    run_snippets,
    to_diffusers,
)
from optsteps.export.node_pack import write_comfyui_nodes
from optsteps.export.text import to_comfyui, to_csv, to_kdiffusion
from optsteps.schedules.reading import read_schedule

__all__ = [
    "DiffusersArguments",
    "apply",
    "diffusers_snippet",
    "missing_solver",
    "read_schedule",
    "restore",
    "run_snippets",
    "to_comfyui",
    "to_csv",
    "to_diffusers",
    "to_kdiffusion",
    "write_comfyui_nodes",
]
