"""Methods' base classes: checks, counts and shards, and the schedules of single samples."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import mixture_problem
from torch import Tensor

from optsteps.denoisers import CountedDenoiser, counting
from optsteps.methods import AYS, OSS, ChangedProblem, Method, SearchProblem, SearchResult, ShardedMethod
from optsteps.schedules import Schedule
from optsteps.solvers import build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, StoredWorkers, Workers
from optsteps.trajectories import Cache, Trajectories


def stored(folder: Path) -> StoredWorkers:
    return StoredWorkers(ShardStore(folder), {})


class TeachersTail(ShardedMethod):
    """Every sample's own end: the last n of the teacher's steps, after as many evaluations as the samples' numbers."""

    shard_size = 3

    def __init__(self, contribution: Any = None) -> None:
        self.contribution = contribution
        self.checks = 0

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        self.checks += 1

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Any:
        noise, cond = problem.samples(index.repeat_interleave(index))
        problem.denoiser(noise, torch.ones(len(noise)), cond)
        return len(index) if self.contribution is None else self.contribution

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Any], decision: Any = None
    ) -> SearchResult:
        last = problem.teacher.steps
        paths = {n: torch.arange(last - n, last + 1).expand(len(problem.noise), -1) for n in steps}
        schedules = {n: self.path_schedule(problem, path[0]) for n, path in paths.items()}
        return SearchResult(schedules, per_sample=paths)

    def alone(self) -> Method:
        return self


