"""CMA-ES (Hansen, arXiv:1604.00772) over the gaps, by the library cmaes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from optsteps.methods.base import Method, Orders, SearchProblem, checked_orders
from optsteps.methods.blackbox.search import BlackBox
from optsteps.methods.blackbox.spaces import Space, at_share, share_of
from optsteps.methods.blackbox.step_orders import gaps
from optsteps.methods.blackbox.trials import Trials
from optsteps.schedules import Schedule

# the first standard deviation, in widths of the box
_DEVIATION = 0.15


class CMAES(BlackBox):
    """A normal distribution that moves and turns towards what is better, from the best of the pool.

    Needs cmaes (`pip install optsteps[blackbox]`).

    Args:
        criterion, pool, free_ends, rounds, seed, max_batch: see `BlackBox`.
        orders: "fixed": the solver's own. "chosen": those of the steps are searched too (`StepOrders`).
        population: schedules that a round asks for.

    Raises:
        ValueError: a population below 2; in `check`, a single number to search; otherwise as `BlackBox`.
        ImportError: cmaes is not installed.
    """

    def __init__(
        self,
        criterion: str,
        pool: Mapping[str, Method],
        free_ends: bool = True,
        orders: Orders = "fixed",
        rounds: int = 12,
        population: int = 8,
        seed: int = 0,
        max_batch: int = 512,
    ) -> None:
        super().__init__(criterion, pool, free_ends, rounds, seed, max_batch)
        if population < 2:
            raise ValueError(f"population must be at least 2, got {population}")
        self.population, self.orders = population, checked_orders(orders)

    @property
    def asked_per_round(self) -> int:
        return self.population

    def space(self, problem: SearchProblem, steps: int, candidates: Sequence[Schedule]) -> Space:
        space = gaps(problem, steps, self.free_ends, self.orders, candidates)
        if len(space.lower) < 2:
            raise ValueError(f"CMA-ES needs two numbers to search, and {steps} steps here have {len(space.lower)}")
        return space

    def ask(self, space: Space, trials: Trials, number: int) -> Tensor:
        """The rounds before are told again: the state of the search is what it was told."""
        from cmaes import CMA

        shares, values = share_of(trials.numbers, space).numpy(), trials.values.nan_to_num(posinf=1e300).numpy()
        pool = len(trials) - number * self.population
        size = len(space.lower)
        bounds = np.array([[0.0, 1.0]] * size)
        start = shares[values[:pool].argmin()].clip(0.0, 1.0)
        search = CMA(start, _DEVIATION, bounds, seed=self.seed, population_size=self.population)
        for told in range(number):
            for _ in range(self.population):
                search.ask()
            rows = range(pool + told * self.population, pool + (told + 1) * self.population)
            search.tell([(shares[row], float(values[row])) for row in rows])
        return at_share(torch.from_numpy(np.stack([search.ask() for _ in range(self.population)])), space)
