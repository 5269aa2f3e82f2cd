"""Noise levels that the authors of Align Your Steps published, and schedules of any step count from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from optsteps.processes import Process, as_times
from optsteps.schedules.resampling import log_linear

# AYS's published noise levels (arXiv:2404.14507, released by its authors for 10 steps)
PUBLISHED_LEVELS = {
    "sd15": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "sdxl": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    "deepfloyd_if": [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006],
    "svd": [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
}


def published(process: Process, steps: int, model: str = "sd15") -> Tensor:
    """Times [steps+1] of the levels published for `model`; other step counts than 10 are interpolated log-linearly, as
    in the paper.

    The tools that have these constants (diffusers, ComfyUI, A1111) step from the last level but one to noise level 0,
    for every step count: final="zero". The printed ends are rounded and may lie up to 2 % outside the process's range:
    they are moved into it.

    Raises:
        ValueError: unknown model, or levels that lie further outside the process.
    """
    if model not in PUBLISHED_LEVELS:
        raise ValueError(f"no published levels for {model!r}; known: {', '.join(PUBLISHED_LEVELS)}")
    levels = log_linear(as_times(PUBLISHED_LEVELS[model]), steps)
    within, outside = snap_levels(process, levels)
    if bool(outside.any()):
        low, high = process.noise_level([0.0, process.t_limit]).tolist()
        raise ValueError(
            f"the published levels of {model} run from {levels[0].item():g} to {levels[-1].item():g}, but "
            f"{process!r} covers {high:g} to {low:g}: they were made for another model"
        )
    return process.time_of_noise_level(within)


def snap_levels(process: Process, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Noise levels [n] moved into the process's range, and a mask [n] of those that lay more than 2 % outside.

    Rounded digits do not explain a greater distance than that. Level 0 stands for the clean end and stays. Processes
    without a least and a greatest noise level leave all levels as they are.
    """
    if not (math.isfinite(process.t_limit) and process.t_clean < 0):
        return levels, torch.zeros_like(levels, dtype=torch.bool)
    within = torch.where(levels == 0, levels, levels.clamp(*process.noise_level([0.0, process.t_limit]).tolist()))
    return within, (levels != within) & ~((levels / within).log().abs() <= math.log(1.02))
