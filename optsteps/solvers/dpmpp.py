"""DPM-Solver++, multistep: exponential integrators in log-SNR that take D for a polynomial."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsteps.deprecation import old_names
from optsteps.processes import Process
from optsteps.solvers.integrals import log_snr_steps, phi
from optsteps.solvers.multistep import Multistep

SolverType = Literal["midpoint", "heun"]


class DPMpp2M(Multistep):
    """DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, Algorithm 2): D' from the difference to the last output. Order 2.

    x_next = a x + alpha' (1 - e^-h) (D + (h / 2 h_1) (D - D_1)).

    As in the released code, walks of fewer than 15 steps end on order 1.

    Args:
        kind: "midpoint" as above; "heun": h phi_2(-h) in place of (1 - e^-h) / 2, the exact integral of a linear D.
    """

    name: ClassVar[str] = "dpmpp_2m"
    orders_known: ClassVar[range] = range(1, 3)
    extrapolates = "D"

    def __init__(self, order: int = 2, kind: SolverType = "midpoint", lower_order_final: bool = True) -> None:
        super().__init__(order, lower_order_final)
        self.kind = check_kind(kind)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        return linear_weights(process, times, 1.0, self.kind)


class DPMpp3M(Multistep):
    """DPM-Solver++(3M), the third-order multistep of the released code (Lu et al., arXiv:2211.01095).

    With D1 and D2 the first and second divided differences of D at lambda, in units of h,
    x_next = a x + alpha' ((1 - e^-h) D + h phi_2(-h) D1 + c h phi_3(-h) D2).

    Taylor's theorem asks for c = 2: D2 is half the second derivative, which phi_3 belongs to. The published code, and
    diffusers and k-diffusion after it, have c = 1, so that their third order converges with order 2. As in that code,
    walks of fewer than 15 steps end on orders 2 and 1.

    Args:
        corrected: c = 2, order 3; False as published.
        kind: of the second-order step that starts it, as in `DPMpp2M`.
    """

    name: ClassVar[str] = "dpmpp_3m"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "D"

    def __init__(
        self, order: int = 3, corrected: bool = False, kind: SolverType = "midpoint", lower_order_final: bool = True
    ) -> None:
        super().__init__(order, lower_order_final)
        self.corrected, self.kind = corrected, check_kind(kind)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        if times.shape[-1] == 3:
            return linear_weights(process, times, 1.0, self.kind)
        return quadratic_weights(process, times, 1.0, self.corrected)


def linear_weights(process: Process, times: Tensor, rate: float, kind: SolverType) -> Tensor:
    """The weight [..., 1] of D_1 - D in the step whose D is a line through the last two outputs.

    Args:
        times: (t_next, t, t_1) [..., 3].
        rate: of the exponential kernel, alpha' rate e^(-rate (lambda' - lambda)): 1 of the ODE, 1 + eta of the SDE.
    """
    alpha_next, h, ratios = log_snr_steps(process, times)
    z = rate * h
    share = -torch.expm1(-z) / 2 if kind == "midpoint" else z * phi(2, -z)
    return -(alpha_next * share)[..., None] / ratios


def quadratic_weights(process: Process, times: Tensor, rate: float, corrected: bool) -> Tensor:
    """The weights [..., 2] of D_1 - D and D_2 - D in the step whose D is a parabola through the last three outputs,
    for times (t_next, t, t_1, t_2) [..., 4]; `rate` as in `linear_weights`, `corrected` as in `DPMpp3M`."""
    alpha_next, h, ratios = log_snr_steps(process, times)
    r_0, r_1 = ratios[..., :1], ratios[..., 1:] - ratios[..., :1]
    # divided differences as coefficients of (D_1 - D, D_2 - D)
    last = torch.cat([-1 / r_0, torch.zeros_like(r_0)], -1)
    one_before = torch.cat([1 / r_1, -1 / r_1], -1)
    second = (last - one_before) / (r_0 + r_1)
    first = last + r_0 * second
    z = rate * h
    phi_2, phi_3 = (phi(k, -z)[..., None] for k in (2, 3))
    return (alpha_next * z)[..., None] * (phi_2 * first + (2.0 if corrected else 1.0) * phi_3 * second)


def check_kind(kind: SolverType) -> SolverType:
    """Raises ValueError unless `kind` is one."""
    if kind not in ("midpoint", "heun"):
        raise ValueError(f"kind must be 'midpoint' or 'heun', got {kind!r}")
    return kind


__getattr__ = old_names(__name__, Kind="SolverType")
