"""Solvers of stochastic differential equations: a deterministic part of coefficients, and noise read off a given path.

With y = x / alpha, rho = sigma / alpha and any phi(rho) for which phi / rho increases, the process with

    y_t = (phi_t / phi_s) y_s + phi_t int_{rho_t}^{rho_s} D phi' / phi^2 d rho + phi_t (W(c_t) - W(c_s)),

c = (rho / phi)^2, has the marginals of the probability-flow ODE (Cui et al., arXiv:2309.06169, Prop. 1 and 2, solved
with the integrating factor 1 / phi; for constant D the variance is kept: (phi_t rho_s / phi_s)^2 + phi_t^2 (c_t - c_s)
= rho_t^2). phi = rho is the ODE, phi = rho^2 the posterior sampling of DDPM. Whatever phi, the step with D constant is

    x_next = a x + (alpha' - a alpha) D + sqrt(sigma'^2 - a^2 sigma^2) n,

so a solver here says a, the clock c, and the weights of its remembered outputs. The noise is additive: strong order 1,
whatever the order of the deterministic part, which shows where the noise is small.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.solvers.base import Denoise, State
from optsteps.solvers.integrals import QUADRATURE, log_snr_steps
from optsteps.solvers.multistep import Multistep


class Stochastic(Multistep):
    """What the stochastic solvers share: the deterministic part of `Multistep`, and noise."""

    stochastic: ClassVar[bool] = True
    extrapolates = "D"

    @abstractmethod
    def decay(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        """a, of the shape of t; finite where alpha(t) is 0, 0 where t_next is the time of noise level 0."""

    @abstractmethod
    def clock(self, process: Process, t: Tensor) -> Tensor:
        """c at t, of its shape, growing as t falls."""

    def base(self, process: Process, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        a = self.decay(process, t, t_next)
        return a, process.alpha(t_next) - a * process.alpha(t)

    def step(
        self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> tuple[Tensor, State]:
        if denoise.paths is None:
            raise ValueError(f"{self.name} is stochastic and needs Brownian paths; sample with optsteps.sample")
        process = denoise.process
        mean, state = super().step(state, x, t, t_next, denoise, order)
        kept = (self.decay(process, t, t_next) * process.sigma(t)) ** 2
        size = (process.sigma(t_next) ** 2 - kept).clamp(min=0).sqrt()
        noise = denoise.paths.increments(self.clock(process, t), self.clock(process, t_next))
        return mean + expand(size, x) * noise.to(x), state


class StochasticDDIM(Stochastic):
    """DDIM with noise (Song et al., arXiv:2010.02502, Eq. 12 and 16): s = eta sigma' sqrt(1 - e^-2h),
    x_next = alpha' D + sqrt(sigma'^2 - s^2) eps + s n, h the step in log-SNR. AYS's Stochastic-DDIM is eta = 1.

    Args:
        eta: from 0, DDIM, to 1, DDPM's posterior.
    """

    name: ClassVar[str] = "ddim_stochastic"
    orders_known: ClassVar[range] = range(1, 2)

    def __init__(self, eta: float = 1.0) -> None:
        super().__init__(1)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie between 0 and 1, got {eta}")
        self.eta = eta

    def decay(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        share = 1 - self.eta**2 * (1 - level_ratio(process, t, t_next) ** 2)
        return process.sigma(t_next) / process.sigma(t) * share.sqrt()

    def clock(self, process: Process, t: Tensor) -> Tensor:
        return process.noise_level(t) ** -2

    def weights(self, process: Process, times: Tensor) -> Tensor:
        raise AssertionError("a first-order step remembers nothing")


class SDEDPMpp2M(Stochastic):
    """SDE-DPM-Solver++(2M) (Lu et al., arXiv:2211.01095, App. A; k-diffusion's form with eta): phi = rho^(1 + eta), D
    extrapolated from the last output.

    x_next = a x + b (D + (h / 2 h_1) (D - D_1)) + noise,
    a = (sigma' / sigma) e^(-eta h),  b = alpha' (1 - e^(-(1 + eta) h)).

    Args:
        eta: 0 is DPM-Solver++(2M), 1 the published SDE.
        kind: "midpoint" as above; "heun": phi_2 in place of phi_1 / 2, the exact integral of a linear D.
    """

    name: ClassVar[str] = "sde_dpmpp_2m"
    orders_known: ClassVar[range] = range(1, 3)

    def __init__(
        self,
        order: int = 2,
        eta: float = 1.0,
        kind: Literal["midpoint", "heun"] = "midpoint",
        lower_order_final: bool = False,
    ) -> None:
        super().__init__(order, lower_order_final)
        if eta < 0:
            raise ValueError(f"eta must not be negative, got {eta}")
        if kind not in ("midpoint", "heun"):
            raise ValueError(f"kind must be 'midpoint' or 'heun', got {kind!r}")
        self.eta, self.kind = eta, kind

    def decay(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        return process.sigma(t_next) / process.sigma(t) * level_ratio(process, t, t_next) ** self.eta

    def clock(self, process: Process, t: Tensor) -> Tensor:
        return process.noise_level(t) ** (-2 * self.eta)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        alpha_next, h, ratios = log_snr_steps(process, times)
        z = (1 + self.eta) * h
        share = -torch.expm1(-z) / 2 if self.kind == "midpoint" else 1 + torch.expm1(-z) / z
        return -(alpha_next * share)[..., None] / ratios


class ERSDE(Stochastic):
    """Extended-reverse-time SDE solver of orders 1 to 3 (Cui et al., arXiv:2309.06169, Algorithms 1 to 3), with the
    paper's noise scale phi(rho) = rho (e^(rho^0.3) + 10).

    The remembered outputs give D'(rho) and D''(rho) by backward differences, and Taylor's polynomial of D about rho_s
    is integrated exactly. With I_j = int_{rho_t}^{rho_s} (rho - rho_s)^(j-1) / phi d rho and one integration by parts,

        y_t = (phi_t / phi_s) y_s + (1 - phi_t / phi_s) D + (rho_t - rho_s + phi_t I_1) D'
              + ((rho_t - rho_s)^2 / 2 + phi_t I_2) D'' + noise,
        D' = (D - D_1) / (rho_s - rho_1),  D'' = 2 (D' - D'_1) / (rho_s - rho_2).

    Args:
        order: 1, 2 or 3.
        corrected: correct D' for D'', so that the polynomial passes through all three outputs; False as published.
    """

    name: ClassVar[str] = "er_sde"
    orders_known: ClassVar[range] = range(1, 4)

    def __init__(self, order: int, corrected: bool = False, lower_order_final: bool = False) -> None:
        super().__init__(order, lower_order_final)
        self.name = f"er_sde_{order}"  # type: ignore[misc]
        self.corrected = corrected

    @staticmethod
    def excess(rho: Tensor) -> Tensor:
        """phi / rho."""
        return torch.exp(rho**0.3) + 10

    def decay(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        excess, excess_next = (self.excess(process.noise_level(time)) for time in (t, t_next))
        return process.sigma(t_next) / process.sigma(t) * excess_next / excess

    def clock(self, process: Process, t: Tensor) -> Tensor:
        return self.excess(process.noise_level(t)) ** -2

    def weights(self, process: Process, times: Tensor) -> Tensor:
        rho = process.noise_level(times)
        end, start, known = rho[..., 0], rho[..., 1], rho[..., 2:]
        # the integrals in log rho, where 1 / phi is smooth
        nodes, node_weights = (part.to(times.device) for part in QUADRATURE)
        length = (start.log() - end.log())[..., None]
        places = (end.log()[..., None] + length * nodes).exp()
        measure = node_weights * length / self.excess(places)  # d rho / phi
        scale = (end * self.excess(end))[..., None]
        first, second = (
            (end - start) ** j / j + (scale * measure * (places - start[..., None]) ** (j - 1)).sum(-1) for j in (1, 2)
        )
        slope = -1 / (start - known[..., 0])  # D' in (D_1 - D)
        if known.shape[-1] == 1:
            return (process.alpha(times[..., 0]) * first * slope)[..., None]
        gap = known[..., 0] - known[..., 1]
        slopes = torch.stack([slope, torch.zeros_like(slope)], -1)
        before = torch.stack([1 / gap, -1 / gap], -1)
        curvature = 2 * (slopes - before) / (start - known[..., 1])[..., None]
        if self.corrected:
            slopes = slopes + curvature / 2 * (start - known[..., 0])[..., None]
        return process.alpha(times[..., 0])[..., None] * (first[..., None] * slopes + second[..., None] * curvature)


def level_ratio(process: Process, t: Tensor, t_next: Tensor) -> Tensor:
    """e^-h = noise_level(t_next) / noise_level(t), finite where alpha(t) is 0."""
    return process.sigma(t_next) * process.alpha(t) / (process.sigma(t) * process.alpha(t_next))
