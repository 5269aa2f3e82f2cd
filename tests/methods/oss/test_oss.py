"""OSS against independent programmes, brute force, and what its documentation promises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    PROCESSES,
    Watched,
    full_grid,
    mixture_problem,
    noise,
    rough_problem,
    shipped_problem,
    teacher,
    three_gaussians,
    unet_problem,
)
from published_reference import disagreement, exact, flow_view, in_paper_order, initial, loops, published, script
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from optsteps.methods import OSS, SearchProblem
from optsteps.methods.oss.grid import MultistepGrid
from optsteps.processes import EDM
from optsteps.sampling import sample
from optsteps.schedules import Schedule
from optsteps.solvers import build_solver
from optsteps.trajectories import Cache, Trajectories

DTYPES = [torch.float64, torch.float32]


# --- parity with the released code


def check_published(problem: SearchProblem, counts: Sequence[int], start: str = "free") -> None:
    found = full_grid(published=True, start=start).search(problem, counts)
    for n in counts:
        for number in range(len(problem.noise)):
            traced, _ = published(problem, number, n, start)
            path = in_paper_order(found.per_sample[n][number], problem.teacher.steps)
            assert disagreement(path, traced) is None, disagreement(path, traced)


@pytest.mark.parametrize("start", ["free", "teacher"])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.mostly_slow(3)
def test_published_search_is_the_released_loops(process: str, start: str) -> None:
    check_published(mixture_problem(process, samples=3, teacher_steps=16), [1, 2, 4, 7, 12], start)
    check_published(rough_problem(process, samples=4, teacher_steps=12), [3, 6], start)


@pytest.mark.parametrize("dtype", DTYPES)
def test_published_search_is_the_released_loops_on_a_network(dtype: torch.dtype) -> None:
    check_published(unet_problem(dtype, samples=2, teacher_steps=12), [3, 6])


@pytest.mark.parametrize("process", PROCESSES)
def test_the_released_batched_search_is_the_released_loops(process: str) -> None:
    problem = rough_problem(process, samples=3, teacher_steps=12)
    view = flow_view(problem)
    starts = initial(problem, view)
    for number, steps in ((0, 1), (1, 3), (2, 6)):
        cond = None if problem.cond is None else problem.cond[number : number + 1]
        view.evaluations = 0
        path = loops.batched_search(view, starts[number : number + 1], cond, steps)
        assert view.evaluations == 12 + 12 * steps
        assert disagreement(path, published(problem, number, steps)[0]) is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_published_search_is_the_released_loops_on_the_shipped_network(dtype: torch.dtype) -> None:
    check_published(shipped_problem(dtype, samples=2, teacher_steps=100), [5, 10])


def test_the_released_loops_have_the_quirks_they_are_known_for() -> None:
    """So that parity with the reference means something: it is not the correct programme in disguise."""
    problem = mixture_problem("edm", samples=8, teacher_steps=20)
    size = 1 + problem.teacher.times[-1].item()  # alpha + sigma at the clean end
    mixed = free = 0
    for number in range(8):
        traced, evaluations = published(problem, number, 6)
        assert evaluations == 20 * 6 + 20
        path = torch.tensor([20 - i for i in reversed(traced.path)])
        free += int(path[0] > 0)
        reached = end_mse(problem, full_grid(average="mean", start="free").path_schedule(problem, path))[number].item()
        mixed += not math.isclose(reached, traced.least[-1][0] * size**2, rel_tol=1e-6)
    assert free >= 4  # most paths start below N
    assert mixed >= 2  # the path read back is often not the one that was costed
    rough = rough_problem("flow", samples=8, teacher_steps=12)
    paths = [published(rough, number, 3)[0].path for number in range(8)]
    assert any(path[-2:] == [12, 12] for path in paths)  # a path may repeat N


def test_repeats_of_the_first_index_are_left_out_of_the_schedule() -> None:
    problem = rough_problem("flow", samples=8, teacher_steps=12)
    method = full_grid(published=True)
    paths = method.search(problem, [3]).per_sample[3]
    repeating = paths[(paths[:, :2] == 0).all(1)]
    assert len(repeating) > 0
    for path in repeating:
        schedule = method.path_schedule(problem, path)
        assert torch.equal(schedule.times, problem.teacher.times[path.unique()])
        assert schedule.initial_scale is None


# --- the product's own programme


def check_exact(problem: SearchProblem, counts: Sequence[int], start: str = "teacher") -> None:
    found = full_grid(average="mean", start=start).search(problem, counts)
    clean = problem.teacher.times[-1]
    size = (problem.process.alpha(clean) + problem.process.sigma(clean)).item()  # of a unit of flow coordinates
    tolerance = 1e-6 if problem.noise.dtype == torch.float64 else 1e-3
    for n in counts:
        for number in range(len(problem.noise)):
            traced = exact(problem, [number], n, start)
            path = in_paper_order(found.per_sample[n][number], problem.teacher.steps)
            assert disagreement(path, traced) is None, disagreement(path, traced)
            expected = traced.least[-1][0] * size**2
            said = found.evidence["final_mse"][n][number].item()
            assert said == pytest.approx(expected, rel=tolerance, abs=1e-24)


@pytest.mark.parametrize("start", ["teacher", "free"])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.mostly_slow(3)
def test_search_is_the_naive_programme_on_a_mixture(process: str, start: str) -> None:
    check_exact(mixture_problem(process, samples=2, teacher_steps=16), [1, 2, 5, 9, 16], start)
    check_exact(rough_problem(process, samples=3, teacher_steps=12), [3, 6], start)


@pytest.mark.parametrize("dtype", DTYPES)
def test_search_is_the_naive_programme_on_a_network(dtype: torch.dtype) -> None:
    check_exact(unet_problem(dtype, samples=2, teacher_steps=12), [3, 6])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_search_is_the_naive_programme_on_the_shipped_network(dtype: torch.dtype) -> None:
    check_exact(shipped_problem(dtype, samples=2, teacher_steps=60), [5, 10])


@pytest.mark.parametrize("start", ["teacher", "free"])
@pytest.mark.parametrize("process", PROCESSES)
def test_traced_path_costs_what_it_says(process: str, start: str) -> None:
    problem = mixture_problem(process, samples=6, teacher_steps=20)
    method = full_grid(average="mean", start=start)
    found = method.search(problem, [1, 3, 6])
    for n in (1, 3, 6):
        for number, path in enumerate(found.per_sample[n]):
            schedule = method.path_schedule(problem, path)
            said = found.evidence["final_mse"][n][number].item()
            assert end_mse(problem, schedule)[number].item() == pytest.approx(said, rel=1e-9, abs=1e-24)


@pytest.mark.parametrize("dtype", DTYPES)
def test_traced_path_costs_what_it_says_on_a_network(dtype: torch.dtype) -> None:
    problem = unet_problem(dtype, samples=3, teacher_steps=16)
    method = full_grid(average="mean")
    found = method.search(problem, [4])
    for number, path in enumerate(found.per_sample[4]):
        reached = end_mse(problem, method.path_schedule(problem, path))[number].item()
        tolerance = 1e-9 if dtype == torch.float64 else 1e-3
        assert reached == pytest.approx(found.evidence["final_mse"][4][number].item(), rel=tolerance)


def test_all_of_the_teachers_steps_are_the_teacher() -> None:
    problem = mixture_problem("flow", samples=3, teacher_steps=9)
    found = full_grid(average="mean").search(problem, [9])
    assert torch.equal(found.per_sample[9], torch.arange(10).expand(3, 10))
    assert torch.equal(found.schedules[9].times, problem.teacher.times)
    assert found.evidence["final_mse"][9].max() < 1e-28


def end_mse(problem: SearchProblem, schedule: Schedule) -> Tensor:
    """Mean squared difference [B] of what the schedule and the teacher make of the problem's noise."""
    ends = [
        Trajectories(problem.denoiser).ends(s, problem.solver, problem.noise, problem.cond).double()
        for s in (schedule, problem.teacher)
    ]
    return (ends[0] - ends[1]).square().flatten(1).mean(1)


