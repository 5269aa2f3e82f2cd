"""Multistep solvers: one evaluation per step, remembered outputs, and coefficients that depend on the times alone.

Each takes the first-order step and corrects it by the differences of the remembered outputs q from the newest:

    x_next = a x + b D + sum_k w_k (q_k - q_0),   a, b of `Solver.base`,

where q is the quantity the solver extrapolates: D itself, or eps = (x - alpha D) / sigma. Every solver that integrates
constants exactly has this form, whatever its paper's, and in this form it is finite at both ends of the range. A
schedule may have weights of its own (`Schedule.weights`), which a walk takes in place of the solver's; `step`, which
searches use, knows none.
Below, h is the step in log-SNR lambda = log(alpha / sigma), h_k the distance to the k-th remembered time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from optsteps.denoisers import expand
from optsteps.processes import Process
from optsteps.schedules import Schedule
from optsteps.solvers.base import Denoise, Move, Solver, State, is_clean


class Multistep(Solver):
    """Base of the solvers with a memory; each gives its weights.

    The state is (times [B, K], outputs [B, K, ...], order [B] of the step that led here), newest first, K growing from
    0 to order - 1. A time of NaN marks an output that is absent: a flow's t = 1, where the noise level is infinite, is
    not remembered. A walk starts with nothing remembered, so its first steps are of low order: they hold the whole walk
    to order 2 (UniPC's corrector: 3), and a higher order shows once the memory is full.

    Args:
        order: of the solver, which uses up to order - 1 remembered outputs, as far as there are so many.
        lower_order_final: let the order fall to 1 over the last steps of a walk of fewer than `few_steps`. The default
            of every solver is that of its authors' code, named in its docstring.

    Attributes:
        few_steps: below so many steps a lower order at the end steadies the walk (DPM-Solver++'s rule, Lu et al.,
            arXiv:2211.01095, released code; diffusers has it for all but UniPC).

    Raises:
        ValueError: an order the solver does not have.
    """

    orders_known: ClassVar[range]
    extrapolates: ClassVar[Literal["D", "eps"]]
    obeys_weights: ClassVar[bool] = True
    few_steps: ClassVar[float] = 15

    def __init__(self, order: int, lower_order_final: bool = False) -> None:
        if order not in self.orders_known:
            raise ValueError(f"{self.name} has the orders {list(self.orders_known)}, not {order}")
        self.order, self.lower_order_final = order, lower_order_final

    @abstractmethod
    def weights(self, process: Process, times: Tensor) -> Tensor:
        """w_1 ... w_{m-1} [..., m-1] in float64, for times [..., m+1] = (t_next, t, t_1, ..., t_{m-1}), m at least 2,
        all of them with a finite, positive noise level."""

    def orders(self, steps: int) -> list[int]:
        if not self.lower_order_final or steps >= self.few_steps:
            return [self.order] * steps
        return [min(self.order, steps - i) for i in range(steps)]

    @property
    def memory(self) -> int:
        """The largest number of outputs that the state holds, K."""
        return self.order - 1

    def usable_orders(self, schedule: Schedule) -> list[int]:
        """The orders [n] of the steps of a walk: those of the schedule, or else the solver's own, as far as the memory
        allows."""
        return self._planned(schedule)[-1].tolist()

    def own_weights(self, schedule: Schedule, columns: int | None = None) -> Tensor:
        """The solver's own weights of the steps of `schedule`, in float64: a walk of the same schedule with these as
        its `weights`, and no orders, gives the same samples to the last bit.

        Args:
            schedule: its orders count where it has them, and its weights do not. UniPC's corrector follows the orders
                too, and no weights hold that: with orders that are not its own it corrects otherwise.
            columns: K. None: the solver's memory, at least 1.

        Returns:
            [n, K], 0 where a step does not use an output. Differentiable in the schedule's times.

        Raises:
            ValueError: fewer columns than the steps use.
        """
        process, t, t_next, times, orders = self._planned(schedule)
        _, weights, _ = self._coefficients(process, t, t_next, times, orders, torch.zeros_like(orders))
        least = max(weights.shape[1], 1)
        columns = max(self.memory, 1) if columns is None else columns
        if columns < least:
            raise ValueError(
                f"the steps of {self.name} on this schedule need {least} columns of weights, one for each remembered "
                f"output, got columns={columns}"
            )
        return torch.nn.functional.pad(weights, (0, columns - weights.shape[1]))

    def step_lengths(self, schedule: Schedule) -> Tensor:
        """By what each step [n] multiplies the quantity that it extrapolates, float64: its weights are of this size."""
        process, t, t_next = self.formulas(schedule.process), schedule.times[:-1], schedule.times[1:]
        _, of_denoised = self.base(process, t, t_next)
        if self.extrapolates == "D":
            return of_denoised
        alpha = process.alpha(t)
        return torch.where(alpha > 0, -of_denoised * process.sigma(t) / alpha, 0.0)

    def check(self, schedule: Schedule) -> None:
        super().check(schedule)
        if schedule.weights is None:
            return
        weights, remembered = schedule.weights.detach(), self.remembered_counts(schedule)
        absent = (torch.arange(weights.shape[1]) >= remembered[:, None]) & (weights != 0)
        if bool(absent.any()):
            step, k = absent.nonzero()[0].tolist()
            raise ValueError(
                f"weight {k + 1} of step {step + 1} is {weights[step, k].item()!r}, and belongs to the output of step "
                f"{step - k}, which {self.name} does not remember since alpha is 0 there: it must be 0"
            )

    def remembered_counts(self, schedule: Schedule) -> Tensor:
        """How many of the outputs before each step [n] can be remembered: all but that of pure noise, a first time."""
        kept = (self.formulas(schedule.process).alpha(schedule.times[:-1].detach()) != 0).long()
        return kept.cumsum(0) - kept

    def init(self, x: Tensor) -> State:
        nothing = torch.empty(len(x), 0, dtype=torch.float64)
        return nothing, x.new_empty(len(x), 0, *x.shape[1:]), torch.zeros(len(x), dtype=torch.long)

    def step(
        self, state: State, x: Tensor, t: Tensor, t_next: Tensor, denoise: Denoise, order: int | None = None
    ) -> tuple[Tensor, State]:
        process, (times, outputs, left) = self.formulas(denoise.process), state
        denoised = denoise(x, t)
        t, t_next = t.expand(len(x)), t_next.expand(len(x))
        orders = self.usable(process, times, t, t_next, self.order if order is None else order)
        single, weights, arrival = self._coefficients(process, t, t_next, times, orders, left)
        numbers = [[expand(column, x) for column in part.unbind(1)] for part in (single, weights, arrival)]
        x_next, newest = self._advance(numbers, outputs.unbind(1), x, denoised)
        return x_next, self.remember(process, state, t, newest, orders)

    def moves(self, schedule: Schedule, x: Tensor) -> list[Move]:
        process, t, t_next, times, orders = self._planned(schedule)
        left = torch.cat([orders.new_zeros(1), orders[:-1]])
        single, own, arrival = self._coefficients(process, t, t_next, times, orders, left)
        weights, used, memory = own, orders - 1, self.memory
        if schedule.weights is not None:  # the arrival's corrections stay the solver's own
            weights, used = schedule.weights, self.remembered_counts(schedule)
            memory = max(memory, weights.shape[1])
        dtype = torch.promote_types(x.dtype, torch.float32)
        rows = [_rows(part.to(dtype)) for part in (single, weights, arrival)]

        def move(i: int, outputs: State, x: Tensor, denoise: Denoise) -> tuple[Tensor, State]:
            numbers = rows[0][i], rows[1][i][: used[i]], rows[2][i][: left[i]]
            x_next, newest = self._advance(numbers, outputs, x, denoise(x, t[i]))
            return x_next, (newest, *outputs)[:memory]

        return [partial(move, i) for i in range(len(t))]

    def _planned(self, schedule: Schedule) -> tuple[Process, Tensor, Tensor, Tensor, Tensor]:
        """Of the steps of `schedule`: the process of their formulas, the times [n] that they leave and that they arrive
        at, the remembered times [n, K], and the solver's orders [n]."""
        process, t, t_next = self.formulas(schedule.process), schedule.times[:-1], schedule.times[1:]
        requested = torch.tensor(schedule.orders or self.orders(schedule.steps))
        times = self.remembered(process, t)
        return process, t, t_next, times, self.usable(process, times, t, t_next, requested)

    def _coefficients(
        self, process: Process, t: Tensor, t_next: Tensor, times: Tensor, orders: Tensor, left: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, alpha, sigma) [B, 4] of the steps from t [B] to t_next [B] with the remembered times [B, K], the
        weights of their remembered outputs, and those of the arrival at t with a step of the orders left [B]."""
        single = torch.stack([*self.base(process, t, t_next), process.alpha(t), process.sigma(t)], 1)
        past = torch.cat([t[:, None], times], 1)
        weights = by_order(self.weights, process, torch.cat([t_next[:, None], past], 1), orders, 1)
        return single, weights, self.arrival(process, past, left)

    def _advance(
        self, numbers: Sequence[Sequence[Tensor]], outputs: Sequence[Tensor], x: Tensor, denoised: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x_next and the newest output, by the coefficients shaped to multiply x."""
        (a, b, alpha, sigma), weights, arrival = numbers
        if arrival:
            x = _corrected(x, arrival, [denoised, *outputs[1:]], outputs[0])
        newest = denoised if self.extrapolates == "D" else (x - alpha * denoised) / sigma
        return _corrected(a * x + b * denoised, weights, outputs, newest), newest

    def arrival(self, process: Process, times: Tensor, left: Tensor) -> Tensor:
        """Weights [B, A] of (D - q_1, q_2 - q_1, ..., q_A - q_1) by which a state that arrives at t with a step of the
        order left [B], 0 for none, is corrected before it leaves; times [B, K+1] = (t, t_1, ..., t_K)."""
        return times.new_zeros(len(times), 0)

    def arrive(self, process: Process, state: State, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """The state that the step from t [B] leaves from, for the x [B, ...] that arrived there and its D."""
        times, outputs, left = state
        weights = self.arrival(process, torch.cat([t[:, None], times], 1), left)
        if weights.shape[1] == 0:
            return x
        columns = [expand(column, x) for column in weights.unbind(1)]
        return _corrected(x, columns, [denoised, *outputs.unbind(1)[1:]], outputs[:, 0])

    def quantity(self, process: Process, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """The quantity that is extrapolated and remembered, of x [B, ...] and its D."""
        if self.extrapolates == "D":
            return denoised
        return (x - expand(process.alpha(t), x) * denoised) / expand(process.sigma(t), x)

    def remembered(self, process: Process, t: Tensor) -> Tensor:
        """The times [n, K] that the steps of a walk remember which leave from t [n] in turn, newest first."""
        finite = _unless_pure_noise(process, t)
        padded = torch.cat([t.new_full((self.memory,), torch.nan), finite])
        times = [padded[k : k + len(t)] for k in reversed(range(self.memory))]
        return torch.stack(times or [finite], 1)[:, : self.memory]

    def usable(self, process: Process, times: Tensor, t: Tensor, t_next: Tensor, order: int | Tensor) -> Tensor:
        """The order [B], at most `order`, of a step from t [B] to t_next [B] with the remembered times [B, K]."""
        present = torch.isfinite(times).sum(1) + 1
        single = is_clean(process, t_next) | (process.alpha(t) == 0)
        return torch.minimum(present.clamp(max=self.order), torch.as_tensor(order)).masked_fill(single, 1)

    def remember(self, process: Process, state: State, t: Tensor, newest: Tensor, orders: Tensor) -> State:
        """The state after leaving t [B], where the output is `newest`, with a step of the given orders [B]."""
        times = torch.cat([_unless_pure_noise(process, t)[:, None], state[0]], 1)
        outputs = torch.cat([newest[:, None], state[1]], 1)
        return times[:, : self.memory], outputs[:, : self.memory], orders


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


def _unless_pure_noise(process: Process, t: Tensor) -> Tensor:
    """t with NaN where alpha is 0: an output there is not remembered."""
    return t.masked_fill(process.alpha(t) == 0, torch.nan)


def _rows(numbers: Tensor) -> list[tuple[Tensor, ...]]:
    """The rows of numbers [n, P], each of P scalars."""
    return list(zip(*(column.unbind() for column in numbers.unbind(1)), strict=True)) or [()] * len(numbers)


def _corrected(x: Tensor, weights: Sequence[Tensor], outputs: Sequence[Tensor], origin: Tensor) -> Tensor:
    """x + sum_k w_k (q_k - origin)."""
    for weight, output in zip(weights, outputs, strict=False):
        x = x + weight * (output - origin)
    return x


def by_order(
    weights: Callable[[Process, Tensor], Tensor], process: Process, times: Tensor, orders: Tensor, fewest: int
) -> Tensor:
    """weights(process, times[b, : m + 1]) of every sample b at its own order m [B], 0 beyond; none up to `fewest`.

    At order m a solver has m - fewest weights.
    """
    highest = int(orders.max())
    if highest <= fewest:
        return times.new_zeros(len(times), 0)
    if int(orders.min()) == highest:
        return weights(process, times[:, : highest + 1])
    table = times.new_zeros(len(times), highest - fewest)
    for m in range(fewest + 1, highest + 1):
        rows = (orders == m).nonzero()
        if len(rows):
            row_weights = weights(process, times[rows[:, 0], : m + 1])
            table = table.index_put((rows, torch.arange(m - fewest)), row_weights)
    return table
