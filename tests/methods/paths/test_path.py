"""The method `path`: its candidates against all paths, its race against a naive one, and what it evaluates."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path as File
from typing import Any

import pytest
import torch
from naive import all_paths, path_error, step_error, walked
from problems import Watched, mixture_problem, unet_problem
from torch import Tensor

from optsteps.denoisers import call_nfe
from optsteps.methods import OSS, Path, SearchProblem
from optsteps.methods.paths.path import Misses, Round
from optsteps.metrics.teacher import mse
from optsteps.processes import EDM
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver
from optsteps.solvers.multistep import Euler, Multistep
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import StoredWorkers
from optsteps.trajectories import Cache

SOLVERS: dict[str, dict[str, Any]] = {"euler": {}, "dpmpp_2m": {}, "unipc": {}, "ipndm": {"order": 3}, "heun": {}}


def stated(process: str, solver: str, samples: int, teacher_steps: int) -> SearchProblem:
    problem = mixture_problem(process, samples, teacher_steps)
    return replace(problem, solver=build_solver(solver, **SOLVERS[solver]), teacher_solver=build_solver("heun"))


def candidates(method: Path, problem: SearchProblem, steps: list[int]) -> dict[int, list[Schedule]]:
    heat = method.combine(problem, steps, [method.partial(problem, steps, torch.arange(len(problem.noise)))])
    assert isinstance(heat, Round)
    return heat.schedules


# --- candidates


@pytest.mark.parametrize(("weight", "norm"), [("edm", "l2"), ("flow", "squared"), (0.5, "l2")])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.mostly_slow(4)
def test_no_path_has_a_smaller_error(process: str, solver: str, weight: Any, norm: Any) -> None:
    """For every kind of edges there is a candidate whose total, of steps that are really taken, is the least of all."""
    problem = stated(process, solver, samples=2, teacher_steps=5)
    record, euler = walked(problem), replace(problem, solver=Euler())

    @cache
    def least(visited: tuple[int, ...], j: int) -> float:
        """The least error of a step of any order."""
        orders = range(1, problem.solver.order + 1)
        return min(step_error(problem, record, order, visited, j, weight, norm) for order in orders)

    def own(path: tuple[int, ...]) -> float:
        return path_error(problem, record, path, problem.solver.orders(len(path) - 1), weight, norm)

    def of_euler(path: tuple[int, ...]) -> float:
        return path_error(euler, record, path, [1] * (len(path) - 1), weight, norm)

    def chosen(path: tuple[int, ...]) -> float:
        return sum(least(path[max(0, k - 2) : k + 1], path[k + 1]) for k in range(len(path) - 1))

    for n, found in candidates(Path([weight], [norm]), problem, [1, 2, 3]).items():
        paths = all_paths(5, n)
        fixed = [tuple(s.metadata["indices"]) for s in found if s.orders is None]
        assert min(map(own, fixed)) == pytest.approx(min(map(own, paths)), rel=1e-7, abs=1e-14)
        if solver in ("euler", "heun"):
            assert len(found) == 1
            continue
        assert min(map(of_euler, fixed)) == pytest.approx(min(map(of_euler, paths)), rel=1e-7, abs=1e-14)
        (free,) = [s for s in found if s.orders is not None]
        total = path_error(problem, record, free.metadata["indices"], free.orders or (), weight, norm)
        assert total == pytest.approx(min(map(chosen, paths)), rel=1e-7, abs=1e-14)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "ipndm"])
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
def test_chosen_orders_are_those_that_the_steps_have(process: str, solver: str) -> None:
    """At most one above the outputs that are remembered, which a flow's at t = 1 is not, and 1 to noise level 0."""
    problem = stated(process, solver, samples=3, teacher_steps=12)
    free = [s for n, of in candidates(Path(), problem, [2, 5, 8]).items() for s in of if s.orders is not None]
    assert len(free) >= 3
    for schedule in free:
        assert schedule.orders is not None
        remembered = [float(problem.process.alpha(t)) > 0 for t in schedule.times]
        for k, order in enumerate(schedule.orders):
            assert 1 <= order <= min(problem.solver.order, 1 + sum(remembered[:k]))
        assert process == "edm" or schedule.orders[-1] == 1
    assert max(max(s.orders or ()) for s in free) > 1


def test_a_solver_of_order_4_races_with_paths_of_order_3() -> None:
    problem = replace(mixture_problem("edm", 3, 12), solver=build_solver("ipndm", order=4))
    assert Path().search(problem, [5]).schedules[5].steps == 5