# --- brute force


@pytest.mark.parametrize("start", ["teacher", "free"])
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.mostly_slow(3)
def test_search_comes_near_the_best_subset(process: str, start: str) -> None:
    problem = mixture_problem(process, samples=100, teacher_steps=12)
    rows = script("brute_force").against_brute_force(problem, [3, 4], start)
    for row in rows:
        print(f"\n{process} {start} {row}", end="")
        assert row.least_excess >= -1e-9, f"better than the best subset: {row}"
        if start == "teacher":  # measured: 70 % at least, 4 % at most
            assert row.hit_rate >= 0.5, str(row)
            assert row.mean_excess <= 0.15, str(row)
        else:  # measured: 14 % at least; the assumption that near stays near is poor for starts of other scales
            assert row.hit_rate >= 20 / row.subsets, str(row)


# --- batches, shards, step counts


@pytest.mark.parametrize(
    "options", [{"average": "mean"}, {"average": "mean", "start": "free"}, {"published": True, "start": "free"}]
)
@pytest.mark.parametrize("model", ["mixture", "network"])
@pytest.mark.mostly_slow(3)
def test_indices_do_not_depend_on_max_batch(model: str, options: dict[str, object]) -> None:
    problem = (
        mixture_problem("edm", samples=9, teacher_steps=24)
        if model == "mixture"
        else unet_problem(torch.float64, samples=3, teacher_steps=12)
    )
    one, seven, many = (full_grid(max_batch=size, **options).search(problem, [3, 5]) for size in (1, 7, 512))
    for n in (3, 5):
        assert torch.equal(one.per_sample[n], many.per_sample[n])
        assert torch.equal(seven.per_sample[n], many.per_sample[n])
        assert one.schedules[n] == seven.schedules[n] == many.schedules[n]
    # `published` evaluates again what a level improves, if only by rounding
    assert one.nfe == many.nfe or options.get("published")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_indices_do_not_depend_on_max_batch_on_the_shipped_network(dtype: torch.dtype) -> None:
    problem = shipped_problem(dtype, samples=4, teacher_steps=100)
    one, seven, many = (
        full_grid(average="mean", max_batch=size).search(problem, [5, 10]).per_sample for size in (1, 7, 512)
    )
    for n in (5, 10):
        differing = [int((other[n] != many[n]).sum()) for other in (one, seven)]
        print(f"\n{dtype} {n} steps: {differing} of {many[n].numel()} indices differ at max_batch 1 and 7", end="")
        # float32 convolutions depend on the batch in the last bit, which may decide between near-equal costs
        assert max(differing) <= (0 if dtype == torch.float64 else 0.05 * many[n].numel())


