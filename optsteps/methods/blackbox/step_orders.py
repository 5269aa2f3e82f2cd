"""The order of every step as further numbers of a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optsteps.methods.base import Orders, SearchProblem
from optsteps.methods.blackbox.spaces import Space, StickBreaking
from optsteps.schedules import Schedule
from optsteps.solvers.multistep import Multistep


@dataclass(frozen=True)
class StepOrders:
    """The schedules of a space of times, and for every step of a multistep solver one of the orders that it can have.

    USF (arXiv:2312.07243) searches them beside the times, by evolution. Here a step whose memory allows the orders 1 to
    m has one more number in [0, m], which is cut into m equal parts. Steps that can have one order alone have none.

    Args:
        times: the space of the times.
        solver: whose orders they are.
        most: the highest order [n] of every step.
    """

    times: Space
    solver: Multistep
    most: tuple[int, ...]

    @classmethod
    def beside(cls, times: Space, solver: Multistep) -> StepOrders:
        """The space of these times, and the orders that the steps of any of them can have."""
        middle = times.schedule((times.lower + times.upper) / 2)
        highest = replace(middle, orders=(solver.order,) * middle.steps)
        return cls(times, solver, tuple(solver.usable_orders(highest)))

    @property
    def lower(self) -> Tensor:
        return torch.cat([self.times.lower, torch.zeros(len(self._choosing), dtype=torch.float64)])

    @property
    def upper(self) -> Tensor:
        return torch.cat([self.times.upper, self._highest.double()])

    def schedule(self, numbers: Tensor) -> Schedule:
        """It has orders where they are others than the solver's own."""
        schedule = self.times.schedule(self._of_times(numbers))
        orders = torch.ones(schedule.steps, dtype=torch.long)
        orders[self._choosing] = torch.minimum(numbers[len(self.times.lower) :].long() + 1, self._highest)
        own = self.solver.usable_orders(schedule)
        return schedule if orders.tolist() == own else replace(schedule, orders=tuple(orders.tolist()))

    def numbers(self, schedule: Schedule) -> Tensor:
        orders = torch.tensor(self.solver.usable_orders(schedule))[self._choosing]
        return torch.cat([self.times.numbers(schedule), torch.minimum(orders, self._highest) - 0.5])

    def hits(self, numbers: Tensor) -> list[str]:
        return self.times.hits(self._of_times(numbers))  # there are no further orders

    def widened(self, numbers: Tensor) -> StepOrders:
        return replace(self, times=self.times.widened(self._of_times(numbers)))

    @property
    def _choosing(self) -> list[int]:
        """The steps that have a number."""
        return [step for step, most in enumerate(self.most) if most > 1]

    @property
    def _highest(self) -> Tensor:
        """Their highest orders."""
        return torch.tensor([most for most in self.most if most > 1], dtype=torch.long)

    def _of_times(self, numbers: Tensor) -> Tensor:
        return numbers[: len(self.times.lower)]


def gaps(problem: SearchProblem, steps: int, free: bool, orders: Orders, candidates: Sequence[Schedule]) -> Space:
    """The space of gaps around the candidates, and of orders where these are chosen.

    Raises:
        ValueError: orders to choose where the solver has one alone; otherwise as `StickBreaking`.
    """
    times = StickBreaking.around(problem.teacher, steps, free, candidates)
    if orders == "fixed":
        return times
    solver = problem.solver
    if not isinstance(solver, Multistep) or solver.order == 1:
        raise ValueError(f"{solver.name} has no orders to choose from: set method.orders=fixed")
    return StepOrders.beside(times, solver)
