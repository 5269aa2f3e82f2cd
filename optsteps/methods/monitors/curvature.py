"""Equal shares of the path's curvature in time: SharpEuler and ART in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.monitors.base import TeacherTableMonitor, flow_clock
from optsteps.methods.paths.teacher_table import TeacherTable
from optsteps.processes import Process

Coordinates = Literal["flow", "edm"]

PRESETS: dict[str, dict[str, Any]] = {
    "sharp_euler": {"exponent": 0.5, "coordinates": "flow", "smoothing": 1.0},
    "art": {"exponent": 0.5, "coordinates": "edm", "smoothing": 0.0},
}


class Curvature(TeacherTableMonitor):
    """Density of steps proportional to a power of E ||x''||, how fast the velocity changes along the teacher's path.

    An Euler step of length h misses by h^2 x'' / 2, so that the power 1/2 makes all local errors equal, and their sum
    the least for many steps. The coordinates decide what an error weighs by the noise level s where it is made: 1 in
    EDM's, 1 / (1 + s) in a flow's.

    SharpEuler (arXiv:2605.11547) takes flow coordinates and smooths the profile. Its released code sums the profile
    over the indices of its calibration grid, so that the schedule inherits the grid's own density where that is not
    uniform; here the density is multiplied by the length of the interval. Its script for FLUX gives every prompt's
    profile the same total, which is left out. ART (arXiv:2601.18681) trains a policy whose mean speed this is in closed
    form, in EDM's coordinates.

    Args:
        preset: "sharp_euler" or "art", the authors' choice of what follows.
        exponent: the power.
        coordinates: "flow", x / (alpha + sigma) in a flow's time, or "edm", x / alpha in noise levels.
        smoothing: deviation, in intervals of the teacher, of the Gaussian that smooths the density; 0 for none.
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.

    Raises:
        ValueError: an unknown preset or coordinates, an exponent or smoothing that is negative or not finite; in
            `check` as `TeacherTableMonitor`.
    """

    name = "curvature"

    def __init__(
        self,
        preset: str = "sharp_euler",
        exponent: float | None = None,
        coordinates: Coordinates | None = None,
        smoothing: float | None = None,
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        super().__init__(max_batch, shard_size, channels, frames)
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        chosen = {"exponent": exponent, "coordinates": coordinates, "smoothing": smoothing}
        settings = {**PRESETS[preset], **{name: value for name, value in chosen.items() if value is not None}}
        if settings["coordinates"] not in ("flow", "edm"):
            raise ValueError(f"coordinates must be 'flow' or 'edm', got {coordinates!r}")
        for name in ("exponent", "smoothing"):
            if not (math.isfinite(settings[name]) and settings[name] >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {settings[name]}")
        self.preset, self.exponent, self.smoothing = preset, settings["exponent"], settings["smoothing"]
        self.coordinates: Coordinates = settings["coordinates"]

    def described(self, problem: SearchProblem) -> dict[str, Any]:
        settings = {"exponent": self.exponent, "coordinates": self.coordinates, "smoothing": self.smoothing}
        return {**super().described(problem), "preset": self.preset, **settings}

    def profile(self, problem: SearchProblem, table: TeacherTable) -> dict[str, Tensor]:
        return {"acceleration": acceleration(table, self.coordinates)}

    def increments(self, problem: SearchProblem, profile: dict[str, Tensor]) -> Tensor:
        length = coordinate_clock(problem.process, problem.teacher.times, self.coordinates).diff().abs()
        known = length[:-1].isfinite()
        increments = torch.full_like(length, torch.nan)
        density = smoothed(profile["acceleration"][known] ** self.exponent, self.smoothing)
        increments[:-1][known] = density * length[:-1][known]
        return increments


def acceleration(table: TeacherTable, coordinates: Coordinates) -> Tensor:
    """||dv / du|| by differences between the teacher's times but the last [N-1], summed over samples, where v is the
    velocity of the path in these coordinates and u their clock. 0 next to an infinite noise level in EDM's."""
    alpha, sigma = table.process.alpha(table.times[1:-1]), table.process.sigma(table.times[1:-1])
    number = torch.arange(table.steps - 1)
    changes = torch.zeros(table.steps - 1, table.size, dtype=torch.float64)
    # the noise eps = (x - alpha D) / sigma that a step of Euler's keeps is the velocity dx / ds of EDM's coordinates,
    # and eps - D that of a flow's
    changes[number, 2 + number] = -alpha / sigma - (1.0 if coordinates == "flow" else 0.0)
    changes[number, table.steps + 1 + number] = 1 / sigma
    length = coordinate_clock(table.process, table.times[:-1], coordinates).diff().abs()
    return table.squares(changes).sqrt().sum(0) / length


def coordinate_clock(process: Process, times: Tensor, coordinates: Coordinates) -> Tensor:
    """The clock of these coordinates at the times: a flow's time, or EDM's, the noise level."""
    return flow_clock(process, times) if coordinates == "flow" else process.noise_level(times)


def smoothed(profile: Tensor, deviation: float) -> Tensor:
    """A profile [K] convolved with a Gaussian of that deviation in indices, mirrored at its ends."""
    radius = min(math.ceil(4 * deviation), len(profile) - 1)
    if radius < 1:
        return profile
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / deviation) ** 2)
    mirrored = torch.cat([profile[1 : radius + 1].flip(0), profile, profile[-radius - 1 : -1].flip(0)])
    return mirrored.unfold(0, 2 * radius + 1, 1) @ (kernel / kernel.sum())