@pytest.mark.parametrize("options", [{}, {"start": "free"}, {"average": "mean"}, {"published": True}])
def test_one_search_answers_every_step_count(options: dict[str, object]) -> None:
    problem = mixture_problem("edm", samples=5, teacher_steps=24)
    together = full_grid(**options).search(problem, [10, 3, 5, 5])
    assert list(together.schedules) == [3, 5, 10]
    for n in (3, 5, 10):
        alone = full_grid(**options).search(problem, [n])
        assert alone.schedules[n] == together.schedules[n]
        assert torch.equal(alone.evidence["final_mse"][n], together.evidence["final_mse"][n])
        if alone.per_sample is not None:
            assert torch.equal(alone.per_sample[n], together.per_sample[n])


@pytest.mark.parametrize("options", [{}, {"average": "median"}, {"average": "mean"}, {"published": True}])
def test_shards_change_nothing(options: dict[str, object]) -> None:
    problem = mixture_problem("vp", samples=7, teacher_steps=20)
    whole = full_grid(**options).search(problem, [2, 6])
    for size in (1, 3, 7):
        parts = full_grid(shard_size=size, **options).search(problem, [2, 6])
        assert parts.nfe == pytest.approx(whole.nfe)
        for n in (2, 6):
            assert parts.schedules[n] == whole.schedules[n]
            assert torch.allclose(parts.evidence["final_mse"][n], whole.evidence["final_mse"][n], rtol=1e-9)
            if whole.per_sample is not None:
                assert torch.equal(parts.per_sample[n], whole.per_sample[n])


def test_partial_and_combine_are_the_search() -> None:
    problem = mixture_problem("edm", samples=5, teacher_steps=16)
    for method in (full_grid(), full_grid(average="mean")):
        shards = [torch.tensor([0, 1, 2]), torch.tensor([3, 4])]
        partials, decision = [None, None], None
        for _ in range(10):
            partials = [
                method.partial(problem, [4], index, part, decision)
                for index, part in zip(shards, partials, strict=True)
            ]
            decision = method.combine(problem, [4], partials, decision)
            if hasattr(decision, "schedules"):
                break
        assert decision.schedules[4] == method.search(problem, [4]).schedules[4]


