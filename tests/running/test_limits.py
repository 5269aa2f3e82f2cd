"""A plan beyond its budget, or beyond the disk, is refused in one paragraph."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optsteps.running.limits import check_budget, check_disk
from optsteps.running.plan import Stage, evaluations_by_stage, plan_note, shortened, total
from optsteps.running.probe import measured_rate
from optsteps.storage.store import ShardStore

STAGES = [
    Stage("check the model", 8, 100),
    Stage("teacher", 10, 1000, kept=10_000_000),
    Stage("search oss", 10, 5000, kept=50_000_000),
    Stage("search edm", 10, 0),
    Stage("compare", 10, 900, kept=1_000_000),
    Stage("search mine", 10, None),
]


def test_a_budget_of_evaluations() -> None:
    assert total(STAGES) == 7000
    check_budget(STAGES, None)
    check_budget(STAGES, 7000)
    with pytest.raises(ValueError, match=r"7,000 evaluations and budget=6999: .*'search oss' with 5,000.*search\.sam"):
        check_budget(STAGES, 6999)


def test_a_budget_of_time() -> None:
    check_budget(STAGES, "10min")  # not measured yet
    check_budget(STAGES, "70s", rate=100.0)
    with pytest.raises(ValueError, match=r"7,000 evaluations, about 70 s, and budget=1min"):
        check_budget(STAGES, "1min", rate=100.0)


@given(st.lists(st.integers(0, 10**6), max_size=12), st.integers(5, 9))
def test_shortened_stages_have_the_same_sum(counts: list[int], rows: int) -> None:
    stages = [Stage("teacher", 1, 7), *(Stage(f"search {k}", 1, count) for k, count in enumerate(counts))]
    stages += [Stage("compare", 1, 7), Stage("oracle", 1, 5)]
    short = shortened(stages, rows)
    assert len(short) <= rows
    assert total(short) == total(stages)
    assert [short[0].name, *(stage.name for stage in short[-2:])] == ["teacher", "compare", "oracle"]


def test_stages_go_by_the_names_of_the_progress() -> None:
    counts = {"teacher": 1000, "search oss": 5000, "search edm": 0, "compare": 900, "search mine": None}
    assert evaluations_by_stage(STAGES) == counts


def full(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - free, free))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, free=60_000_000)
    store = ShardStore(tmp_path / "not" / "there")
    with pytest.raises(
        OSError, match=r"needs 0\.061 GB for this plan and its disk has 0\.06 GB free: .*store\.folder="
    ):
        check_disk(STAGES, store)
    assert "takes about 61 MB, and 60 MB are free" in plan_note(STAGES, 100.0, store)
    check_disk(STAGES, ShardStore(tmp_path / "limited", limit=50_000_000))
    full(monkeypatch, free=61_000_000)
    check_disk(STAGES, store)


def test_shards_that_are_there_need_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, free=60_900_000)
    store = ShardStore(tmp_path)
    store.put("abc", torch.zeros(50_000))
    check_disk(STAGES, store)


def test_the_rate_is_that_of_quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of b samples takes 0.001 (9 + b) seconds: the rate is that of as many as take a tenth of a second."""
    now, sizes = [0.0], []

    class Clock:
        perf_counter = staticmethod(lambda: now[0])

    def network(x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        sizes.append(len(x))
        now[0] += 0.001 * (9 + len(x)) + (5 if len(sizes) == 1 else 0)  # it warms up
        return x

    monkeypatch.setattr("optsteps.running.probe.time", Clock)
    x, t = torch.ones(4, 2), torch.ones(4, dtype=torch.float64)
    assert measured_rate(network, x, t, max_batch=100) == pytest.approx(10 / 0.019)
    assert set(sizes) == {1, 10}
    assert measured_rate(network, x, t, max_batch=5) == pytest.approx(5 / 0.014)
