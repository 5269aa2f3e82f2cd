"""Searches divided over a store: the same results, nothing computed twice, by one process or several."""

from __future__ import annotations

import multiprocessing
from pathlib import Path as File
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed import HashStore, TCPStore

from optsteps import SearchProblem, build_schedule
from optsteps.methods import AYS, OSS, Method, Path, SearchResult
from optsteps.models.analytic import GaussianMixture
from optsteps.noise import unit_noise
from optsteps.processes import EDM
from optsteps.solvers import build_solver
from optsteps.storage.division import Division
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import GatheredWorkers, StoredWorkers, Workers
from optsteps.trajectories import NO_CACHE, Cache

METHODS: dict[str, Any] = {
    "mean": lambda: OSS(average="mean", shard_size=8),
    "pooled": lambda: OSS(average="pooled", shard_size=8),
    "judged": lambda: AYS(levels=16, block_size=4, shard_size=8),
    "path": lambda: Path(shard_size=8),
    "last": lambda: AYS(levels=16, block_size=4, shard_size=8, choose="last"),
}


class Watched:
    """A denoiser that counts, and on demand ends the process' work as a kill would."""

    def __init__(self, denoiser: Any, last: int | None = None) -> None:
        self.denoiser, self.calls, self.last = denoiser, 0, last

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt
        return self.denoiser(x, t)


def problem(last: int | None = None, cache: Cache = NO_CACHE) -> tuple[SearchProblem, Watched]:
    mixture = GaussianMixture([[-2.0, 0.0], [2.0, 0.5]], [0.3, 0.2])
    denoiser = Watched(mixture.denoiser(EDM()), last)
    teacher = build_schedule("edm", EDM(), 20, t_max=80.0, t_min=0.002)
    noise = unit_noise(0, range(24), (2,)).double()
    return SearchProblem(denoiser, EDM(), build_solver("euler"), noise, teacher, cache=cache), denoiser


def same(a: SearchResult, b: SearchResult) -> bool:
    return a.nfe == b.nfe and all(a.schedules[n] == b.schedules[n] for n in a.schedules)


@pytest.mark.parametrize("name", METHODS)
def test_a_second_search_evaluates_nothing(name: str, tmp_path: File) -> None:
    method: Method = METHODS[name]()
    stated, denoiser = problem()
    alone = method.search(stated, [3, 5])
    workers = StoredWorkers(ShardStore(tmp_path), {"method": name})
    assert same(method.search(stated, [3, 5], workers), alone)
    before = denoiser.calls
    again = method.search(stated, [3, 5], workers)
    assert same(again, alone)
    assert denoiser.calls == before
    # other facts are other shards
    method.search(stated, [3, 5], StoredWorkers(ShardStore(tmp_path), {"method": "other"}))
    assert denoiser.calls > before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.mostly_slow(3)