# --- evaluations


def useful_nodes(last: int, counts: Sequence[int], level: int) -> int:
    """Nodes but the last that exactly `level` >= 1 steps reach and from which a wanted count can be completed."""
    return sum(any(n > level and node + (n - level) <= last for n in counts) for node in range(level, last))


@pytest.mark.parametrize("average", ["mean", "pooled"])
@pytest.mark.parametrize("counts", [[1], [5], [3, 5, 10], [24], [2, 23]])
def test_only_useful_nodes_are_evaluated(counts: list[int], average: str) -> None:
    last = 24
    problem = mixture_problem("flow", samples=3, teacher_steps=last)
    watched = Watched(problem.denoiser)
    problem = dataclasses.replace(problem, denoiser=watched)
    found = full_grid(average=average).search(problem, counts)
    # the first level's one evaluation is the walk's
    expected = last + sum(useful_nodes(last, counts, level) for level in range(1, max(counts)))
    assert found.nfe == expected
    assert sum(watched.batches) == 3 * expected  # what it says is what was asked
    assert problem.teacher.times[-1].item() not in watched.times


def test_free_start_evaluates_the_useful_nodes() -> None:
    problem = mixture_problem("flow", samples=2, teacher_steps=24)
    found = full_grid(average="mean", start="free").search(problem, [5, 8])
    starts = 24 - 5  # beside the teacher's own, which its walk has evaluated
    assert found.nfe == 24 + starts + sum(useful_nodes(24, [5, 8], level) for level in range(1, 8))


@pytest.mark.parametrize("start", ["teacher", "free"])
def test_published_evaluates_no_more_than_the_released_loops(start: str) -> None:
    problem = mixture_problem("edm", samples=4, teacher_steps=20)
    found = full_grid(published=True, start=start).search(problem, [4, 8])
    assert found.nfe <= 20 * 8 + 20 - 7  # the state at the noisy end never changes: it is evaluated once


def test_guidance_counts_twice() -> None:
    problem = mixture_problem("edm", samples=2, teacher_steps=10)
    plain = full_grid(average="mean").search(problem, [3]).nfe
    doubled = Watched(problem.denoiser)
    doubled.nfe = 2
    assert full_grid(average="mean").search(dataclasses.replace(problem, denoiser=doubled), [3]).nfe == 2 * plain


@pytest.mark.parametrize("max_batch", [1, 5, 64])
def test_batches_are_common_and_bounded(max_batch: int) -> None:
    problem = mixture_problem("edm", samples=6, teacher_steps=20)
    watched = Watched(problem.denoiser)
    full_grid(average="mean", max_batch=max_batch).search(dataclasses.replace(problem, denoiser=watched), [4])
    assert max(watched.batches) <= max_batch
    walk = 20 * math.ceil(6 / max_batch)
    levels = [*(6 * useful_nodes(20, [4], level) for level in (1, 2, 3))]
    assert len(watched.batches) == walk + sum(math.ceil(nodes / max_batch) for nodes in levels)


# --- costs


@pytest.mark.parametrize("dtype", DTYPES)
def test_costs_lose_nothing_to_cancellation(dtype: torch.dtype) -> None:
    """States at noise level 80 differ from the teacher's by far less than a float32 rounding of their squares."""
    shrink = lambda x, t, cond: x * (0.25 / (0.25 + t**2)).to(x)[:, None] + 0.1 * torch.tanh(x)  # noqa: E731
    problem = SearchProblem(shrink, EDM(), build_solver("euler"), noise(2, 784, dtype=dtype), teacher(EDM(), 40))
    grid = MultistepGrid(problem, torch.arange(2), torch.arange(41), max_batch=512)
    sources, targets = torch.arange(40), torch.arange(1, 41)
    grid.put(sources, grid.teacher[:, :-1], torch.ones(2, 40, dtype=torch.bool))
    grid.evaluate(sources, targets)
    costs = grid.costs(1, sources, targets)[0]
    t, x = problem.teacher.times, grid.teacher[1].double()
    denoised = shrink(grid.teacher[1, :-1], t[:-1], None).double()
    ratio = t[None, 1:, None] / t[:-1, None, None]
    direct = (denoised[:, None] + ratio * (x[:-1] - denoised)[:, None] - x[None, 1:]).square().mean(2)
    later = sources[:, None] < targets
    assert direct[later].min() < 1e-12 * t[0] ** 2  # else there would be nothing to cancel
    assert bool((costs[~later] == torch.inf).all())
    assert torch.allclose(costs[later], direct[later], rtol=1e-9, atol=2e-15)


