"""OSS's affordable search: what it may visit, what it counts, and how near it comes to the whole grid."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Watched, full_grid, mixture_problem, noise, unet_problem

from optsteps.methods import OSS
from optsteps.methods.oss.refinement import blocks, windows
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM
from optsteps.solvers import build_solver
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, RememberingWorkers, StoredWorkers


@given(st.integers(1, 200), st.sampled_from([1, 2, 30, 64, 1000]))
def test_every_block_doubles_what_came_before(samples: int, numbers: int) -> None:
    parts = blocks(torch.zeros(samples, numbers))
    assert torch.equal(torch.cat(parts), torch.arange(samples))
    assert len(parts[0]) == samples or (len(parts[0]) >= 2 and len(parts[0]) * numbers >= 64)
    used = 0
    for number, block in enumerate(parts):
        if 0 < number < len(parts) - 1:
            assert len(block) == used
        used += len(block)


@st.composite
def some_paths(draw: st.DrawFn) -> tuple[dict[int, list[int]], int, int]:
    last = draw(st.integers(3, 30))
    counts = sorted(draw(st.sets(st.integers(1, last), min_size=1, max_size=3)))
    inner = {n: draw(st.sets(st.integers(1, last - 1), min_size=n - 1, max_size=n - 1)) for n in counts}
    return {n: [0, *sorted(nodes), last] for n, nodes in inner.items()}, last, draw(st.integers(1, 5))


@settings(deadline=None)
@given(some_paths())
def test_a_path_goes_on_from_every_node_of_a_window(given_paths: tuple[dict[int, list[int]], int, int]) -> None:
    paths, last, spacing = given_paths
    found = windows(paths, sorted(paths), last, spacing)
    for n, path in paths.items():
        for k, node in enumerate(path[:-1]):
            assert node in found[k]
        # the outermost neighbours of a path are paths as well
        for shift in (-spacing, spacing):
            moved = [min(max(node + shift, k), last - (n - k)) for k, node in enumerate(path[:-1])]
            assert all(node in found[k] for k, node in enumerate(moved))
            assert all(a < b for a, b in zip(moved, [*moved[1:], last], strict=True))
    for k, nodes in enumerate(found):
        for node in nodes:
            assert any(node + (n - k) <= last for n in paths if n > k)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("process", ["edm", "flow"])
def test_windows_of_all_nodes_are_the_whole_grid(process: str, solver: str) -> None:
    problem = dataclasses.replace(mixture_problem(process, 3, 12), solver=build_solver(solver))
    method = full_grid()
    method.windows = [list(range(13))] * 5
    grid = full_grid(grid_steps=12).search(problem, [3, 5])
    found = method.search(problem, [3, 5])
    for n in (3, 5):
        assert torch.equal(found.schedules[n].times, grid.schedules[n].times)


def test_windows_are_kept_to() -> None:
    problem, allowed = mixture_problem("edm", 3, 10), [[0], [2, 3], [5, 6, 7]]
    method = full_grid()
    method.windows = allowed
    found = method.search(problem, [3])
    inner = found.schedules[3].metadata["indices"][1:-1]
    assert inner[0] in allowed[1]
    assert inner[1] in allowed[2]
    # and the best of what they allow is found: one step is Euler's own, so the pooled costs add up along a path
    watched = Watched(problem.denoiser)
    method.search(dataclasses.replace(problem, denoiser=watched), [3])
    # beside the teacher's walk, which knows node 0, only nodes of the windows are evaluated
    assert sum(watched.batches) == 3 * (10 + 2 + 3)


@pytest.mark.slow
def test_nearly_always_the_path_of_the_whole_grid() -> None:
    """On the same samples: its mean error, in the mean of six problems and two counts, for fewer evaluations."""
    ratios = []
    for process in ("edm", "vp", "flow"):
        for solver in ("euler", "unipc"):
            problem = dataclasses.replace(mixture_problem(process, 16, 60), solver=build_solver(solver))
            refined, whole = OSS().search(problem, [4, 6]), full_grid().search(problem, [4, 6])
            assert refined.nfe < 0.75 * whole.nfe
            final = [found.evidence["final_mse"] for found in (refined, whole)]
            ratios += [float(final[0][n].mean() / final[1][n].mean()) for n in (4, 6)]
    assert torch.tensor(ratios).log().mean().exp() < 1.1
    assert sum(0.95 < ratio < 1.05 for ratio in ratios) >= 10


@pytest.mark.parametrize("solver", ["euler", "unipc", "dpm2"])
@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_what_is_counted_is_what_was_evaluated(samples: int, solver: str) -> None:
    """The teacher is walked once for a sample, however many searches see it."""
    data = GaussianMixture(noise(3, 64, seed=3), torch.tensor([0.1, 0.3, 0.05]))
    problem = dataclasses.replace(
        mixture_problem("edm", 1, 40),
        denoiser=data.denoiser(EDM()),
        noise=noise(samples, 64),
        solver=build_solver(solver),
    )
    watched = Watched(problem.denoiser)
    found = OSS().search(dataclasses.replace(problem, denoiser=watched), [3, 5])
    assert sum(watched.batches) == pytest.approx(found.nfe * samples)
    planned = OSS().evaluations(problem, [3, 5])
    assert not planned.exact
    assert planned.count / 3 < found.nfe * samples < planned.count * 3


def test_it_says_what_it_decided() -> None:
    found = OSS().search(unet_problem(torch.float64, 8, 40), [3, 5])
    decisions = found.evidence["decisions"]
    assert decisions[0].startswith("2 samples on a grid of 20 steps")
    assert all(" evaluations so far)" in sentence for sentence in decisions)
    assert len(found.per_sample[5]) == found.schedules[5].metadata["samples"]  # type: ignore[index]


def test_a_store_shards_and_batches_change_nothing(tmp_path: Path) -> None:
    problem = unet_problem(torch.float64, samples=6, teacher_steps=40)
    plain = OSS().search(problem, [3, 4])
    stored = StoredWorkers(ShardStore(tmp_path), {"model": "unet"})
    cache = dataclasses.replace(problem.cache, workers=stored)
    kept = dataclasses.replace(problem, cache=cache)
    for method in (OSS(shard_size=1), OSS(max_batch=3)):
        first, again = (method.search(kept, [3, 4], stored) for _ in range(2))
        for n in (3, 4):
            assert torch.equal(first.schedules[n].times, plain.schedules[n].times)
            assert torch.equal(again.schedules[n].times, plain.schedules[n].times)
        assert first.nfe == again.nfe == plain.nfe


def test_amplitude_is_calibrated_once() -> None:
    problem = mixture_problem("edm", 6, 40)
    plain, calibrated = OSS().search(problem, [3]), OSS(amplitude=True).search(problem, [3])
    assert torch.equal(plain.schedules[3].times, calibrated.schedules[3].times)
    assert calibrated.schedules[3].amplitude is not None
    assert calibrated.nfe - plain.nfe == pytest.approx(40 + 3)


def test_what_goes_together() -> None:
    assert OSS().grid_steps == "auto"
    assert OSS(average="mean").grid_steps == OSS(published=True).grid_steps == "all"
    assert OSS().alone().grid_steps == "all"
    with pytest.raises(ValueError, match="grid_steps='auto' searches one path for all samples"):
        OSS(average="mean", grid_steps="auto")
    with pytest.raises(ValueError, match="grid_steps must be a number, 'auto' or 'all', got 'some'"):
        OSS(grid_steps="some")  # type: ignore[arg-type]


def test_workers_that_remember_one_part() -> None:
    workers, computed = RememberingWorkers(ALONE, "record"), []

    def shards(part: str, names: list[dict[str, int]]) -> list[int]:
        return workers.on(part, facts=1).shards(names, lambda number: computed.append(number) or names[number]["k"])

    assert shards("record", [{"k": 3}, {"k": 4}]) == [3, 4]
    assert shards("record", [{"k": 4}, {"k": 5}]) == [4, 5]
    assert computed == [0, 1, 1]
    assert shards("ends", [{"k": 4}]) == shards("ends", [{"k": 4}]) == [4]
    assert computed == [0, 1, 1, 0, 0]
    assert workers.on("record", facts=1).kept({"k": 5}) == 5
    assert workers.on("record", facts=2).kept({"k": 5}) is None


def test_the_windows_of_one_count_hold_every_near_path() -> None:
    paths, last = {3: [0, 4, 7, 10]}, 10
    found = windows(paths, [3], last, 1)
    near = [p for p in combinations(range(1, 10), 2) if abs(p[0] - 4) <= 1 and abs(p[1] - 7) <= 1]
    assert all(a in found[1] and b in found[2] for a, b in near)


def test_samples_that_the_search_did_not_take_have_no_schedule_of_their_own() -> None:
    problem = unet_problem(torch.float32, samples=6, teacher_steps=8)  # 64 numbers a sample: two of them say enough
    found = OSS().search(problem, [3])
    assert found.per_sample is not None
    taken = len(found.per_sample[3])
    assert taken < 6
    with pytest.raises(ValueError, match=f"took {taken} of the 6 samples.*alone"):
        OSS().sample_schedules(problem, found, 3)
    alone = OSS().alone()
    assert len(alone.sample_schedules(problem, alone.search(problem, [3]), 3)) == 6
