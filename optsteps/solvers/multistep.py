"""Solvers of one evaluation per step: coefficients of the times, and nothing else."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from optsteps.processes import Process
from optsteps.solvers.base import LinearSolver, first_order


class Euler(LinearSolver):
    """Euler's method, the same map as DDIM (Song et al., arXiv:2010.02502, Eq. 12 with eta = 0), under every process:
    D and eps = (x - alpha D) / sigma are held constant over the step. Order 1."""

    name: ClassVar[str] = "euler"
    order = 1

    def coefficients(self, process: Process, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        return first_order(process, t, t_next)