# --- pooled


@pytest.mark.parametrize("start", ["teacher", "free"])
@pytest.mark.parametrize("process", PROCESSES)
def test_pooled_is_the_naive_programme_on_stacked_samples(process: str, start: str) -> None:
    problem = mixture_problem(process, samples=5, teacher_steps=16)
    found = full_grid(average="pooled", start=start, shard_size=2).search(problem, [1, 4, 7])
    for n in (1, 4, 7):
        traced = exact(problem, list(range(5)), n, start)
        indices = torch.tensor(found.schedules[n].metadata["indices"])
        path = in_paper_order(indices, 16)
        assert disagreement(path, traced) is None, disagreement(path, traced)
        assert torch.allclose(end_mse(problem, found.schedules[n]), found.evidence["final_mse"][n], rtol=1e-9)


def test_pooled_over_one_sample_is_per_sample() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=24)
    pooled, alone = (full_grid(average=average).search(problem, [3, 8]) for average in ("pooled", "mean"))
    for n in (3, 8):
        assert torch.equal(pooled.schedules[n].times, alone.schedules[n].times)
        assert torch.equal(pooled.per_sample[n], alone.per_sample[n])
        assert pooled.evidence["final_mse"][n].item() == pytest.approx(alone.evidence["final_mse"][n].item(), rel=1e-9)


def test_pooled_is_the_default_and_tells_what_every_sample_would_choose() -> None:
    """At the nodes that the pooled steps reach, as the naive programme of every sample says for the first level."""
    problem = mixture_problem("edm", samples=4, teacher_steps=16)
    found, pooled = (method.search(problem, [1, 2, 5]) for method in (full_grid(), full_grid(average="pooled")))
    assert {n: found.schedules[n] for n in (1, 2, 5)} == {n: pooled.schedules[n] for n in (1, 2, 5)}
    alone = full_grid().alone().search(problem, [1, 2, 5])
    for n in (1, 2):  # the first level's states are the same whoever chooses, and so the path of two steps
        assert torch.equal(found.per_sample[n], alone.per_sample[n])
    assert found.per_sample[5].shape == (4, 6)
    assert found.nfe == alone.nfe
    assert full_grid(published=True).average == "median"  # the released code's


# --- averages


