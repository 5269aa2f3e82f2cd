"""Adams-Bashforth on eps: DEIS and iPNDM."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsteps.processes import Process
from optsteps.solvers.integrals import QUADRATURE
from optsteps.solvers.multistep import Multistep


class DEIS(Multistep):
    """DEIS, exponential Adams-Bashforth on eps (Zhang & Chen, arXiv:2204.13902, Eq. 15), orders 1 to 3.

    x_next / alpha' = x / alpha + sum_k eps_k integral of l_k(clock) d rho over the step, with rho = sigma / alpha and
    l_k the Lagrange polynomials through the remembered eps.

    Args:
        kind: the clock in which eps is taken for a polynomial: "tab" the process's own time, "logrho" log rho (the
            form that diffusers has).
        lower_order_final: None: True for "logrho", as in diffusers; False for "tab", whose authors keep the order.
    """

    name: ClassVar[str] = "deis"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "eps"

    def __init__(
        self, order: int = 3, kind: Literal["tab", "logrho"] = "tab", lower_order_final: bool | None = None
    ) -> None:
        super().__init__(order, kind == "logrho" if lower_order_final is None else lower_order_final)
        if kind not in ("tab", "logrho"):
            raise ValueError(f"kind must be 'tab' or 'logrho', got {kind!r}")
        self.kind = kind

    def weights(self, process: Process, times: Tensor) -> Tensor:
        if self.kind == "logrho":
            return _adams_weights(process, times, lambda log_rho: log_rho)
        return _adams_weights(process, times, lambda log_rho: process.time_of_log_snr(-log_rho))


class IPNDM(Multistep):
    """Improved PNDM: Adams-Bashforth on eps in rho = sigma / alpha (Liu et al., arXiv:2202.09778; Zhang & Chen,
    arXiv:2204.13902, App. on iPNDM), orders 1 to 4. Its authors, and diffusers, keep the order to the end.

    Args:
        variable_step: Adams-Bashforth coefficients of the actual step sizes; False: those of equal steps whatever the
            schedule, as published: on others of order 1, or 2 where neighbouring steps become equal as they shrink.
    """

    name: ClassVar[str] = "ipndm"
    orders_known: ClassVar[range] = range(1, 5)
    extrapolates = "eps"

    # Adams-Bashforth of equal steps: coefficients of eps_1, eps_2, eps_3
    EQUAL: ClassVar[dict[int, list[float]]] = {
        2: [-1 / 2],
        3: [-16 / 12, 5 / 12],
        4: [-59 / 24, 37 / 24, -9 / 24],
    }

    def __init__(self, order: int = 4, variable_step: bool = False, lower_order_final: bool = False) -> None:
        super().__init__(order, lower_order_final)
        self.variable_step = variable_step

    def weights(self, process: Process, times: Tensor) -> Tensor:
        if self.variable_step:
            return _adams_weights(process, times, torch.exp)
        rho = process.noise_level(times)
        whole = process.alpha(times[..., 0]) * (rho[..., 0] - rho[..., 1])
        return whole[..., None] * torch.tensor(
            self.EQUAL[times.shape[-1] - 1], dtype=torch.float64, device=times.device
        )


def _adams_weights(process: Process, times: Tensor, clock: Callable[[Tensor], Tensor]) -> Tensor:
    """alpha' times the integrals over the step of l_k(clock) d rho, k >= 1 [..., m-1], l_k the Lagrange polynomials on
    the clock's values at t, t_1, ..., t_{m-1}; quadrature in log rho, where clocks are smooth (but for the kinks of
    VP's at its timesteps, which cost a relative 3e-4 of a weight at worst)."""
    log_rho = -process.log_snr(times)
    start, length = log_rho[..., 1, None], (log_rho[..., 0] - log_rho[..., 1])[..., None]
    nodes, weights = (part.to(times.device) for part in QUADRATURE)
    positions = start + length * nodes  # [..., nodes]
    measure = weights * length * positions.exp()
    values_at_nodes, values = clock(positions), clock(log_rho[..., 1:])
    integrals = []
    for k in range(1, values.shape[-1]):
        polynomial = torch.ones_like(values_at_nodes)
        for j in range(values.shape[-1]):
            if j != k:
                polynomial = (
                    polynomial * (values_at_nodes - values[..., j, None]) / (values[..., k] - values[..., j])[..., None]
                )
        integrals.append((measure * polynomial).sum(-1))
    return process.alpha(times[..., 0])[..., None] * torch.stack(integrals, -1)
