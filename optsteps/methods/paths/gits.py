"""GITS: geometry-inspired time scheduling (Chen et al., arXiv:2405.11326)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from optsteps.methods.paths.base import EulerPath, edm_coordinates
from optsteps.methods.paths.teacher_table import TeacherTable

Metric = Literal["dev", "l2"]


class GITS(EulerPath):
    """The path of least total cost of Euler's steps, each from the teacher's own state, later steps weighing more.

    The total is sum_k coefficient^k c_k. The paper's cost is the distance of the step's end from the teacher's state,
    "l2". The released code's default is another, "dev": how much farther the step's end lies from the chord between the
    teacher's first and last state than the teacher's state does. It may be negative, and a miss along the chord costs
    nothing. Distances are in EDM's coordinates, see `edm_coordinates`.

    The authors' teacher has 60 steps of iPNDM (order 4) on EDM's schedule, or the model's own times for latent models,
    and 256 samples. Their analytical first step is left out: it would be a further evaluation's worth of steps that
    other methods are not given.

    Args:
        metric: "dev", as released, or "l2", as in the paper.
        coefficient: 1.15 is the authors' for images; for Stable Diffusion they take 1.2.
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.

    Raises:
        ValueError: an unknown metric, or a coefficient that is not positive and finite.
    """

    name = "gits"

    def __init__(
        self,
        metric: Metric = "dev",
        coefficient: float = 1.15,
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        super().__init__(max_batch, shard_size, channels, frames)
        if metric not in ("dev", "l2"):
            raise ValueError(f"metric must be 'dev' or 'l2', got {metric!r}")
        if not (math.isfinite(coefficient) and coefficient > 0):
            raise ValueError(f"coefficient must be positive and finite, got {coefficient}")
        self.metric, self.coefficient = metric, coefficient

    @property
    def growth(self) -> float:  # type: ignore[override]
        return self.coefficient

    def costs(self, table: TeacherTable) -> Tensor:
        scale = edm_coordinates(table.process, table.times)[:, None]
        path = table.states() / scale
        path = path - path[0]
        off_chord = _off(table, path, path[-1])
        costs = torch.full((table.steps + 1, table.steps + 1), torch.inf, dtype=torch.float64)
        for i in range(table.steps):
            missed, later = table.missed(i) / scale[i + 1 :], slice(i + 1, None)
            if self.metric == "l2":
                costs[i, later] = table.squares(missed).sqrt().sum(0)
            else:
                costs[i, later] = (_off(table, path[later] + missed, path[-1]) - off_chord[:, later]).sum(0)
        return costs


def _off(table: TeacherTable, points: Tensor, end: Tensor) -> Tensor:
    """Distances [B, n] of points [n, K] from the line through 0 and `end` [K], all given by their coefficients."""
    along = torch.stack([points @ (products @ end) for products in table.products])
    return (table.squares(points) - along.square() / table.squares(end)[:, None]).clamp(min=0).sqrt()
