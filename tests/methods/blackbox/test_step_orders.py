"""Orders as numbers of the box: every choice is a part of it, and a search finds the best of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import PROCESSES, mixture_problem, noise, teacher, three_gaussians
from torch import Tensor

from optsteps.methods import CMAES, Bayesian, HandMade
from optsteps.methods.blackbox.search import asked_for
from optsteps.methods.blackbox.spaces import StickBreaking, at_share
from optsteps.methods.blackbox.step_orders import StepOrders
from optsteps.methods.blackbox.trials import Trials
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import build_solver
from optsteps.solvers.multistep import Multistep

SOLVERS = ["dpmpp_2m", "dpmpp_3m", "ipndm", "unipc"]


def space_of(process: str, solver: str, steps: int, free: bool = False) -> StepOrders:
    built = build_solver(solver)
    assert isinstance(built, Multistep)
    return StepOrders.beside(StickBreaking.around(teacher(PROCESSES[process], 40), steps, free, []), built)


def orders_of(schedule: Schedule, space: StepOrders) -> tuple[int, ...]:
    return tuple(space.solver.usable_orders(schedule))


@given(
    st.sampled_from(list(PROCESSES)),
    st.sampled_from(SOLVERS),
    st.integers(2, 8),
    st.booleans(),
    st.lists(st.floats(0, 1), min_size=20, max_size=20),
)
def test_a_point_is_a_schedule_and_its_numbers_give_it_again(
    process: str, solver: str, steps: int, free: bool, shares: list[float]
) -> None:
    space = space_of(process, solver, steps, free)
    schedule = space.schedule(at_share(torch.tensor(shares[: len(space.lower)], dtype=torch.float64), space))
    assert schedule.steps == steps
    numbers = space.numbers(schedule)
    assert ((space.lower <= numbers) & (numbers <= space.upper)).all()
    again = space.schedule(numbers)
    assert orders_of(again, space) == orders_of(schedule, space)
    assert (again.orders is None) == (schedule.orders is None)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_parts_of_the_box_are_all_choices_of_orders(process: str) -> None:
    """The first step of a walk has one order alone, as has the last to noise level 0, and a flow's second."""
    space = space_of(process, "ipndm", 4)
    most = {"edm": (1, 2, 3, 4), "vp": (1, 2, 3, 1), "flow": (1, 1, 2, 1)}[process]
    assert space.most == most
    found = set()
    for parts in product(*([(k + 0.5) for k in range(m)] for m in most if m > 1)):
        numbers = torch.cat([torch.zeros(3, dtype=torch.float64), torch.tensor(parts, dtype=torch.float64)])
        found.add(orders_of(space.schedule(numbers), space))
    assert found == set(product(*(range(1, m + 1) for m in most)))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_solvers_own_orders_are_left_to_it(solver: str) -> None:
    space = space_of("edm", solver, 5)
    own = space.times.schedule(torch.zeros(4, dtype=torch.float64))
    assert space.schedule(space.numbers(own)).orders is None
    first_order = replace(own, orders=(1,) * 5)
    assert space.schedule(space.numbers(first_order)).orders == (1,) * 5


def test_a_bound_is_hit_by_times_alone_and_the_orders_stay() -> None:
    space = space_of("edm", "ipndm", 4)
    assert space.hits(torch.cat([torch.zeros(3).double(), space.upper[3:]])) == []
    wider = space.widened(space.upper)
    assert space.hits(space.upper) == ["gap 1 at its most", "gap 2 at its most", "gap 3 at its most"]
    assert (wider.upper[:3] > space.upper[:3]).all()
    assert torch.equal(wider.upper[3:], space.upper[3:])


@pytest.mark.parametrize("search", ["bayesian", "cmaes"])
def test_the_best_orders_are_found(search: str) -> None:
    """Of a figure whose best times and orders are known."""
    pytest.importorskip("sklearn")
    pytest.importorskip("cmaes")
    method: Any = {
        "bayesian": Bayesian("it", {}, free_ends=False, orders="chosen", rounds=20, batch=4),
        "cmaes": CMAES("it", {}, free_ends=False, orders="chosen", rounds=40, population=8),
    }[search]
    problem = replace(mixture_problem("edm", 8, 40), solver=build_solver("ipndm"))
    space, best, at = method.space(problem, 4, []), (1, 2, 1, 3), torch.tensor([0.4, -0.3, 0.2]).double()

    def measured(points: Tensor) -> Trials:
        orders = torch.tensor([orders_of(space.schedule(point), space) for point in points])
        values = (points[:, :3] - at).square().sum(1) + (orders - torch.tensor(best)).abs().sum(1)
        return Trials(points, values, torch.zeros_like(values))

    first = measured(space.numbers(space.times.schedule(torch.zeros(3).double()))[None])
    trials = asked_for(method.ask, measured, space, first, range(method.rounds))
    assert orders_of(space.schedule(trials.numbers[trials.order[0]]), space) == best


def test_a_search_samples_with_the_orders_that_it_found() -> None:
    """What it promises is what a walk of its schedule gives."""
    pytest.importorskip("sklearn")
    clock = PROCESSES["edm"]
    problem = replace(mixture_problem("edm", 96, 40), solver=build_solver("ipndm"), noise=noise(96, 2))
    search = Bayesian("nearness", {"edm": HandMade("edm")}, free_ends=False, orders="chosen", rounds=12, batch=4)
    found = search.search(problem, [4]).schedules[4]
    assert found.metadata["taken"]

    def error(schedule: Schedule) -> float:
        x = noise(256, 2, seed=7)
        denoiser = three_gaussians().denoiser(clock)
        far = sample(denoiser, problem.teacher, build_solver("euler"), x)
        return float((sample(denoiser, schedule, problem.solver, x) - far).square().mean())

    assert error(found) < error(HandMade("edm").schedules(problem, 4)[0])


@pytest.mark.parametrize(
    ("solver", "orders", "says"), [("euler", "chosen", "euler has no orders"), ("ipndm", "free", "orders must be")]
)
def test_orders_that_cannot_be_chosen(solver: str, orders: Any, says: str) -> None:
    problem = replace(mixture_problem("edm", 32, 24), solver=build_solver(solver))
    with pytest.raises(ValueError, match=says):
        Bayesian("nearness", {"edm": HandMade("edm")}, orders=orders).check(problem, [3])
