"""Equal shares of what a solver of order p misses: the p-th derivative of the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.monitors.base import TeacherTableMonitor
from optsteps.methods.monitors.equidistribute import interpolated
from optsteps.methods.paths.error_weight import Weight, check_weight, error_weight
from optsteps.methods.paths.teacher_table import TeacherTable


class SolverMonitor(TeacherTableMonitor):
    """Density m(lambda) = (w E ||d^p D / d lambda^p||)^(1 / (p + 1)) in log-SNR lambda, p the student's order.

    A step of length h of a solver of order p that extrapolates the prediction D in log-SNR misses by h^(p + 1) times
    this derivative. So all steps miss alike, and the sum of the errors is the least for many steps. The derivative is
    taken by divided differences of the teacher's predictions. With p = 1 and the weight "flow" the density is that of
    `Curvature` without smoothing, for dD / dlambda = s^2 x''.

    Args:
        order: p, 1 to 3. None: the student's, at most 3.
        weight: what an error made at noise level s weighs. "edm": 1; "flow": 1 / (1 + s); a number m: the propagated
            error sigma_d / sqrt(s^2 + sigma_d^2) with sigma_d = m times the size (root mean square) of the teacher's
            samples, which is exact for Gaussian data of that deviation.
        max_batch, shard_size, channels, frames: see `TeacherTableMethod`.

    Raises:
        ValueError: an unknown weight or order; in `check` as `TeacherTableMonitor`.
    """

    name = "solver_monitor"

    def __init__(
        self,
        order: int | None = None,
        weight: Weight = "flow",
        max_batch: int = 512,
        shard_size: int = 64,
        channels: Sequence[int] | None = None,
        frames: Sequence[int] | None = None,
    ) -> None:
        super().__init__(max_batch, shard_size, channels, frames)
        if order not in (None, 1, 2, 3):
            raise ValueError(f"order must be 1, 2, 3 or None for the student's, got {order!r}")
        check_weight(weight)
        self.order, self.weight = order, weight

    def described(self, problem: SearchProblem) -> dict[str, Any]:
        return {**super().described(problem), "order": self.derivative(problem), "weight": self.weight}

    def derivative(self, problem: SearchProblem) -> int:
        return self.order or min(problem.solver.order, 3)

    def profile(self, problem: SearchProblem, table: TeacherTable) -> dict[str, Tensor]:
        derivatives = self._derivatives(problem, table)
        last = table.states()[-1] / table.process.alpha(table.times[-1])
        return {"derivative": table.squares(derivatives).sqrt().sum(0), "size": table.squares(last).sum()}

    def increments(self, problem: SearchProblem, profile: dict[str, Tensor]) -> Tensor:
        order, log_snr = self.derivative(problem), problem.process.log_snr(problem.teacher.times[:-1])
        finite = log_snr.isfinite()
        nodes = log_snr[finite]
        middles, lengths = (nodes[1:] + nodes[:-1]) / 2, nodes.diff()
        size = float(profile["size"]) ** 0.5
        centres = nodes.unfold(0, order + 1, 1).mean(1)
        errors = interpolated(middles, centres, profile["derivative"])
        # in EDM's coordinates, where alpha is 1
        errors = errors * error_weight(torch.ones_like(middles), torch.exp(-middles), self.weight, size)
        increments = torch.full((problem.teacher.steps,), torch.nan, dtype=torch.float64)
        increments[:-1][finite[:-1]] = errors ** (1 / (order + 1)) * lengths
        return increments

    def _derivatives(self, problem: SearchProblem, table: TeacherTable) -> Tensor:
        """Rows [n-p, 2N+1] of the p-th derivatives by divided differences at the n times of finite noise level."""
        log_snr = table.process.log_snr(table.times[:-1])
        first = int(log_snr.isinf().sum())
        nodes, number = log_snr[first:], torch.arange(table.steps - 1 - first)
        rows = torch.zeros(len(number), table.size, dtype=torch.float64)
        rows[number, 2 + first + number] = 1 / nodes.diff()
        for p in range(2, self.derivative(problem) + 1):
            rows = p * rows.diff(dim=0) / (nodes[p:] - nodes[:-p])[:, None]
        return rows