@pytest.mark.parametrize("scale", [80.0, 0.01])
def test_noise_that_was_scaled_already_is_pointed_out(scale: float) -> None:
    problem = mixture_problem("edm", samples=64, teacher_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataclasses.replace(problem, noise=problem.noise * 1.2)
        dataclasses.replace(problem, noise=problem.noise[:3] * scale)  # too few to say
    with pytest.warns(UserWarning, match=r"has standard deviation .*the sampler scales it"):
        dataclasses.replace(problem, noise=problem.noise * scale)


def test_one_check_before_all_shards_and_every_evaluation_counted(tmp_path: Path) -> None:
    problem, method = mixture_problem("edm", 7, 12), TeachersTail()
    for workers in (ALONE, stored(tmp_path), stored(tmp_path)):  # the last reads what the one before stored
        method.checks = 0
        assert method.search(problem, [2, 3], workers).nfe == sum(range(7)) / 7
        assert method.checks == 1


def test_the_walker_is_the_teachers_solver_or_the_students() -> None:
    problem = mixture_problem("edm", 2, 8)
    assert problem.walker is problem.solver
    heun = build_solver("heun")
    assert dataclasses.replace(problem, teacher_solver=heun).walker is heun


def test_a_method_with_neither_find_nor_search() -> None:
    with pytest.raises(NotImplementedError, match="Method implements neither find nor search"):
        Method().search(mixture_problem("edm", 2, 8), [2])


def test_methods_may_override_search_itself() -> None:
    class Older(Method):
        def search(self, problem: SearchProblem, steps: Sequence[int], workers: Workers = ALONE) -> SearchResult:
            return SearchResult({n: problem.teacher for n in steps}, nfe=3.0)

    assert Older().search(mixture_problem("edm", 2, 8), [2]).nfe == 3.0


# --- counts


@pytest.mark.parametrize("method", [OSS(shard_size=3), OSS(average="mean", shard_size=3), TeachersTail()])
def test_a_search_within_a_search_counts_where_its_shards_are_read_from_a_store(method: Method, tmp_path: Path) -> None:
    class Within(Method):
        def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
            return method.search(problem, steps, workers)

    problem = mixture_problem("vp", 7, 12)
    expected = method.search(problem, [2, 3])
    assert expected.evaluations == expected.nfe * 7 > 0
    for _ in range(2):
        found = Within().search(problem, [2, 3], stored(tmp_path))
        assert (found.nfe, found.evaluations) == (expected.nfe, expected.evaluations)


def test_evaluations_are_those_of_all_samples_that_took_part() -> None:
    """Also of a search that takes the first few of the problem's, and with guidance."""

    class OfTheFirst(Method):
        def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
            noise, cond = problem.samples(torch.arange(3))
            problem.denoiser(noise, torch.ones(3), cond)
            return SearchResult({n: problem.teacher for n in steps})

    problem = mixture_problem("edm", 12, 8)
    found = OfTheFirst().search(problem, [2])
    assert (found.evaluations, found.nfe) == (3, 3 / 12)
    assert isinstance(found.evaluations, int)

    def guided(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return problem.denoiser(x, t, cond)

    guided.nfe = 2  # type: ignore[attr-defined]
    assert OfTheFirst().search(dataclasses.replace(problem, denoiser=guided), [2]).evaluations == 6
    few = ChangedProblem(OSS(), samples=5).search(problem, [2])
    assert few.evaluations == few.nfe * 5 == OSS().search(problem, [2]).evaluations * 5 / 12


@pytest.mark.parametrize("lost", [1, 4, 7, 10])
def test_a_pooled_search_that_was_cut_off_counts_no_evaluation_twice(lost: int, tmp_path: Path) -> None:
    """Its nodes are made again where the last level is read from a store."""
    problem, method = mixture_problem("vp", 7, 12), OSS(shard_size=3)
    cached = dataclasses.replace(problem, cache=Cache(stored(tmp_path / "trajectories")))
    expected = method.search(problem, [2, 3])
    for searched in (problem, cached):
        folder = tmp_path / ("cached" if searched is cached else "plain")
        assert method.search(searched, [2, 3], stored(folder)).nfe == expected.nfe
        shards = sorted((p for p in folder.rglob("*") if p.is_file() and p.stat().st_size > 100), key=mtime)
        assert len(shards) >= 12  # four rounds of three shards
        for path in shards[-lost:]:
            path.unlink()
        again = method.search(searched, [2, 3], stored(folder))
        assert again.nfe == expected.nfe
        assert again.schedules == expected.schedules


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_counters_within_counters(tmp_path: Path) -> None:
    problem = mixture_problem("edm", 4, 8)
    outer = CountedDenoiser(problem.denoiser)
    for _ in range(2):  # the second time from the store
        before = outer.evaluations
        with counting(outer) as inner:
            trajectories = Trajectories(inner, cache=Cache(stored(tmp_path)))
            trajectories.ends(problem.teacher, problem.solver, problem.noise)
        assert trajectories.evaluations == inner.evaluations == outer.evaluations - before == 4 * 8
    counted = dataclasses.replace(problem, denoiser=outer)
    with counted.uncounted():
        counted.denoiser(problem.noise, torch.ones(4))
    assert outer.evaluations == 2 * 4 * 8


# --- shards


@dataclass
class Unregistered:
    number: int


@pytest.mark.parametrize("contribution", [Unregistered(1), {1, 2}, [b"bytes"]])
def test_what_a_shard_cannot_hold_is_refused_with_the_remedy(contribution: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a shard cannot hold a \w+: .*optsteps\.storage\.shards\.storable"):
        TeachersTail(contribution).search(mixture_problem("edm", 2, 8), [2], stored(tmp_path))


# --- samples searched by themselves


def test_the_schedules_of_samples_are_paths_on_the_teachers_times() -> None:
    problem, method = mixture_problem("edm", 5, 8), TeachersTail()
    result = method.search(problem, [2, 3])
    for n in (2, 3):
        schedules = method.sample_schedules(problem, result, n)
        assert len(schedules) == 5
        assert all(torch.equal(s.times, problem.teacher.times[-n - 1 :]) for s in schedules)
    with_orders = dataclasses.replace(result, per_sample_orders={2: torch.tensor([[1, 2]] * 5)})
    assert [s.orders for s in method.sample_schedules(problem, with_orders, 2)] == [(1, 2)] * 5


def test_oss_keeps_what_its_paths_need() -> None:
    problem = mixture_problem("flow", 4, 12)
    method = OSS(start="free").alone()
    assert (method.average, OSS(average="median").alone().average) == ("mean", "median")
    result = method.search(problem, [3])
    schedules: list[Schedule] = method.sample_schedules(problem, result, 3)
    assert any(s.initial_scale is not None for s in schedules)
    assert [s.metadata["indices"] for s in schedules] == result.per_sample[3].tolist()


def test_most_methods_search_no_sample_by_itself() -> None:
    problem = mixture_problem("edm", 4, 12)
    assert AYS().alone() is None
    with pytest.raises(ValueError, match="AYS searches every sample for itself, but its result has no per_sample"):
        AYS().sample_schedules(problem, SearchResult({2: problem.teacher}), 2)


class Nested(Method):
    """Two searches of one kind with other settings, on the same workers."""

    def find(self, problem: SearchProblem, steps: Sequence[int], workers: Workers) -> SearchResult:
        first = OSS(average="mean", shard_size=3).search(problem, steps, workers)
        others = [
            OSS(average="mean", shard_size=3, start="free", channels=[0]),
            OSS(average="mean", shard_size=3, start="free", channels=[1]),
            OSS(average="mean", shard_size=3, grid_steps=6),
        ]
        results = [method.search(problem, steps, workers) for method in others]
        few = dataclasses.replace(problem, noise=problem.noise.flip(0))
        results.append(OSS(average="mean", shard_size=3).search(few, steps, workers))
        return dataclasses.replace(first, evidence={"others": [result.schedules for result in results]})


def test_searches_within_a_method_do_not_read_each_other_s_shards(tmp_path: Path) -> None:
    problem = mixture_problem("edm", 7, 12)
    alone = Nested().search(problem, [3, 4])
    for _ in range(2):  # computed, then read
        with_store = Nested().search(problem, [3, 4], stored(tmp_path))
        assert with_store.schedules == alone.schedules
        assert with_store.evidence == alone.evidence
        assert with_store.nfe == alone.nfe


@pytest.mark.parametrize("parts", [{"weights": torch.zeros(5, 1)}, {"told_times": [70.0, 9.0, 3.0, 1.0, 0.1]}], ids=str)
def test_a_teacher_s_steps_are_its_solver_s(parts: dict[str, Any]) -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    with pytest.raises(ValueError, match=f"the teacher's schedule has {next(iter(parts))}.*take its times alone"):
        dataclasses.replace(problem, teacher=dataclasses.replace(problem.teacher, **parts))


# --- proposals


def test_what_a_search_finds_is_proposed() -> None:
    problem, method = mixture_problem("edm", 4, 12), OSS(shard_size=3)
    found = method.search(problem, [2, 3]).schedules
    assert method.proposals(problem, [2, 3]) == {n: [found[n]] for n in (2, 3)}
