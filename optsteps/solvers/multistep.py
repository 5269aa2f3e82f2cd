"""Solvers of one evaluation per step that remember: coefficients of the times, and nothing else.

Every one of them takes the first-order step and corrects it by what the remembered outputs q differ from the newest:

    x_next = a x + b D + sum_k w_k (q_k - q_0),   a, b of `first_order`,

where q is the quantity the solver extrapolates: D itself, or eps = (x - alpha D) / sigma. A solver that integrates
constants exactly can be written so whatever its paper's form, and written so it is finite at both ends of the range.
Below, h is the step in log-SNR lambda = log(alpha / sigma), h_k the distance to the k-th remembered time.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.solvers.base import Denoise, Solver, State, first_order, is_clean

# Gauss-Legendre quadrature on [0, 1]: nodes and weights
_POINTS, _SHARES = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(24))
QUADRATURE = ((_POINTS + 1) / 2, _SHARES / 2)


class Multistep(Solver):
    """What the solvers with a memory share; each gives its weights.

    The state is (times [B, K], outputs [B, K, ...]), newest first, K growing from 0 to order - 1. A time of NaN marks
    an output that is absent: a flow's t = 1, where the noise level is infinite, is not remembered. A walk starts with
    nothing remembered, so its first steps are of low order: they hold the whole walk to order 2 (UniPC's corrector: 3),
    and a higher order shows once the memory is full.

    Args:
        order: of the solver: it uses up to order - 1 remembered outputs, fewer where there are fewer.
        lower_order_final: let the order fall to 1 over the last steps, as diffusers does for few steps.

    Raises:
        ValueError: an order the solver does not have.
    """

    orders_known: ClassVar[range]
    extrapolates: ClassVar[Literal["D", "eps"]]

    def __init__(self, order: int, lower_order_final: bool = False) -> None:
        if order not in self.orders_known:
            raise ValueError(f"{self.name} has the orders {list(self.orders_known)}, not {order}")
        self.order, self.lower_order_final = order, lower_order_final

    @abstractmethod
    def weights(self, process: Process, times: Tensor) -> Tensor:
        """w_1 ... w_{m-1} [..., m-1] in float64, for times [..., m+1] = (t_next, t, t_1, ..., t_{m-1}), m at least 2,
        all of them with a finite, positive noise level."""

    def orders(self, steps: int) -> list[int]:
        if not self.lower_order_final:
            return [self.order] * steps
        return [min(self.order, steps - i) for i in range(steps)]

    @property
    def memory(self) -> int:
        """How many outputs the state holds at most, K."""
        return self.order - 1

    def init(self, x: Tensor) -> State:
        return torch.empty(len(x), 0, dtype=torch.float64), x.new_empty(len(x), 0, *x.shape[1:])

    def step(
        self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> tuple[Tensor, State]:
        process = denoise.process
        denoised = denoise(x, t)
        if self.memory == 0:
            a, b = self.base(process, t, t_next)
            return expand(a, x) * x + expand(b, x) * denoised, state
        t, t_next = t.expand(len(x)), t_next.expand(len(x))
        x = self.arrive(process, state, x, t, denoised)
        newest = self.quantity(process, x, t, denoised)
        times, outputs = state[:2]
        orders = self.usable(process, times, t, t_next, self.order if order is None else order)
        a, b = self.base(process, t, t_next)
        x_next = expand(a, x) * x + expand(b, x) * denoised
        weights = _by_order(self.weights, process, torch.stack([t_next, t, *times.unbind(1)], 1), orders, 1)
        for k, weight in enumerate(weights.unbind(1)):
            x_next = x_next + expand(weight, x) * (outputs[:, k] - newest)
        return x_next, self.remember(process, state, x, t, newest, orders)

    def base(self, process: Process, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
        """a and b of the step without memory."""
        return first_order(process, t, t_next)

    def arrive(self, process: Process, state: State, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """Where the step from t [B] leaves from, for the x [B, ...] that arrived there and its D."""
        return x

    def quantity(self, process: Process, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """What is extrapolated and remembered, of x [B, ...] and its D."""
        if self.extrapolates == "D":
            return denoised
        return (x - expand(process.alpha(t), x) * denoised) / expand(process.sigma(t), x)

    def usable(self, process: Process, times: Tensor, t: Tensor, t_next: Tensor, order: int) -> Tensor:
        """The order [B], at most `order`, of a step from t [B] to t_next [B] with the remembered times [B, K]."""
        present = torch.isfinite(times).sum(1) + 1
        single = is_clean(process, t_next) | (process.alpha(t) == 0)
        return present.clamp(max=min(order, self.order)).masked_fill(single, 1)

    def remember(self, process: Process, state: State, x: Tensor, t: Tensor, newest: Tensor, orders: Tensor) -> State:
        """The state after leaving x at t [B], whose output is `newest`, with a step of the given orders [B]."""
        absent = process.alpha(t) == 0
        times = torch.cat([t.masked_fill(absent, torch.nan)[:, None], state[0]], 1)
        outputs = torch.cat([newest[:, None], state[1]], 1)
        return times[:, : self.memory], outputs[:, : self.memory]


class Euler(Multistep):
    """Euler's method, the same map as DDIM (Song et al., arXiv:2010.02502, Eq. 12 with eta = 0), under every process:
    D and eps = (x - alpha D) / sigma are held constant over the step. Order 1."""

    name: ClassVar[str] = "euler"
    orders_known: ClassVar[range] = range(1, 2)
    extrapolates = "D"

    def __init__(self) -> None:
        super().__init__(1)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        raise AssertionError("a first-order step remembers nothing")


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


class DEIS(Multistep):
    """DEIS, exponential Adams-Bashforth on eps (Zhang & Chen, arXiv:2204.13902, Eq. 15), orders 1 to 3.

    x_next / alpha' = x / alpha + sum_k eps_k integral of l_k(clock) d rho over the step, with rho = sigma / alpha and
    l_k the Lagrange polynomials through the remembered eps.

    Args:
        kind: the clock in which eps is taken for a polynomial: "tab" the process's own time, "logrho" log rho (the
            form that diffusers has).
    """

    name: ClassVar[str] = "deis"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "eps"

    def __init__(self, order: int = 3, kind: Literal["tab", "logrho"] = "tab", lower_order_final: bool = False) -> None:
        super().__init__(order, lower_order_final)
        if kind not in ("tab", "logrho"):
            raise ValueError(f"kind must be 'tab' or 'logrho', got {kind!r}")
        self.kind = kind

    def weights(self, process: Process, times: Tensor) -> Tensor:
        if self.kind == "logrho":
            return _adams_weights(process, times, lambda log_rho: log_rho)
        return _adams_weights(process, times, lambda log_rho: process.time_of_log_snr(-log_rho))


class IPNDM(Multistep):
    """Improved PNDM: Adams-Bashforth on eps in rho = sigma / alpha (Liu et al., arXiv:2202.09778; Zhang & Chen,
    arXiv:2204.13902, App. on iPNDM), orders 1 to 4.

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


