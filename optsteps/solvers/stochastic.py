"""Solvers of stochastic differential equations: a deterministic part of coefficients, and noise read off a given path.

With y = x / alpha, rho = sigma / alpha and any phi(rho) for which phi / rho increases, the process with

    y_t = (phi_t / phi_s) y_s + phi_t int_{rho_t}^{rho_s} D phi' / phi^2 d rho + phi_t (W(c_t) - W(c_s)),

c = (rho / phi)^2, has the marginals of the probability-flow ODE (Cui et al., arXiv:2309.06169, Prop. 1 and 2, solved
with the integrating factor 1 / phi; for constant D the variance is kept: (phi_t rho_s / phi_s)^2 + phi_t^2 (c_t - c_s)
= rho_t^2). phi = rho is the ODE, phi = rho^2 the posterior sampling of DDPM. Whatever phi, the step with D constant is

    x_next = a x + (alpha' - a alpha) D + sqrt(sigma'^2 - a^2 sigma^2) n,

so a stochastic solver defines a, the clock c, and the weights of its outputs. The noise is additive: strong order 1,
whatever the order of the deterministic part, which shows where the noise is small.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Move, Solver, State
from optsteps.solvers.dpmpp import SolverType, check_kind, linear_weights, quadratic_weights
from optsteps.solvers.integrals import QUADRATURE
from optsteps.solvers.multistep import Multistep
from optsteps.solvers.singlestep import DPMpp2S


class Stochastic(Solver):
    """Base of the stochastic solvers: noise is added to the step of the class that follows in their bases."""

    stochastic: ClassVar[bool] = True
    obeys_weights: ClassVar[bool] = False

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
        mean, state = super().step(state, x, t, t_next, denoise, order)  # type: ignore[safe-super]
        return self.perturbed(mean, t, t_next, denoise), state

    def moves(self, schedule: Schedule, x: Tensor) -> list[Move]:
        def noisy(move: Move, t: Tensor, t_next: Tensor, state: State, x: Tensor, denoise: Denoise) -> Any:
            mean, state = move(state, x, denoise)
            return self.perturbed(mean, t, t_next, denoise), state

        ends = zip(super().moves(schedule, x), schedule.times[:-1], schedule.times[1:], strict=True)
        return [partial(noisy, *at) for at in ends]

    def perturbed(self, mean: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise) -> Tensor:
        """The state at t_next [B, ...] whose mean, given the state at t, is `mean`."""
        if denoise.paths is None:
            raise ValueError(f"{self.name} is stochastic and needs Brownian paths; sample with optsteps.sample")
        process = denoise.process
        variance = (self.decay(process, t, t_next) * process.sigma(t)) ** 2
        size = (process.sigma(t_next) ** 2 - variance).clamp(min=0).sqrt()
        noise = denoise.paths.increments(self.clock(process, t), self.clock(process, t_next))
        return mean + expand(size, mean) * noise.to(mean)


class StochasticDDIM(Stochastic, Multistep):
    """DDIM with noise (Song et al., arXiv:2010.02502, Eq. 12 and 16): s = eta sigma' sqrt(1 - e^-2h),
    x_next = alpha' D + sqrt(sigma'^2 - s^2) eps + s n, h the step in log-SNR. AYS's Stochastic-DDIM is eta = 1.

    Args:
        eta: from 0, DDIM, to 1, DDPM's posterior.
    """

    name: ClassVar[str] = "ddim_stochastic"
    orders_known: ClassVar[range] = range(1, 2)
    extrapolates = "D"

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


class SDEDPMpp(Stochastic):
    """Base of the SDE forms of DPM-Solver++ (Lu et al., arXiv:2211.01095, App. A; eta as in k-diffusion's
    multistep samplers): phi = rho^(1 + eta), so that

    a = (sigma' / sigma) e^(-eta h),  b = alpha' (1 - e^(-(1 + eta) h)),

    and D is integrated against an exponential of the rate 1 + eta where the ODE's is 1.
    """

    def __init__(self, eta: float) -> None:
        if eta < 0:
            raise ValueError(f"eta must not be negative, got {eta}")
        self.eta = eta

    def decay(self, process: Process, t: Tensor, t_next: Tensor) -> Tensor:
        return process.sigma(t_next) / process.sigma(t) * level_ratio(process, t, t_next) ** self.eta

    def clock(self, process: Process, t: Tensor) -> Tensor:
        return process.noise_level(t) ** (-2 * self.eta)


class SDEDPMpp2S(SDEDPMpp, DPMpp2S):
    """SDE-DPM-Solver++(2S) with r = 1/2 (k-diffusion's `sample_dpmpp_sde`): the exponential midpoint rule, two
    evaluations a step, the noise of the midpoint and of the end read off one path.

    Args:
        eta: 0 is DPM-Solver++(2S), 1 the published SDE.
    """

    name: ClassVar[str] = "sde_dpmpp_2s"

    def __init__(self, eta: float = 1.0) -> None:
        super().__init__(eta)

    def inner(self, x: Tensor, first: Tensor, t: Tensor, s: Tensor, a: Tensor, b: Tensor, denoise: Denoise) -> Tensor:
        return self.perturbed(super().inner(x, first, t, s, a, b, denoise), t, s, denoise)


class SDEDPMpp2M(SDEDPMpp, Multistep):
    """SDE-DPM-Solver++(2M): D extrapolated from the last output, x_next = a x + b (D + (h / 2 h_1) (D - D_1)) + noise.

    As in diffusers, walks of fewer than 15 steps end on order 1.

    Args:
        eta: 0 is DPM-Solver++(2M), 1 the published SDE.
        kind: as in `DPMpp2M`.
    """

    name: ClassVar[str] = "sde_dpmpp_2m"
    orders_known: ClassVar[range] = range(1, 3)
    extrapolates = "D"

    def __init__(
        self, order: int = 2, eta: float = 1.0, kind: SolverType = "midpoint", lower_order_final: bool = True
    ) -> None:
        SDEDPMpp.__init__(self, eta)
        Multistep.__init__(self, order, lower_order_final)
        self.kind = check_kind(kind)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        return linear_weights(process, times, 1 + self.eta, self.kind)


class SDEDPMpp3M(SDEDPMpp, Multistep):
    """SDE-DPM-Solver++(3M), k-diffusion's `sample_dpmpp_3m_sde`: `DPMpp3M` with the rate 1 + eta, and noise.

    diffusers' third-order SDE step has the sign of the second difference's constant reversed, so that its weight does
    not vanish with the step; with that mended it is the same. k-diffusion keeps the order to the end.

    Args:
        eta: 0 is DPM-Solver++(3M), 1 the SDE.
        corrected, kind: as in `DPMpp3M`; k-diffusion starts with "heun", diffusers with "midpoint".
    """

    name: ClassVar[str] = "sde_dpmpp_3m"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "D"

    def __init__(
        self,
        order: int = 3,
        eta: float = 1.0,
        corrected: bool = False,
        kind: SolverType = "heun",
        lower_order_final: bool = False,
    ) -> None:
        SDEDPMpp.__init__(self, eta)
        Multistep.__init__(self, order, lower_order_final)
        self.corrected, self.kind = corrected, check_kind(kind)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        if times.shape[-1] == 3:
            return linear_weights(process, times, 1 + self.eta, self.kind)
        return quadratic_weights(process, times, 1 + self.eta, self.corrected)


class ERSDE(Stochastic, Multistep):
    """Extended-reverse-time SDE solver of orders 1 to 3 (Cui et al., arXiv:2309.06169, Algorithms 1 to 3), with the
    paper's noise scale phi(rho) = rho (e^(rho^0.3) + 10).

    Its authors keep the order to the end. The remembered outputs give D'(rho) and D''(rho) by backward differences, and
    Taylor's polynomial of D about rho_s is integrated exactly. With I_j = int_{rho_t}^{rho_s} (rho - rho_s)^(j-1) / phi
    d rho and one integration by parts,

        y_t = (phi_t / phi_s) y_s + (1 - phi_t / phi_s) D + (rho_t - rho_s + phi_t I_1) D'
              + ((rho_t - rho_s)^2 / 2 + phi_t I_2) D'' + noise,
        D' = (D - D_1) / (rho_s - rho_1),  D'' = 2 (D' - D'_1) / (rho_s - rho_2).

    Args:
        order: 1, 2 or 3.
        corrected: correct D' for D'', so that the polynomial passes through all three outputs; False as published.
    """

    name: ClassVar[str] = "er_sde"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "D"

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
        end, start, past = rho[..., 0], rho[..., 1], rho[..., 2:]
        # the integrals in log rho, where 1 / phi is smooth
        nodes, node_weights = (part.to(times.device) for part in QUADRATURE)
        length = (start.log() - end.log())[..., None]
        positions = (end.log()[..., None] + length * nodes).exp()
        measure = node_weights * length / self.excess(positions)  # d rho / phi
        scale = (end * self.excess(end))[..., None]
        first, second = (
            (end - start) ** j / j + (scale * measure * (positions - start[..., None]) ** (j - 1)).sum(-1)
            for j in (1, 2)
        )
        slope = -1 / (start - past[..., 0])  # D' in (D_1 - D)
        if past.shape[-1] == 1:
            return (process.alpha(times[..., 0]) * first * slope)[..., None]
        gap = past[..., 0] - past[..., 1]
        slopes = torch.stack([slope, torch.zeros_like(slope)], -1)
        before = torch.stack([1 / gap, -1 / gap], -1)
        curvature = 2 * (slopes - before) / (start - past[..., 1])[..., None]
        if self.corrected:
            slopes = slopes + curvature / 2 * (start - past[..., 0])[..., None]
        return process.alpha(times[..., 0])[..., None] * (first[..., None] * slopes + second[..., None] * curvature)


def level_ratio(process: Process, t: Tensor, t_next: Tensor) -> Tensor:
    """e^-h = noise_level(t_next) / noise_level(t), finite where alpha(t) is 0."""
    return process.sigma(t_next) * process.alpha(t) / (process.sigma(t) * process.alpha(t_next))