def test_a_coarser_grid_has_some_of_the_teachers_times() -> None:
    problem = stated("vp", "dpmpp_2m", samples=3, teacher_steps=20)
    indices = Path(grid_steps=5).search(problem, [3]).schedules[3].metadata["indices"]
    assert set(indices) <= {0, 4, 8, 12, 16, 20}
    heun = replace(problem, solver=build_solver("heun"), teacher=mixture_problem("vp", 1, 40).teacher)
    assert len(Path().nodes(heun, heun.solver)) == 26


# --- race


def nearness(problem: SearchProblem, schedule: Schedule, samples: int) -> Tensor:
    """-10 log10 of the mean square, a mean over the first of the problem's samples."""
    noise = problem.noise[:samples]
    goal = sample(problem.denoiser, problem.teacher, problem.walker, noise)
    return -10 * mse(sample(problem.denoiser, schedule, problem.solver, noise), goal).log10().mean()


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("process", ["edm", "flow"])
@pytest.mark.mostly_slow(3)
def test_the_winner_is_the_best_of_the_finalists(process: str, solver: str, samples: int) -> None:
    problem = stated(process, solver, samples, teacher_steps=9)
    method = Path(finalists=2, shard_size=2)
    found = method.search(problem, [3, 5])
    for n, running in candidates(method, problem, [3, 5]).items():
        first = (samples + 3) // 4
        finalists = sorted(running, key=lambda s: -float(nearness(problem, s, first)))[:2]
        ranked = sorted(finalists, key=lambda s: -float(nearness(problem, s, samples)))
        assert found.schedules[n] == ranked[0]
        expected = torch.stack([nearness(problem, s, samples) for s in ranked])
        torch.testing.assert_close(found.evidence["finalists"][n], expected)


def test_a_candidate_that_diverged_does_not_win() -> None:
    problem, method = mixture_problem("edm", samples=2, teacher_steps=30), Path(finalists=3)
    schedules = [build_schedule("edm", EDM(), 3, 80.0, 0.002, rho=rho) for rho in (5.0, 7.0, 9.0)]
    heat = Round({3: schedules}, 0, 2, {3: torch.empty(3, 0)})
    logs = torch.tensor([[torch.nan, -3.0], [-1.0, -1.0], [torch.inf, -2.0]])
    found = method.combine(problem, [3], [Misses({3: logs})], heat)
    assert found.schedules[3] is schedules[1]  # type: ignore[union-attr]


# --- evaluations


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("process", "guided"), [("edm", False), ("edm", True), ("vp", False), ("flow", True)])
@pytest.mark.mostly_slow(3)
def test_the_teachers_walk_and_the_race_are_all_that_is_evaluated(process: str, solver: str, guided: bool) -> None:
    problem = stated(process, solver, samples=5, teacher_steps=8)
    watched: Any = Watched(problem.denoiser)
    if guided:
        watched.nfe = 2
    problem = replace(problem, denoiser=watched)
    each, method = call_nfe(watched), Path(finalists=2, shard_size=2)
    assert each == 1 + guided
    running = candidates(method, problem, [2, 5])
    watched.batches.clear()
    found = method.search(problem, [2, 5])
    walks = [sum(map(problem.solver.nfe, some)) for some in running.values()]
    finals = [min(2, len(some)) * problem.solver.nfe(some[0]) for some in running.values()]
    expected = 5 * problem.walker.nfe(problem.teacher) + 2 * sum(walks) + 3 * sum(finals)
    if not isinstance(problem.solver, Multistep):
        # every pair of nodes but those whose step takes one evaluation
        expected += 5 * {"edm": 36, "vp": 36 - 8, "flow": 36 - 15}[process]
    assert sum(watched.batches) == expected
    assert found.nfe * 5 == each * expected
    planned = method.evaluations(problem, [2, 5])
    assert not planned.exact
    assert found.nfe * 5 <= planned.count


def test_the_plan_is_met_where_no_two_candidates_are_the_same() -> None:
    problem = mixture_problem("edm", samples=5, teacher_steps=30)
    method = Path(["edm", 0.5], finalists=1)
    assert [len(some) for some in candidates(method, problem, [4, 6]).values()] == [2, 2]
    assert method.search(problem, [4, 6]).nfe * 5 == method.evaluations(problem, [4, 6]).count


def test_far_fewer_evaluations_than_oss_for_schedules_as_good() -> None:
    problem = mixture_problem("edm", samples=32, teacher_steps=60)
    path, oss = Path().search(problem, [5, 8]), OSS().search(problem, [5, 8])
    assert path.nfe < oss.nfe / 2
    for n in (5, 8):
        assert nearness(problem, path.schedules[n], 32) > nearness(problem, oss.schedules[n], 32) - 0.3


