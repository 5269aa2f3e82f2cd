"""OSS on every deterministic solver, against the same programme written naively with the solver's own step."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from problems import full_grid, mixture_problem, noise, teacher, three_gaussians, unet_problem
from torch import Tensor

from optsteps.methods import SearchProblem
from optsteps.processes import Flow
from optsteps.sampling import sample
from optsteps.solvers import SOLVERS, Denoise, build_solver

MULTISTEP = {
    "dpmpp_2m": {},
    "dpmpp_3m": {},
    "ipndm": {"order": 4},
    "deis": {"order": 3, "kind": "logrho"},
    "unipc": {"order": 3},
    "unipc_predictor": {"order": 2, "corrector": False},
    "dpmpp_2m_edm": {"flow_as": "edm"},
    "ipndm_edm": {"flow_as": "edm"},
}
TWO_STAGE = ["heun", "dpm2", "dpmpp_2s"]


def problem_with(process: str, solver: str, samples: int = 3, teacher_steps: int = 12) -> SearchProblem:
    built = build_solver(solver.removesuffix("_predictor").removesuffix("_edm"), **MULTISTEP.get(solver, {}))
    return dataclasses.replace(mixture_problem(process, samples, teacher_steps), solver=built)


def naive(problem: SearchProblem, number: int, steps: int, stride: int = 1) -> tuple[list[int], list[int], float]:
    """Nodes and orders of the path of least cost for one sample, and its cost: exactly k steps a level, every step
    taken by the solver itself."""
    solver, times = problem.solver, problem.teacher.times[::stride]
    denoise = Denoise(problem.denoiser, problem.process)
    z = problem.noise[number : number + 1]
    goal = sample(problem.denoiser, problem.teacher, solver, z, return_trajectory=True)[::stride]
    last = len(times) - 1
    x = z * problem.teacher.scale
    # node -> (cost, path, orders, x, state)
    level = {0: (0.0, [0], [], x, solver.init(x))}
    for k in range(1, steps + 1):
        reached = {}
        for j in [last] if k == steps else range(k, last - (steps - k) + 1):
            for order in range(1, solver.order + 1) if solver.name not in TWO_STAGE else [solver.order]:
                for i, (_, path, orders, x, state) in level.items():
                    if i >= j:
                        continue
                    x_next, state_next = solver.step(state, x, times[i], times[j], denoise, order)
                    cost = (x_next - goal[j]).square().mean().item()
                    # an order that is not there falls back to a lower one, which was tried before
                    if j not in reached or cost < reached[j][0] * (1 - 1e-9):
                        reached[j] = (cost, [*path, j], [*orders, order], x_next, state_next)
        level = reached
    cost, path, orders, _, _ = level[last]
    return [node * stride for node in path], orders, cost


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.parametrize("solver", MULTISTEP)
@pytest.mark.mostly_slow(3)
def test_search_is_the_naive_programme(solver: str, process: str) -> None:
    problem = problem_with(process, solver, samples=2, teacher_steps=9)
    found = full_grid(average="mean").search(problem, [2, 4])
    assert found.per_sample is not None
    assert found.per_sample_orders is not None
    for n in (2, 4):
        for number in range(len(problem.noise)):
            path, orders, cost = naive(problem, number, n)
            assert found.per_sample[n][number].tolist() == path
            assert found.per_sample_orders[n][number].tolist() == orders
            assert found.evidence["final_mse"][n][number].item() == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("process", ["edm", "flow"])
@pytest.mark.parametrize("solver", TWO_STAGE)
def test_search_with_two_evaluations_a_step_is_the_naive_programme(solver: str, process: str) -> None:
    problem = problem_with(process, solver)
    found = full_grid(average="mean", grid_steps=6).search(problem, [2, 3])
    assert found.per_sample is not None
    assert found.per_sample_orders is None
    assert found.schedules[3].orders is None
    for n in (2, 3):
        for number in range(len(problem.noise)):
            path, _, cost = naive(problem, number, n, stride=2)
            assert found.per_sample[n][number].tolist() == path
            assert found.evidence["final_mse"][n][number].item() == pytest.approx(cost, rel=1e-6)


@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.parametrize("solver", [*MULTISTEP, *TWO_STAGE])
def test_the_path_read_back_costs_what_it_says(solver: str, process: str) -> None:
    problem = problem_with(process, solver, samples=6, teacher_steps=20)
    method = full_grid(average="mean", grid_steps=10 if solver in TWO_STAGE else None)
    found = method.search(problem, [3, 5])
    end = sample(problem.denoiser, problem.teacher, problem.solver, problem.noise)
    for n in (3, 5):
        for number, path in enumerate(found.per_sample[n]):
            orders = found.per_sample_orders[n][number] if found.per_sample_orders else None
            schedule = method.path_schedule(problem, path, orders)
            x = sample(problem.denoiser, schedule, problem.solver, problem.noise[number : number + 1])
            cost = (x - end[number]).square().mean().item()
            assert cost == pytest.approx(found.evidence["final_mse"][n][number].item(), rel=1e-7)


@pytest.mark.parametrize("solver", ["dpmpp_3m", "unipc"])
def test_pooled_of_one_sample_is_its_own_search(solver: str) -> None:
    problem = problem_with("edm", solver, samples=1, teacher_steps=16)
    own, pooled = full_grid(average="mean").search(problem, [3, 5]), full_grid(average="pooled").search(problem, [3, 5])
    for n in (3, 5):
        assert torch.equal(own.schedules[n].times, pooled.schedules[n].times)
        assert own.schedules[n].orders == pooled.schedules[n].orders


@pytest.mark.parametrize("average", ["mean", "pooled"])
def test_batches_and_shards_change_nothing(average: str) -> None:
    problem = problem_with("vp", "unipc", samples=5, teacher_steps=16)
    whole = full_grid(average=average).search(problem, [4])
    parts = full_grid(average=average, max_batch=3, shard_size=2).search(problem, [4])
    assert torch.equal(whole.schedules[4].times, parts.schedules[4].times)
    assert whole.schedules[4].orders == parts.schedules[4].orders
    assert whole.nfe == pytest.approx(parts.nfe)
    if average == "mean":
        assert torch.equal(whole.per_sample_orders[4], parts.per_sample_orders[4])


def test_the_model_wide_orders_are_the_most_frequent_ones() -> None:
    problem = problem_with("edm", "dpmpp_3m", samples=9, teacher_steps=20)
    found = full_grid(average="mean").search(problem, [4])
    expected = [max((1, 2, 3), key=column.tolist().count) for column in found.per_sample_orders[4].T]
    counts = [max(column.tolist().count(m) for m in (1, 2, 3)) for column in found.per_sample_orders[4].T]
    for chosen, column, count in zip(found.schedules[4].orders, found.per_sample_orders[4].T, counts, strict=True):
        assert column.tolist().count(chosen) == count
    assert len(expected) == found.schedules[4].steps
    assert found.schedules[4].orders[0] == 1  # nothing is remembered at the start


def test_evaluations_of_two_stage_search_are_one_a_pair() -> None:
    problem = problem_with("edm", "dpm2", samples=2, teacher_steps=12)
    found = full_grid(average="mean", grid_steps=6).search(problem, [3])
    walk = 2 * 12  # the teacher's
    first = 6 - 3 + 1  # from node 0, which the walk has evaluated, to nodes 1 ... 4
    second = 4 + sum(1 for i in range(1, 5) for j in range(2, 6) if i < j)
    third = 4 + 4  # nodes 2 ... 5 to the end
    assert found.nfe == walk + first + second + third


def test_a_flow_that_leaves_from_infinity() -> None:
    """Level 2 nodes come from t = 1, whose output is not remembered: their second step is first order."""
    problem = SearchProblem(
        three_gaussians().denoiser(Flow()), Flow(), build_solver("dpmpp_2m"), noise(4, 2), teacher(Flow(), 14)
    )
    found = full_grid(average="mean").search(problem, [4])
    assert bool((found.per_sample_orders[4][:, :2] == 1).all())
    assert all(math.isfinite(v) for v in found.evidence["final_mse"][4].tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_in_its_own_precision(dtype: torch.dtype) -> None:
    problem = dataclasses.replace(unet_problem(dtype, samples=2, teacher_steps=12), solver=build_solver("dpmpp_2m"))
    method = full_grid(average="mean")
    found = method.search(problem, [3])
    end = sample(problem.denoiser, problem.teacher, problem.solver, problem.noise, problem.cond)
    for number, (path, orders) in enumerate(zip(found.per_sample[3], found.per_sample_orders[3], strict=True)):
        schedule = method.path_schedule(problem, path, orders)
        x: Tensor = sample(problem.denoiser, schedule, problem.solver, problem.noise, problem.cond)
        cost = (x - end)[number].double().square().mean().item()
        tolerance = 1e-3 if dtype == torch.float32 else 1e-8
        assert cost == pytest.approx(found.evidence["final_mse"][3][number].item(), rel=tolerance)


def test_every_deterministic_solver_can_be_searched_with() -> None:
    for name in SOLVERS:
        problem = dataclasses.replace(mixture_problem("edm", samples=2, teacher_steps=8), solver=build_solver(name))
        if problem.solver.stochastic:
            continue
        assert full_grid(average="mean").search(problem, [2]).schedules[2].steps == 2


@pytest.mark.parametrize("average", ["mean", "pooled"])
def test_fixed_orders_are_those_that_a_sampler_without_orders_runs(average: str) -> None:
    problem = problem_with("edm", "dpmpp_2m", samples=4, teacher_steps=20)
    schedules = full_grid(average=average, orders="fixed").search(problem, [4, 6]).schedules
    for n, schedule in schedules.items():
        assert schedule.orders == (1, *[2] * (n - 1))
        plain = dataclasses.replace(schedule, orders=None)
        x, full = problem.noise, build_solver("dpmpp_2m", lower_order_final=False)
        assert torch.equal(
            sample(problem.denoiser, schedule, problem.solver, x), sample(problem.denoiser, plain, full, x)
        )
    chosen = full_grid(average=average).search(problem, [4, 6]).schedules
    assert any(schedule.orders != schedules[n].orders for n, schedule in chosen.items())
    with pytest.raises(ValueError, match="orders must be 'chosen' or 'fixed', got 'none'"):
        full_grid(orders="none")  # type: ignore[arg-type]


def test_a_schedule_searched_in_another_form_of_the_solver_is_worse() -> None:
    """What ComfyUI's dpmpp_2m makes of a flow's schedule that was searched with the flow's own form, and with its."""
    errors = {}
    for flow_as in ("flow", "edm"):
        problem = problem_with("flow", "dpmpp_2m" if flow_as == "flow" else "dpmpp_2m_edm", 16, 40)
        schedule = full_grid(average="pooled", orders="fixed").search(problem, [8]).schedules[8]
        assert schedule.metadata["solver"] == "dpmpp_2m"
        assert schedule.metadata.get("flow_as", "flow") == flow_as
        noise_ = noise(64, 2, seed=9)
        comfyui = build_solver("dpmpp_2m", flow_as="edm")
        ends = [sample(problem.denoiser, s, comfyui, noise_) for s in (schedule, teacher(Flow(), 400))]
        errors[flow_as] = (ends[0] - ends[1]).square().mean().item()
    assert errors["edm"] < errors["flow"]