@st.composite
def index_vectors(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Paths [B, n+1] from 0 to N, strictly increasing, and N."""
    last = draw(st.integers(2, 40))
    steps = draw(st.integers(1, last))
    inner = st.sets(st.integers(1, last - 1), min_size=steps - 1, max_size=steps - 1)
    paths = draw(st.lists(inner, min_size=1, max_size=9))
    return torch.tensor([[0, *sorted(path), last] for path in paths]), last


@settings(deadline=None, max_examples=200)
@given(index_vectors(), st.sampled_from(["mean", "median", "published"]))
def test_averages_keep_times_strictly_decreasing(drawn: tuple[Tensor, int], average: str) -> None:
    paths, last = drawn
    method = full_grid(average="median", published=True) if average == "published" else full_grid(average=average)
    averaged = method.programme.averaged(paths, last)
    assert averaged[0] == 0
    assert averaged[-1] == last
    assert bool((averaged.diff() >= 1).all())
    if average == "published":
        expected = loops.cal_medium([in_paper_order(path, last) for path in paths])
        assert in_paper_order(averaged, last) == expected
    else:
        exactly = paths.double().mean(0) if average == "mean" else paths.double().quantile(0.5, dim=0)
        assert torch.equal(averaged, (exactly + 0.5 + 1e-9).floor().long())  # half up; 1e-9 for means such as 1.4999...


def test_cal_medium_of_an_odd_count_is_not_the_median() -> None:
    last = 100
    from_clean = torch.tensor([[0, 10, 100], [0, 90, 100], [0, 20, 100]])
    paths = (last - from_clean).flip(1)
    assert in_paper_order(full_grid(average="median", published=True).programme.averaged(paths, last), last) == [
        0,
        15,
        100,
    ]
    assert in_paper_order(full_grid(average="median").programme.averaged(paths, last), last) == [0, 20, 100]


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("average", ["mean", "pooled"])
def test_states_on_disk_change_nothing(average: str, solver: str, tmp_path: Path) -> None:
    problem = dataclasses.replace(mixture_problem("edm", samples=5, teacher_steps=12), solver=build_solver(solver))
    on_disk = dataclasses.replace(problem, cache=Cache(scratch=tmp_path / "scratch"))
    expected, found = (full_grid(average=average, shard_size=2).search(one, [3, 5]) for one in (problem, on_disk))
    for n in (3, 5):
        assert torch.equal(found.schedules[n].times, expected.schedules[n].times)
        assert torch.equal(found.evidence["final_mse"][n], expected.evidence["final_mse"][n])
    assert list((tmp_path / "scratch").iterdir()) == [], "no file is left"


@pytest.mark.parametrize("average", ["mean", "median"])
def test_model_wide_schedule_is_the_average_of_the_samples(average: str) -> None:
    problem = mixture_problem("edm", samples=9, teacher_steps=30)
    found = full_grid(average=average).search(problem, [2, 6])
    for n in (2, 6):
        paths = found.per_sample[n].double()
        assert len(paths.unique(dim=0)) > 1
        centre = paths.mean(0) if average == "mean" else paths.median(0).values
        indices = (centre + 0.5).floor().long()
        assert found.schedules[n].metadata["indices"] == indices.tolist()
        assert torch.equal(found.schedules[n].times, problem.teacher.times[indices])


# --- schedules


@pytest.mark.parametrize("options", [{}, {"average": "median"}, {"average": "mean"}])
@pytest.mark.parametrize("process", PROCESSES)
def test_exactly_n_steps_between_the_teachers_ends(process: str, options: dict[str, object]) -> None:
    problem = mixture_problem(process, samples=4, teacher_steps=15)
    found = full_grid(**options).search(problem, range(1, 16))
    for n in range(1, 16):
        schedule = found.schedules[n]
        assert schedule.steps == n
        assert torch.equal(schedule.times[[0, -1]], problem.teacher.times[[0, -1]])
        assert schedule.initial_scale is None
        if found.per_sample is not None:
            assert bool((found.per_sample[n].diff(dim=1) >= 1).all())


def test_teachers_own_starting_scale_is_kept() -> None:
    problem = mixture_problem("edm", samples=3, teacher_steps=15)
    scaled = Schedule(problem.teacher.times, EDM(), initial_scale=70.0)
    problem = dataclasses.replace(problem, teacher=scaled)
    for start in ("teacher", "free"):
        method = full_grid(average="mean", start=start)
        found = method.search(problem, [4])
        for number, path in enumerate(found.per_sample[4]):
            schedule = method.path_schedule(problem, path)
            assert schedule.initial_scale == pytest.approx(70.0 * (1 + schedule.times[0].item()) / 81.0)
            said = found.evidence["final_mse"][4][number].item()
            assert end_mse(problem, schedule)[number].item() == pytest.approx(said, rel=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_free_start_travels_with_the_schedule(process: str, tmp_path) -> None:
    problem = mixture_problem(process, samples=12, teacher_steps=20)
    method = full_grid(average="mean", start="free")
    found = method.search(problem, [3])
    below = (found.per_sample[3][:, 0] > 0).nonzero()[:, 0].tolist()
    assert below, "no sample starts below the teacher's first time: the test needs another seed"
    number = below[0]
    schedule = method.path_schedule(problem, found.per_sample[3][number])
    schedule.save(tmp_path / "free.json")
    loaded = Schedule.load(tmp_path / "free.json")
    assert loaded == schedule
    said = found.evidence["final_mse"][3][number].item()
    assert end_mse(problem, loaded)[number].item() == pytest.approx(said, rel=1e-9)
    # in flow coordinates the noise is where the teacher's was
    clock, first = problem.process, problem.teacher.times[0]
    size, size_first = (clock.alpha(t) + clock.sigma(t) for t in (schedule.times[0], first))
    assert loaded.initial_scale == pytest.approx((problem.teacher.scale / size_first * size).item())
    rescaled = Schedule(loaded.times, clock)
    assert end_mse(problem, rescaled)[number].item() > 1.01 * said


# --- conditions


def two_classes(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    each = torch.stack([three_gaussians(turn).denoiser(EDM())(x, t) for turn in (0.0, 1.0)])
    return each[cond, torch.arange(len(x))]


@pytest.mark.parametrize("options", [{"average": "mean"}, {"published": True, "start": "free"}])
def test_conditions_travel_with_their_samples(options: dict[str, object]) -> None:
    problem = dataclasses.replace(
        mixture_problem("edm", samples=6, teacher_steps=20), denoiser=two_classes, cond=torch.tensor([0, 1, 1, 0, 1, 0])
    )
    method = full_grid(max_batch=7, shard_size=4, **options)
    together = method.search(problem, [4]).per_sample[4]
    for number in range(6):
        one = dataclasses.replace(
            problem, noise=problem.noise[number : number + 1], cond=problem.cond[number : number + 1]
        )
        assert torch.equal(method.search(one, [4]).per_sample[4][0], together[number])
    swapped = method.search(dataclasses.replace(problem, cond=1 - problem.cond), [4]).per_sample[4]
    assert not torch.equal(swapped, together)


def test_a_nested_condition_is_the_same_search() -> None:
    problem = dataclasses.replace(
        mixture_problem("edm", samples=4, teacher_steps=16), denoiser=two_classes, cond=torch.tensor([0, 1, 1, 0])
    )
    nested = dataclasses.replace(
        problem, denoiser=lambda x, t, cond: two_classes(x, t, cond["label"]), cond={"label": problem.cond}
    )
    for method in (full_grid(max_batch=5), full_grid(max_batch=5, average="mean")):
        assert method.search(nested, [4]).schedules[4] == method.search(problem, [4]).schedules[4]


# --- memory


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors, made inside the context, that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)}  # views own nothing
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known | self.alive.keys():
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        dead = [key for key, (reference, _) in self.alive.items() if reference.expired()]
        for key in dead:
            del self.alive[key]
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def peak_bytes(samples: int, **options: object) -> int:
    shrink = lambda x, t, cond: x / (1 + t[:, None]) ** 2  # noqa: E731
    problem = SearchProblem(shrink, EDM(), build_solver("euler"), noise(samples, 784), teacher(EDM(), 8))
    with LiveBytes() as live:
        full_grid(shard_size=8, **options).search(problem, [3])
    return live.peak


@pytest.mark.parametrize("options", [{"average": "mean"}, {"published": True, "start": "free"}])
def test_memory_does_not_grow_with_the_number_of_samples(options: dict[str, object]) -> None:
    few, many = peak_bytes(16, **options), peak_bytes(48, **options)
    states = 8 * 9 * 784 * 8
    assert few > 2 * states  # the measure sees the shard's states
    assert many < 1.05 * few


def test_the_measure_of_memory_would_see_states_that_are_kept() -> None:
    few, many = (peak_bytes(samples, average="pooled") for samples in (16, 48))
    assert many > 2 * few


# --- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "anywhere"}, "start must be 'teacher' or 'free', got 'anywhere'"),
        ({"average": "mode"}, "'mean', 'median' or 'pooled', got 'mode'"),
        ({"average": "pooled", "published": True}, "no pooled average"),
        ({"max_batch": 0}, "at least 1, got 0"),
        ({"shard_size": 0}, "at least 1, got 512 and 0"),
    ],
)
def test_unknown_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        full_grid(**options)


@pytest.mark.parametrize("steps", [[], [0], [-1, 3], [2.5]])
def test_step_counts_must_be_positive_integers(steps: list[float]) -> None:
    with pytest.raises(ValueError, match="step counts must be a list of integers of at least 1"):
        full_grid(average="mean").search(mixture_problem("edm", samples=1, teacher_steps=5), steps)


@pytest.mark.parametrize("average", ["mean", "pooled"])
def test_more_steps_than_the_teacher(average: str) -> None:
    with pytest.raises(ValueError, match="11 student steps were asked for, but the teacher has only 10"):
        full_grid(average=average).search(mixture_problem("edm", samples=1, teacher_steps=10), [5, 11])


@pytest.mark.parametrize("name", ["ddim_stochastic", "sde_dpmpp_2m", "er_sde_2"])
def test_a_stochastic_solver_is_refused(name: str) -> None:
    problem = dataclasses.replace(mixture_problem("edm", samples=1, teacher_steps=5), solver=build_solver(name))
    with pytest.raises(ValueError, match=f"stochastic solver '{name}' does not repeat"):
        full_grid(average="mean").search(problem, [2])


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m"])
def test_the_released_code_knows_euler_only(name: str) -> None:
    problem = dataclasses.replace(mixture_problem("edm", samples=1, teacher_steps=5), solver=build_solver(name))
    with pytest.raises(ValueError, match=f"Euler's steps only, not those of '{name}'"):
        full_grid(published=True).search(problem, [2])


def test_a_coarser_grid_is_a_subset_of_the_teacher_s_times() -> None:
    problem = mixture_problem("edm", samples=4, teacher_steps=20)
    allowed = {0, 3, 6, 9, 11, 14, 17, 20}  # 20 i / 7, rounded
    for average in ("mean", "median", "pooled"):
        found = OSS(grid_steps=7, average=average).search(problem, [4])
        assert set(found.schedules[4].metadata["indices"]) <= allowed
        assert found.schedules[4].metadata["indices"][0] == 0
        if found.per_sample is not None:
            assert set(found.per_sample[4].flatten().tolist()) <= allowed


def test_a_grid_that_does_not_fit() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=10)
    with pytest.raises(ValueError, match="grid_steps must lie between 1 and the teacher's 10 steps, got 11"):
        OSS(grid_steps=11).search(problem, [2])
    with pytest.raises(ValueError, match="grid_steps must lie between 1 and the teacher's 10 steps, got 0"):
        OSS(grid_steps=0).search(problem, [2])
    with pytest.raises(ValueError, match="6 student steps were asked for, but the teacher has only 5 to choose from"):
        OSS(grid_steps=5).search(problem, [6])


@pytest.mark.parametrize("average", ["mean", "pooled"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_denoiser_that_breaks_names_the_time(bad: float, average: str) -> None:
    problem = mixture_problem("edm", samples=3, teacher_steps=20)
    first_bad = problem.teacher.times[problem.teacher.times < 1][0].item()

    def breaks(x: Tensor, t: Tensor, cond: object) -> Tensor:
        return torch.where(t[:, None] < 1, bad, x)

    with pytest.raises(ValueError, match=f"NaN or inf at time {first_bad:g} "):
        full_grid(average=average).search(dataclasses.replace(problem, denoiser=breaks), [4])


def test_a_denoiser_that_breaks_in_the_search_alone_names_the_time() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=20)
    calls = []

    def breaks_later(x: Tensor, t: Tensor, cond: object) -> Tensor:
        calls.append(len(x))
        return torch.where((len(calls) > 20) & (t[:, None] < 1), math.nan, x / (1 + t[:, None]))

    with pytest.raises(ValueError, match=r"NaN or inf at time 0\.\d+ \(sample \d+ of the batch\)"):
        full_grid(average="mean").search(dataclasses.replace(problem, denoiser=breaks_later), [4])


def test_a_denoiser_of_another_shape_names_shapes_and_time() -> None:
    problem = mixture_problem("edm", samples=3, teacher_steps=6)
    narrow = dataclasses.replace(problem, denoiser=lambda x, t, cond: x[:, :1])
    with pytest.raises(ValueError, match=r"shape \(3, 1\) for an input of shape \(3, 2\) at time 80"):
        full_grid(average="mean").search(narrow, [2])


def test_noise_and_cond_go_together() -> None:
    with pytest.raises(ValueError, match="noise holds 4 samples but cond holds 3"):
        dataclasses.replace(mixture_problem("edm", samples=4, teacher_steps=5), cond=torch.zeros(3))


def test_problems_that_state_nothing_searchable() -> None:
    problem = mixture_problem("edm", samples=1, teacher_steps=5)
    with pytest.raises(ValueError, match="no samples"):
        dataclasses.replace(problem, noise=torch.zeros(0, 2))
    with pytest.raises(ValueError, match="the teacher's schedule is for Flow"):
        dataclasses.replace(problem, teacher=teacher(PROCESSES["flow"], 5))


def test_no_graph_is_built() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    problem = mixture_problem("edm", samples=2, teacher_steps=8)
    learnable = dataclasses.replace(problem, denoiser=lambda x, t, cond: weight * problem.denoiser(x, t, cond))
    found = full_grid(average="mean").search(learnable, [3])
    assert not found.evidence["final_mse"][3].requires_grad
    assert not sample(learnable.denoiser, found.schedules[3], problem.solver, problem.noise).requires_grad
