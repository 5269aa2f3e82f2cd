"""Solvers of one evaluation per step that remember: coefficients of the times, and nothing else.

Every one of them takes the first-order step and corrects it by what the remembered outputs q differ from the newest:

    x_next = a x + b D + sum_k w_k (q_k - q_0),   a, b of `first_order`,

where q is the quantity the solver extrapolates: D itself, or eps = (x - alpha D) / sigma. A solver that integrates
constants exactly can be written so whatever its paper's form, and written so it is finite at both ends of the range.
Below, h is the step in log-SNR lambda = log(alpha / sigma), h_k the distance to the k-th remembered time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.solvers.base import Denoise, Solver, State, first_order, is_clean


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
        weights = by_order(self.weights, process, torch.stack([t_next, t, *times.unbind(1)], 1), orders, 1)
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


def by_order(
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
