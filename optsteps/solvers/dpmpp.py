"""DPM-Solver++, multistep: exponential integrators in log-SNR that hold D for a polynomial."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from optsteps.processes import Process
from optsteps.solvers.integrals import log_snr_steps, phi
from optsteps.solvers.multistep import Multistep


class DPMpp2M(Multistep):
    """DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, Algorithm 2): D' from the difference to the last output. Order 2.

    x_next = a x + alpha' (1 - e^-h) (D + (h / 2 h_1) (D - D_1)).
    """

    name: ClassVar[str] = "dpmpp_2m"
    orders_known: ClassVar[range] = range(1, 3)
    extrapolates = "D"

    def __init__(self, order: int = 2, lower_order_final: bool = False) -> None:
        super().__init__(order, lower_order_final)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        alpha_next, h, ratios = log_snr_steps(process, times)
        return alpha_next[..., None] * torch.expm1(-h)[..., None] * 0.5 / ratios


class DPMpp3M(DPMpp2M):
    """DPM-Solver++(3M), the third-order multistep of the released code (Lu et al., arXiv:2211.01095).

    With D1 and D2 the first and second divided differences of D at lambda, in units of h,
    x_next = a x + alpha' ((1 - e^-h) D + h phi_2(-h) D1 + c h phi_3(-h) D2).

    Taylor's theorem asks for c = 2: D2 is half the second derivative, which phi_3 belongs to. The published code, and
    diffusers and k-diffusion after it, have c = 1, so that their third order converges with order 2.

    Args:
        corrected: c = 2, order 3; False as published.
    """

    name: ClassVar[str] = "dpmpp_3m"
    orders_known: ClassVar[range] = range(1, 4)

    def __init__(self, order: int = 3, corrected: bool = False, lower_order_final: bool = False) -> None:
        super().__init__(order, lower_order_final)
        self.corrected = corrected

    def weights(self, process: Process, times: Tensor) -> Tensor:
        if times.shape[-1] == 3:
            return super().weights(process, times)
        alpha_next, h, ratios = log_snr_steps(process, times)
        r_0, r_1 = ratios[..., :1], ratios[..., 1:] - ratios[..., :1]
        # divided differences as coefficients of (D_1 - D, D_2 - D)
        last = torch.cat([-1 / r_0, torch.zeros_like(r_0)], -1)
        one_before = torch.cat([1 / r_1, -1 / r_1], -1)
        second = (last - one_before) / (r_0 + r_1)
        first = last + r_0 * second
        c = 2.0 if self.corrected else 1.0
        phi_2, phi_3 = (phi(k, -h)[..., None] for k in (2, 3))
        return (alpha_next * h)[..., None] * (phi_2 * first + c * phi_3 * second)
