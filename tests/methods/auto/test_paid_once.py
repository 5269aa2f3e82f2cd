"""Shared work is counted where it is requested first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from problems import mixture_problem

from optsteps.denoisers import CountedDenoiser
from optsteps.methods.auto.paid_once import PaidOnce
from optsteps.storage.store import ShardStore
from optsteps.storage.workers import ALONE, StoredWorkers, Workers
from optsteps.trajectories import Cache, Trajectories

Backs = Callable[[], Workers]


@pytest.fixture(params=["alone", "stored"])
def backs(request: pytest.FixtureRequest, tmp_path: Path) -> Backs:
    """Workers, the same every time."""
    return lambda: ALONE if request.param == "alone" else StoredWorkers(ShardStore(tmp_path), {})


def test_a_shard_is_computed_once_and_paid_for_once(backs: Backs) -> None:
    computed: list[int] = []

    def compute(number: int) -> tuple[str, int]:
        computed.append(number)
        return f"result {number}", 10 + number

    def none_left(number: int) -> Any:
        raise AssertionError("computed again")

    workers = PaidOnce(backs()).on("part", fact=1)
    names = [{"number": 0}, {"number": 1}]
    assert workers.shards(names[:1], compute) == [("result 0", 10)]
    assert workers.shards(names, compute) == [("result 0", 0), ("result 1", 11)]
    assert computed == [0, 1]
    again = PaidOnce(workers.workers, workers.facts, workers.paid)  # shares what is paid
    assert again.shards(names, none_left) == [("result 0", 0), ("result 1", 0)]
    assert again.kept(names[0]) == ("result 0", 0)
    assert again.kept({"number": 2}) is None
    other = workers.on("part", fact=2)
    assert other.kept(names[0]) is None
    assert other.shards(names[:1], compute) == [("result 0", 10)]


def test_a_whole_walk_pays_for_its_end(backs: Backs) -> None:
    problem = mixture_problem("edm", 5, teacher_steps=8)
    counter = CountedDenoiser(problem.denoiser)
    for _ in range(2):  # with a store, the second time reads everything and reports the same
        counter.evaluations = 0
        cache, walk = Cache(PaidOnce(backs())), (problem.teacher, problem.solver, problem.noise)
        counts = []
        for ask in ("record", "ends", "states", "record", "ends"):
            before = counter.evaluations
            getattr(Trajectories(counter, cache=cache), ask)(*walk)
            counts.append(counter.evaluations - before)
        assert counts == [5 * 8, 0, 0, 0, 0]


def test_what_is_found_in_a_store_is_paid_for_once(tmp_path: Path) -> None:
    problem = mixture_problem("edm", 5, teacher_steps=8)
    walk = {"schedule": problem.teacher, "solver": problem.solver, "noise": problem.noise}
    stored = StoredWorkers(ShardStore(tmp_path), {})
    Trajectories(CountedDenoiser(problem.denoiser), cache=Cache(stored)).record(**walk)

    def never(*_: Any) -> Any:
        raise AssertionError("evaluated")

    counter, cache = CountedDenoiser(never), Cache(PaidOnce(stored))
    for expected in (40, 40):
        Trajectories(counter, cache=cache).record(**walk)
        assert counter.evaluations == expected