class UniPC(Multistep):
    """UniPC (Zhao et al., arXiv:2302.04867, Algorithms 5-8, x_0-prediction), orders 1 to 3 of the predictor.

    With r_k = (lambda_k - lambda) / h the predictor is x_next = a x + b D - alpha' B(h) sum_k rho_k (D_k - D) / r_k,
    and rho solves sum_k rho_k r_k^(i-1) = i! (-h) phi_{i+1}(-h) / B(h). The corrector is the same with the evaluation
    at t_next itself among the D_k: it costs nothing, for that evaluation is the next step's. It takes the state that
    arrives at a time and leaves from a better one, one order higher.

    The state is that of `Multistep` with the order [B] of the step that led here.

    Args:
        kind: B(h): "bh1" is -h, "bh2" e^-h - 1.
        corrector: False for the predictor alone, UniP.
    """

    name: ClassVar[str] = "unipc"
    orders_known: ClassVar[range] = range(1, 4)
    extrapolates = "D"

    def __init__(
        self,
        order: int = 2,
        kind: Literal["bh1", "bh2"] = "bh2",
        corrector: bool = True,
        lower_order_final: bool = False,
    ) -> None:
        super().__init__(order, lower_order_final)
        if kind not in ("bh1", "bh2"):
            raise ValueError(f"kind must be 'bh1' or 'bh2', got {kind!r}")
        self.kind, self.corrector = kind, corrector

    @property
    def memory(self) -> int:
        return self.order if self.corrector else self.order - 1

    def init(self, x: Tensor) -> State:
        return *super().init(x), torch.zeros(len(x), dtype=torch.long)

    def weights(self, process: Process, times: Tensor) -> Tensor:
        alpha_next, h, ratios = log_snr_steps(process, times)
        return self._solved(alpha_next, h, -ratios)

    def corrector_weights(self, process: Process, times: Tensor) -> Tensor:
        """Weights of (D(t_next) - D, D_1 - D, ..., D_{m-1} - D) [..., m] for times [..., m+1] as in `weights`."""
        alpha_next, h, ratios = log_snr_steps(process, times)
        return self._solved(alpha_next, h, torch.cat([torch.ones_like(h)[..., None], -ratios], -1))

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

    def arrive(self, process: Process, state: State, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        times, outputs, left_order = state
        if not self.corrector or times.shape[1] == 0:
            return x
        orders = left_order.masked_fill(~torch.isfinite(times[:, 0]), 0)
        all_times = torch.cat([t[:, None], times], 1)
        # what the predictor added to its first-order step is taken back, the corrector's put in its place
        others = [denoised, *outputs[:, 1:].unbind(1)]
        for weight, other in zip(
            _by_order(self.corrector_weights, process, all_times, orders, 0).unbind(1), others, strict=False
        ):
            x = x + expand(weight, x) * (other - outputs[:, 0])
        for weight, other in zip(
            _by_order(self.weights, process, all_times, orders, 1).unbind(1), others[1:], strict=False
        ):
            x = x - expand(weight, x) * (other - outputs[:, 0])
        return x

    def remember(self, process: Process, state: State, x: Tensor, t: Tensor, newest: Tensor, orders: Tensor) -> State:
        return *super().remember(process, state, x, t, newest, orders), orders


def _by_order(
    weights: Callable[[Process, Tensor], Tensor], process: Process, times: Tensor, orders: Tensor, fewest: int
) -> Tensor:
    """weights(process, times[b, : m + 1]) of every sample b at its own order m [B], 0 beyond; none up to `fewest`.

    A solver's weights at order m number m - fewest.
    """
    highest = int(orders.max())
    if highest <= fewest:
        return times.new_zeros(len(times), 0)
    if int(orders.min()) == highest:
        return weights(process, times[:, : highest + 1])
    found = times.new_zeros(len(times), highest - fewest)
    for m in range(fewest + 1, highest + 1):
        rows = (orders == m).nonzero()
        if len(rows):
            own = weights(process, times[rows[:, 0], : m + 1])
            found = found.index_put((rows, torch.arange(m - fewest)), own)
    return found


def phi(k: int, z: Tensor) -> Tensor:
    """The exponential integrators' phi_k(z) = integral over [0, 1] of e^((1 - s) z) s^(k-1) / (k-1)! ds, k >= 1.

    By quadrature, exact to rounding for |z| < 30, where the closed forms lose all digits as z goes to 0.
    """
    nodes, weights = (part.to(z.device) for part in QUADRATURE)
    return (torch.exp((1 - nodes) * z[..., None]) * (weights * nodes ** (k - 1))).sum(-1) / math.factorial(k - 1)


def log_snr_steps(process: Process, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha(t_next) [...], h [...] and h_k / h [..., m-1] for times [..., m+1] = (t_next, t, t_1, ...)."""
    log_snr = process.log_snr(times)
    h = log_snr[..., 0] - log_snr[..., 1]
    return process.alpha(times[..., 0]), h, (log_snr[..., 1:2] - log_snr[..., 2:]) / h[..., None]


def _adams_weights(process: Process, times: Tensor, clock: Callable[[Tensor], Tensor]) -> Tensor:
    """alpha' times the integrals over the step of l_k(clock) d rho, k >= 1 [..., m-1], l_k the Lagrange polynomials on
    the clock's values at t, t_1, ..., t_{m-1}; quadrature in log rho, where clocks are smooth (but for the kinks of
    VP's at its timesteps, which cost a relative 3e-4 of a weight at worst)."""
    log_rho = -process.log_snr(times)
    start, length = log_rho[..., 1, None], (log_rho[..., 0] - log_rho[..., 1])[..., None]
    nodes, weights = (part.to(times.device) for part in QUADRATURE)
    places = start + length * nodes  # [..., nodes]
    measure = weights * length * places.exp()
    here, known = clock(places), clock(log_rho[..., 1:])
    found = []
    for k in range(1, known.shape[-1]):
        polynomial = torch.ones_like(here)
        for j in range(known.shape[-1]):
            if j != k:
                polynomial = polynomial * (here - known[..., j, None]) / (known[..., k] - known[..., j])[..., None]
        found.append((measure * polynomial).sum(-1))
    return process.alpha(times[..., 0])[..., None] * torch.stack(found, -1)