def test_an_interrupted_search_goes_on(name: str, tmp_path: File) -> None:
    """Wherever it is cut off, the result is the same, and what is computed again is less than a shard's walk."""
    everything = StoredWorkers(ShardStore(tmp_path / "whole"), {})
    stated, whole = problem(cache=Cache(everything))
    alone = METHODS[name]().search(stated, [3, 5], everything)
    for last in range(5, whole.calls, max(1, whole.calls // 3)):
        workers = StoredWorkers(ShardStore(tmp_path / str(last)), {})
        cut, first = problem(last, Cache(workers))
        with pytest.raises(KeyboardInterrupt):
            METHODS[name]().search(cut, [3, 5], workers)
        fresh, second = problem(cache=Cache(workers))
        assert same(METHODS[name]().search(fresh, [3, 5], workers), alone)
        # a call here is a step of a shard's walk, a level of its search, or a part of its table
        assert first.calls + second.calls - whole.calls <= 20


def test_searches_share_trajectories_and_predictions(tmp_path: File) -> None:
    """Another average evaluates nothing; other step counts and AYS evaluate what is new."""
    cache = Cache(StoredWorkers(ShardStore(tmp_path), {}))
    stated, denoiser = problem(cache=cache)
    OSS(shard_size=8, average="mean").search(stated, [3, 5])
    first = denoiser.calls
    assert same(
        OSS(shard_size=8, average="median").search(stated, [3, 5]),
        OSS(shard_size=8, average="median").search(problem()[0], [3, 5]),
    )
    assert denoiser.calls == first
    OSS(shard_size=8, average="mean").search(stated, [3])
    assert denoiser.calls == first
    OSS(shard_size=8, average="mean").search(stated, [3, 4, 5])
    assert denoiser.calls == first + 3  # one node more can be left after three steps: that level of each shard
    first = denoiser.calls
    AYS(shard_size=8, levels=16, block_size=4).search(stated, [3])
    with_teacher = denoiser.calls - first
    stated, denoiser = problem(cache=Cache(StoredWorkers(ShardStore(tmp_path / "other"), {})))
    AYS(shard_size=8, levels=16, block_size=4).search(stated, [3])
    assert with_teacher == denoiser.calls - 3 * 20  # the teacher's walks are there


def test_precision_of_what_is_kept(tmp_path: File) -> None:
    """Rounded for whoever computes it as well: the second search, which reads, finds what the first found."""
    cache = Cache(StoredWorkers(ShardStore(tmp_path), {}), torch.bfloat16)
    stated, denoiser = problem(cache=cache)
    first = OSS(shard_size=8).search(stated, [3, 5])
    calls = denoiser.calls
    assert same(OSS(shard_size=8).search(stated, [3, 5]), first)
    assert denoiser.calls == calls
    sizes = {path.stat().st_size for path in tmp_path.rglob("*.safetensors")}
    exact = Cache(StoredWorkers(ShardStore(tmp_path / "exact"), {}))
    OSS(shard_size=8).search(problem(cache=exact)[0], [3, 5])
    assert max(sizes) < max(path.stat().st_size for path in (tmp_path / "exact").rglob("*.safetensors")) / 2


def _workers(folder: File, rank: int, port: int, shared: bool) -> Workers:
    board = TCPStore("127.0.0.1", port, is_master=False)
    if shared:
        return StoredWorkers(ShardStore(folder), {}, Division(board, rank, 2))
    return GatheredWorkers(Division(board, rank, 2), ShardStore(folder) if rank == 0 else None, {})


def _search(folder: File, rank: int, port: int, shared: bool, name: str, queue: Any) -> None:
    torch.set_num_threads(1)
    workers = _workers(folder, rank, port, shared)
    stated, denoiser = problem(cache=Cache(workers))
    found = METHODS[name]().search(stated, [3, 5], workers)
    queue.put((denoiser.calls, {n: s.times.tolist() for n, s in found.schedules.items()}))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["mean", "judged", "path"])
def test_two_ranks_find_what_one_process_finds(name: str, shared: bool, tmp_path: File) -> None:
    everything = StoredWorkers(ShardStore(tmp_path / "whole"), {})
    stated, whole = problem(cache=Cache(everything))
    alone = METHODS[name]().search(stated, [3, 5], everything)
    expected = {n: s.times.tolist() for n, s in alone.schedules.items()}
    context = multiprocessing.get_context("fork")
    # without a common store, a walk of the teacher that a shard needs is made by every rank that comes to such a shard
    twice = 0 if shared else 3 * 20
    for fewest, most in ((whole.calls, whole.calls + twice), (0, 0)):  # the second time, all is in the store
        queue, server = context.Queue(), TCPStore("127.0.0.1", 0, is_master=True)
        ranks = [(tmp_path / "both", rank, server.port, shared, name, queue) for rank in (0, 1)]
        both = [context.Process(target=_search, args=arguments) for arguments in ranks]
        for process in both:
            process.start()
        answers = [queue.get(timeout=60) for _ in both]
        for process in both:
            process.join(60)
        assert [times for _, times in answers] == [expected, expected]
        assert fewest <= sum(calls for calls, _ in answers) <= most


def test_a_shard_that_is_deleted_is_computed_again(tmp_path: File) -> None:
    """By whoever misses it, though it was finished."""
    division = Division(HashStore(), 0, 2)
    workers = StoredWorkers(ShardStore(tmp_path), {}, division)
    names = [{"shard": k} for k in range(3)]
    assert workers.shards(names, lambda k: k) == [0, 1, 2]
    next(tmp_path.glob("*/*.safetensors")).unlink()
    assert workers.shards(names, lambda k: k) == [0, 1, 2]


def test_large_shards_are_sent_in_pieces() -> None:
    board = HashStore()
    large = torch.arange(3_000_000)
    Division(board, 0, 3).send("large", (large, 7))
    for rank in (1, 2):
        received, number = Division(board, rank, 3).received("large")
        assert torch.equal(received, large)
        assert number == 7
    assert not board.check(["piece/large/0"])  # nobody needs it any more
