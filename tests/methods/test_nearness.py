"""Errors against `mse`, linearisations against gradients through `sample`, and what both cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import PROCESSES, mixture_problem, noise
from torch import Tensor

from optsteps.denoisers import CountedDenoiser
from optsteps.methods import SearchProblem
from optsteps.methods.nearness import Linearised, Nearness
from optsteps.methods.refine.coordinates import GapCoordinates, WeightCoordinates
from optsteps.metrics.teacher import mse
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import Multistep, build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, StoredWorkers

LEVELS = [20.0, 5.0, 2.0, 0.8, 0.3, 0.05]
FEW = torch.tensor([1, 2, 5])


def problem_of(process: str = "edm", solver: str = "dpmpp_2m", samples: int = 7) -> SearchProblem:
    problem = mixture_problem(process, samples, teacher_steps=20)
    counted = CountedDenoiser(problem.denoiser)
    return replace(problem, solver=build_solver(solver), teacher_solver=build_solver("heun"), denoiser=counted)


def schedule_of(process: str) -> Schedule:
    clock = PROCESSES[process]
    return Schedule(clock.time_of_noise_level(LEVELS), clock)


def teachers(problem: SearchProblem) -> Tensor:
    return sample(problem.denoiser, problem.teacher, problem.walker, problem.noise)


def ends(problem: SearchProblem, schedule: Schedule) -> Tensor:
    return sample(problem.denoiser, schedule, problem.solver, problem.noise)


# --- errors


@pytest.mark.parametrize("process", PROCESSES)
def test_errors_are_mean_squared_differences_to_the_teacher(process: str) -> None:
    problem = problem_of(process)
    schedules = [schedule_of(process), build_schedule("time_uniform", PROCESSES[process], 3, *_range(process))]
    expected = torch.stack([mse(ends(problem, schedule), teachers(problem)) for schedule in schedules])
    found = Nearness(problem, ALONE, shard_size=3)
    torch.testing.assert_close(found.errors(schedules), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.errors(schedules, FEW), expected[:, FEW], rtol=1e-9, atol=0)


def _range(process: str) -> list[float]:
    times: list[float] = PROCESSES[process].time_of_noise_level([20.0, 0.05]).tolist()
    return times


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_walk_that_diverged_has_an_infinite_error(value: float) -> None:
    found = Nearness(problem_of(), ALONE)
    found.__dict__["teacher"] = teachers(found.problem)
    found.teacher[2] = value
    errors = found.errors([schedule_of("edm")])[0]
    assert errors.isinf().nonzero().flatten().tolist() == [2]


# --- linearisations


def jacobian(problem: SearchProblem, schedule: Schedule, part: str) -> tuple[Tensor, Tensor]:
    """Derivatives [B, D, R] of the ends in the inner times, or in all weights, and the ends [B, D]."""
    numbers = getattr(schedule, part).clone().requires_grad_()
    end = ends(problem, replace(schedule, **{part: numbers}))
    rows = [torch.autograd.grad(entry, numbers, retain_graph=True)[0].flatten() for entry in end.flatten()]
    derivatives = torch.stack(rows).reshape(*end.shape, -1)
    return (derivatives[..., 1:-1] if part == "times" else derivatives), end.detach()


def near(schedule: Schedule, part: str) -> tuple[list[Schedule], Tensor]:
    """Schedules of which each differs by a little in one inner time, or in one weight that the solver remembers."""
    numbers = getattr(schedule, part)
    flat = numbers.flatten()
    chosen = (
        range(1, len(flat) - 1) if part == "times" else numbers.new_ones(numbers.shape).tril(-1).flatten().nonzero()
    )
    moved, distances = [], []
    for k in map(int, chosen):
        changed = flat.clone()
        changed[k] += 1e-6 * max(float(flat[k].abs()), 1e-2)
        moved.append(replace(schedule, **{part: changed.reshape(numbers.shape)}))
        distances.append(float(changed[k] - flat[k]))
    return moved, torch.tensor(distances, dtype=torch.float64)


@pytest.mark.parametrize("added", [None, 0.0, 0.3])
@pytest.mark.parametrize("part", ["times", "weights"])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "ipndm", "unipc"])
@pytest.mark.mostly_slow(3)
def test_a_linearisation_has_the_gradients_of_sample(solver: str, process: str, part: str, added: float | None) -> None:
    problem, schedule = problem_of(process, solver), schedule_of(process)
    assert isinstance(problem.solver, Multistep)
    if part == "weights":
        schedule = replace(schedule, weights=problem.solver.own_weights(schedule))
    derivatives, end = jacobian(problem, schedule, part)
    if part == "weights":
        assert schedule.weights is not None
        derivatives = derivatives[..., schedule.weights.new_ones(schedule.weights.shape).tril(-1).flatten() > 0]
    missed = end - teachers(problem)
    errors = missed.square().mean(1)
    weight = (torch.ones_like(errors) if added is None else 1 / (errors + added)) / missed.shape[1]
    products = torch.einsum("b,bdp,bdq->pq", weight, derivatives, derivatives)
    gradient = torch.einsum("b,bdp,bd->p", weight, derivatives, missed)
    found = Nearness(problem, ALONE).linearised(schedule, *near(schedule, part), added)
    torch.testing.assert_close(found.errors, errors, rtol=1e-9, atol=0)
    scale = products.diagonal().sqrt()
    torch.testing.assert_close(
        found.products / scale / scale[:, None], products / scale / scale[:, None], rtol=0, atol=1e-3
    )
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-3, atol=1e-3 * float(gradient.abs().max()))


@pytest.mark.parametrize("added", [None, 0.1])
def test_shards_add_up_to_the_whole(added: float | None, tmp_path: Path) -> None:
    def found(workers: Any = ALONE, **options: int) -> tuple[Linearised, int]:
        problem, schedule = problem_of(), schedule_of("edm")
        coordinates = GapCoordinates(schedule)
        close = coordinates.near(torch.zeros(coordinates.size, dtype=torch.float64))
        nearness = Nearness(problem, workers, **options)
        return nearness.linearised(schedule, *close, added), problem.denoiser.evaluations  # type: ignore[attr-defined]

    whole, evaluations = found(shard_size=100)
    stored = [StoredWorkers(ShardStore(tmp_path), {})] * 2  # the second reads what the first wrote
    for part, count in (
        *(found(workers, shard_size=3) for workers in (ALONE, *stored)),
        found(shard_size=1, max_batch=2),
    ):
        for name in ("products", "gradient", "errors"):
            torch.testing.assert_close(getattr(part, name), getattr(whole, name), rtol=1e-9, atol=1e-12)
        assert count == evaluations


def test_a_store_tells_searches_apart(tmp_path: Path) -> None:
    """Whatever differs, nothing is read that was computed for something else."""
    schedule, stored = schedule_of("edm"), StoredWorkers(ShardStore(tmp_path), {})
    problem = problem_of()
    others = [
        problem,
        replace(problem, solver=build_solver("euler")),
        replace(problem, noise=noise(7, 2, seed=9)),
        replace(problem, teacher=build_schedule("edm", problem.process, 9, 80.0, 0.002)),
        replace(problem, teacher_solver=build_solver("euler")),
    ]
    for other in others:
        torch.testing.assert_close(
            Nearness(other, stored).errors([schedule]), Nearness(other, ALONE).errors([schedule]), rtol=1e-9, atol=0
        )
    coordinates = GapCoordinates(schedule)
    schedules, distances = coordinates.near(torch.zeros(coordinates.size, dtype=torch.float64))
    for factor, added in ((1, 0.0), (1, 0.1), (1, None), (2, 0.0)):
        kept, made = (
            Nearness(problem, workers).linearised(schedule, schedules, factor * distances, added)
            for workers in (stored, ALONE)
        )
        torch.testing.assert_close(kept.products, made.products)


def test_an_error_of_0_has_no_logarithm_to_lower() -> None:
    schedule = schedule_of("edm")
    problem = replace(problem_of(), teacher=schedule, teacher_solver=None)
    coordinates = GapCoordinates(schedule)
    near = coordinates.near(torch.zeros(coordinates.size, dtype=torch.float64))
    found = Nearness(problem, ALONE).linearised(schedule, *near, added=0.0)
    assert not found.errors.any()
    assert not found.products.any()
    assert not found.gradient.any()
    assert Nearness(problem, ALONE).linearised(schedule, *near, added=None).products.any()


# --- evaluations


def test_a_column_costs_what_it_does_not_share() -> None:
    """Schedules that differ in t_k alone are evaluated at t_k and after it: n - k times."""
    schedule = schedule_of("edm")
    n = schedule.steps
    problem = problem_of()
    counter, nearness = problem.denoiser, Nearness(problem, ALONE, shard_size=2)
    assert isinstance(counter, CountedDenoiser)
    assert nearness.teacher.shape == problem.noise.shape
    assert counter.evaluations == 7 * problem.walker.nfe(problem.teacher)
    gaps = GapCoordinates(schedule)
    before = counter.evaluations
    nearness.linearised(schedule, *gaps.near(torch.zeros(gaps.size, dtype=torch.float64)), added=0.0)
    assert counter.evaluations - before == 7 * (n + sum(n - k for k in range(1, n)))
    assert isinstance(problem.solver, Multistep)
    weights = WeightCoordinates(GapCoordinates(schedule), problem.solver)
    assert weights.size == n + (n - 1)  # one remembered output at every step but the first
    before = counter.evaluations
    zeros = torch.zeros(weights.size, dtype=torch.float64)
    nearness.linearised(weights.schedule(zeros), *weights.near(zeros), 0.0, FEW)
    # a weight of step k, counted from 0, moves x_{k+1}; that of the last step moves the end alone
    columns = sum(n - k for k in range(1, n)) + sum(n - 1 - k for k in range(1, n))
    assert counter.evaluations - before == len(FEW) * (n + columns)
