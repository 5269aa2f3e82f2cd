"""UniPC: a predictor, and a corrector that costs nothing."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsteps.processes import Process
from optsteps.solvers.integrals import log_snr_steps, phi
from optsteps.solvers.multistep import Multistep, by_order


class UniPC(Multistep):
    """UniPC (Zhao et al., arXiv:2302.04867, Algorithms 5-8, x_0-prediction), orders 1 to 3 of the predictor.

    With r_k = (lambda_k - lambda) / h the predictor is x_next = a x + b D - alpha' B(h) sum_k rho_k (D_k - D) / r_k,
    and rho solves sum_k rho_k r_k^(i-1) = i! (-h) phi_{i+1}(-h) / B(h). The corrector is the same with the evaluation
    at t_next itself among the D_k: it costs nothing, for that evaluation is the next step's. It takes the state that
    arrives at a time and leaves from a better one, one order higher. As in the released code, the order falls to 1 over
    the last steps, however many steps there are.

    Args:
        kind: B(h): "bh1" is -h, "bh2" e^-h - 1.
        corrector: False for the predictor alone, UniP.
    """

    name: ClassVar[str] = "unipc"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "D"
    few_steps = math.inf

    def __init__(
        self,
        order: int = 2,
        kind: Literal["bh1", "bh2"] = "bh2",
        corrector: bool = True,
        lower_order_final: bool = True,
    ) -> None:
        super().__init__(order, lower_order_final)
        if kind not in ("bh1", "bh2"):
            raise ValueError(f"kind must be 'bh1' or 'bh2', got {kind!r}")
        self.kind, self.corrector = kind, corrector

    @property
    def memory(self) -> int:
        return self.order if self.corrector else self.order - 1

    def weights(self, process: Process, times: Tensor) -> Tensor:
        alpha_next, h, ratios = log_snr_steps(process, times)
        return self._solved(alpha_next, h, -ratios)

    def arrival(self, process: Process, times: Tensor, left: Tensor) -> Tensor:
        if not self.corrector or times.shape[1] == 1:
            return super().arrival(process, times, left)
        return by_order(self._correction, process, times, left.masked_fill(~torch.isfinite(times[:, 1]), 0), 0)

    def _correction(self, process: Process, times: Tensor) -> Tensor:
        """Weights of (D(t_next) - D, D_1 - D, ..., D_{m-1} - D) [..., m] for times [..., m+1] as in `weights`: the
        corrector's, less what the predictor added to its first-order step."""
        alpha_next, h, ratios = log_snr_steps(process, times)
        corrected = self._solved(alpha_next, h, torch.cat([torch.ones_like(h)[..., None], -ratios], -1))
        if times.shape[-1] == 2:
            return corrected
        return torch.cat([corrected[..., :1], corrected[..., 1:] - self.weights(process, times)], -1)

    def _solved(self, alpha_next: Tensor, h: Tensor, r: Tensor) -> Tensor:
        b_h = -h if self.kind == "bh1" else torch.expm1(-h)
        count = r.shape[-1]
        if count == 1:
            rho = torch.full_like(r, 0.5)  # as published: exact for bh2 only in the limit of small steps
        else:
            powers = torch.stack([r**i for i in range(count)], -2)
            moments = [math.factorial(i) * -h * phi(i + 1, -h) / b_h for i in range(1, count + 1)]
            rho = torch.linalg.solve(powers, torch.stack(moments, -1))
        return -(alpha_next * b_h)[..., None] * rho / r