# --- shards, stores


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("process", ["edm", "vp", "flow"])
@pytest.mark.mostly_slow(3)
def test_batches_and_shards_change_nothing(process: str, solver: str) -> None:
    problem = stated(process, solver, samples=5, teacher_steps=12)
    whole = Path().search(problem, [3, 5])
    parts = Path(max_batch=3, shard_size=2).search(problem, [3, 5])
    assert parts.schedules == whole.schedules
    assert parts.nfe == pytest.approx(whole.nfe)


@pytest.mark.parametrize("lost", [1, 4, 7])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_a_search_that_was_cut_off_counts_no_evaluation_twice(solver: str, lost: int, tmp_path: File) -> None:
    """The teacher's samples are walked to again where the shards before are read from a store."""
    problem, method = stated("flow", solver, samples=7, teacher_steps=12), Path(shard_size=3)
    workers = StoredWorkers(ShardStore(tmp_path / "shards"), {})
    expected = method.search(problem, [2, 3])
    cached = replace(problem, cache=Cache(StoredWorkers(ShardStore(tmp_path / "walks"), {})))
    for searched in (problem, cached):
        first = method.search(searched, [2, 3], workers)
        assert (first.nfe, first.schedules) == (expected.nfe, expected.schedules)
        shards = sorted((tmp_path / "shards").rglob("*.safetensors"), key=modified)
        assert len(shards) == 9  # three rounds of three shards
        for file in shards[-lost:]:
            file.unlink()
        again = method.search(searched, [2, 3], workers)
        assert (again.nfe, again.schedules) == (expected.nfe, expected.schedules)


def modified(file: File) -> int:
    return file.stat().st_mtime_ns


def test_a_network_s_schedules_do_not_depend_on_shards() -> None:
    problem = replace(unet_problem(torch.float32, samples=5, teacher_steps=10), solver=build_solver("dpmpp_2m"))
    assert Path(shard_size=2).search(problem, [3]).schedules == Path().search(problem, [3]).schedules


# --- refusals


def test_what_cannot_be_asked_is_refused() -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=8)
    for solver in ("ddim_stochastic", "er_sde_2"):
        with pytest.raises(ValueError, match=f"stochastic solver '{solver}' does not repeat"):
            Path().search(replace(problem, solver=build_solver(solver)), [2])
    with pytest.raises(ValueError, match="9 student steps were asked for, but the teacher has only 8"):
        Path().search(problem, [9])
    with pytest.raises(ValueError, match="5 student steps were asked for, but the grid has only 4"):
        Path(grid_steps=4).search(problem, [5])
    with pytest.raises(ValueError, match="grid_steps must lie between 1 and the teacher's 8 steps, got 9"):
        Path(grid_steps=9).search(problem, [2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": []}, "at least one weight is needed"),
        ({"weights": ["vp"]}, "a weight is 'edm', 'flow' or a positive number, got 'vp'"),
        ({"weights": [-1.0]}, "a weight is 'edm', 'flow' or a positive number, got -1.0"),
        ({"weights": [torch.inf]}, "a weight is 'edm', 'flow' or a positive number, got inf"),
        ({"norms": []}, r"norms are 'l2', 'squared' or both, got \[\]"),
        ({"norms": ["l1"]}, r"norms are 'l2', 'squared' or both, got \['l1'\]"),
        ({"orders": "free"}, "orders must be 'chosen' or 'fixed', got 'free'"),
        ({"finalists": 0}, "at least one candidate must run on all samples, got finalists = 0"),
    ],
)
def test_settings_that_are_none(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Path(**arguments)


# --- proposals


@pytest.mark.parametrize("solver", SOLVERS)
def test_all_candidates_are_proposed_and_none_is_tried(solver: str) -> None:
    problem = stated("vp", solver, samples=5, teacher_steps=8)
    watched, method = Watched(problem.denoiser), Path(shard_size=2)
    found = method.proposals(replace(problem, denoiser=watched), [3, 2])
    assert found == candidates(method, problem, [2, 3])
    steps = problem.walker.nfe(problem.teacher)
    if solver == "heun":  # the second evaluation of every step between two of the teacher's times, but those to 0
        steps += 8 * 7 // 2
    assert sum(watched.batches) == 5 * steps
    for n, schedules in found.items():
        assert method.search(problem, [n]).schedules[n] in schedules
