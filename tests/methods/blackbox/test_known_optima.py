"""The searches on functions whose optimum and noise are known: how near they come within stated evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from optsteps.methods import CMAES, Bayesian, Evolution, HandMade
from optsteps.methods.blackbox.search import BlackBox, asked_for
from optsteps.methods.blackbox.spaces import GridTimes, Space
from optsteps.methods.blackbox.trials import Trials
from optsteps.processes import EDM
from optsteps.schedules import build_schedule

POOL = {"edm": HandMade("edm")}
NOISE = 0.05
REPEATS = 5


@dataclass(frozen=True)
class Box:
    """A bare box."""

    lower: Tensor
    upper: Tensor


def bowl(numbers: Tensor, optimum: Tensor) -> Tensor:
    """0 at the optimum, 1 at a distance of 1 in the mean square, with ripples that are lower than its walls."""
    away = numbers - optimum
    return away.square().mean(1) + 0.02 * (1 - (6 * away).cos()).mean(1)


def searched(
    search: BlackBox, space: Space, function: Callable[[Tensor], Tensor], start: Tensor, seed: int
) -> tuple[Tensor, int]:
    """Where the search ranks first, and how often it asked."""
    random = torch.Generator().manual_seed(seed)

    def measure(points: Tensor) -> Trials:
        noise = NOISE * torch.randn(len(points), generator=random, dtype=torch.float64)
        return Trials(points, function(points) + noise, torch.full((len(points),), NOISE, dtype=torch.float64))

    trials = asked_for(search.ask, measure, space, measure(start), range(search.rounds))
    return trials.numbers[search.ranked(space, trials)[0]], len(trials)


@pytest.mark.parametrize("name", ["bayesian", "cmaes"])
def test_they_come_near_the_optimum_of_a_bowl_in_a_box(name: str) -> None:
    """60 evaluations in four dimensions by the process and 100 by CMA-ES, and nearer than the best of 100 at random."""
    pytest.importorskip("sklearn" if name == "bayesian" else "cmaes")
    reached, random = list[float](), list[float]()
    repeats = 2 if name == "bayesian" else REPEATS
    for seed in range(repeats):
        generator = torch.Generator().manual_seed(100 + seed)
        optimum = 2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1
        space = Box(torch.full((4,), -2.0).double(), torch.full((4,), 2.0).double())
        search: BlackBox = (
            Bayesian("figure", POOL, rounds=15, batch=4, seed=seed)
            if name == "bayesian"
            else CMAES("figure", POOL, rounds=12, population=8, seed=seed)
        )
        start = torch.tensor([[1.5, -1.5, 1.5, -1.5]], dtype=torch.float64)
        best, asked = searched(search, space, lambda x, o=optimum: bowl(x, o), start, seed)  # type: ignore[misc,arg-type]
        assert asked <= (61 if name == "bayesian" else 97)
        reached.append(float(bowl(best[None], optimum)))
        drawn = 4 * torch.rand(100, 4, generator=generator, dtype=torch.float64) - 2
        random.append(float(bowl(drawn, optimum).min()))  # without noise, which is more than fair
    assert sum(reached) / repeats < (NOISE if name == "bayesian" else 2 * NOISE)
    assert sum(reached) < sum(random)


def test_evolution_comes_near_the_best_subset() -> None:
    """300 evaluations of the 17,550 subsets of 4 in 27."""
    teacher = build_schedule("edm", EDM(), 27, t_max=80.0, t_min=0.002)
    space = GridTimes(teacher, 4, True)
    reached = list[float]()
    for seed in range(REPEATS):
        generator = torch.Generator().manual_seed(seed)
        optimum = torch.randperm(27, generator=generator)[:4].sort().values.double()
        search = Evolution("figure", POOL, rounds=6, seed=seed)

        def function(x: Tensor, optimum: Tensor = optimum) -> Tensor:
            return bowl(x / 10, optimum / 10)

        best, asked = searched(search, space, function, torch.tensor([[0.0, 1.0, 2.0, 3.0]]).double(), seed)
        assert asked <= 301
        reached.append(float(function(best[None])))
    assert sum(reached) / REPEATS < 2 * NOISE


def test_evolution_asks_for_nothing_twice_and_for_no_time_twice() -> None:
    space = GridTimes(build_schedule("edm", EDM(), 8, t_max=80.0, t_min=0.002), 3, True)
    search = Evolution("figure", POOL, rounds=20, population=10, mutants=5, crossovers=3, parents=4)
    start = torch.tensor([[0.0, 3.0, 6.0]]).double()
    trials = Trials(start, torch.ones(1).double(), torch.zeros(1).double())
    for number in range(20):
        points = search.ask(space, trials, number)
        assert (points.diff(dim=1) > 0).all()
        values = bowl(points / 4, torch.tensor([1.0, 2.0, 5.0]) / 4)
        trials = trials.and_then(Trials(points, values, torch.zeros(len(points)).double()))
    rows = {tuple(row) for row in trials.numbers.tolist()}
    assert len(rows) == len(trials) == 56  # all there are: 8 choose 3
    assert trials.numbers[trials.order[0]].tolist() == [1.0, 2.0, 5.0]


def test_the_process_believes_a_noisy_value_less() -> None:
    """A single low value of great noise, among neighbours that are known, is not ranked first."""
    pytest.importorskip("sklearn")
    space = Box(torch.zeros(1).double(), torch.ones(1).double())
    numbers = torch.linspace(0, 1, 21, dtype=torch.float64)[:, None]
    values = (numbers[:, 0] - 0.2).square()
    lucky = 15
    values[lucky] = -0.3
    errors = torch.full((21,), 1e-3, dtype=torch.float64)
    errors[lucky] = 1.0
    search = Bayesian("figure", POOL)
    best = search.ranked(space, Trials(numbers, values, errors))[0]  # type: ignore[arg-type]
    assert abs(float(numbers[best]) - 0.2) < 0.11


@pytest.mark.parametrize("name", ["bayesian", "cmaes", "evolution"])
def test_what_is_no_number_is_the_worst(name: str) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("cmaes")
    space: Space = GridTimes(build_schedule("edm", EDM(), 20, t_max=80.0, t_min=0.002), 4, True)
    if name != "evolution":
        space = Box(torch.zeros(4).double(), torch.full((4,), 19.0).double())  # type: ignore[assignment]
    kinds = {"bayesian": Bayesian, "cmaes": CMAES, "evolution": Evolution}
    search: BlackBox = kinds[name]("figure", POOL, rounds=6)  # type: ignore[abstract]

    def function(points: Tensor) -> Tensor:
        return torch.where(points[:, 0] > 9, torch.inf, points.sum(1))

    start = torch.tensor([[5.0, 8.0, 11.0, 14.0]]).double()
    best, _ = searched(search, space, function, start, 0)
    assert function(best[None]).isfinite().all()
