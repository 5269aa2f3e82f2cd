"""What a run tells of itself: evaluations of every rank, rates, what is left."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed import HashStore

from optsteps.running.progress import Progress


def double(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
    return x * 2


double.nfe = 2  # type: ignore[attr-defined]


def test_a_line_for_each_event(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="optsteps.running.progress")
    with Progress("cpu") as progress:
        denoiser = progress.watch(double)
        with progress.stage("search oss"):
            denoiser(torch.ones(5, 2), torch.ones(5))
            progress.shard({"round": 0, "rounds": 2, "shard": 1, "of": 2})
            progress.shard({"round": 0, "rounds": 2, "shard": 0, "of": 2})  # right after: no line of its own
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"\d\d:\d\d:\d\d search oss: begins", lines[0])
    told = r"\d:\d\d:\d\d to go, round 1 of 2, shard 1 of 2, 10 evaluations, [\d,]+/s on cpu"
    assert re.fullmatch(rf"\d\d:\d\d:\d\d search oss: {told}", lines[1])
    assert re.search(r"search oss: done in 0.\d s, 10 evaluations, [\d,]+/s on cpu$", lines[2])
    assert [record.message for record in caplog.records] == [line.split(" ", 1)[1] for line in lines]
    assert denoiser.nfe == 2  # type: ignore[attr-defined]


def test_shards_of_one_search_after_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search in several parts, such as OSS's on ever more samples: every part counts its own shards."""
    monkeypatch.setattr("optsteps.running.progress._LINE", -1.0)
    with Progress("cpu") as progress, progress.stage("search oss"):
        for of in (2, 2, 3):
            for number in range(of):
                progress.shard({"round": 0, "rounds": 2, "shard": of - 1 - number, "of": of})
        progress.shard({"round": 1, "rounds": 2, "shard": 0, "of": 3})
    found = re.findall(r"round (\d) of 2, shard (\d of \d)", capsys.readouterr().err)
    assert found == [
        *[("1", f"{number} of {of}") for of in (2, 2, 3) for number in range(1, of + 1)],
        ("2", "1 of 3"),
    ]


def test_ranks_are_counted_together(capsys: pytest.CaptureFixture[str]) -> None:
    board = HashStore()
    further = Progress("NVIDIA H200", 1, 3, board)
    watched = further.watch(double)
    with Progress("cpu", 0, 3, board) as progress:
        progress.expect({"teacher": 100})
        with progress.stage("teacher"):
            watched(torch.ones(20, 2), torch.ones(20))
            progress.watch(double)(torch.ones(5, 2), torch.ones(5))
            progress.advance(0.1)
    told = capsys.readouterr().err
    assert re.search(r"50 evaluations, rank 0 [\d,]+/s on cpu, rank 1 [\d,]+/s on NVIDIA H200", told)
    # half of the evaluations are done: as much time is left as was spent, not nine times as much
    assert re.search(r"teacher: 50%, 0:00:00 to go in all, 50 evaluations", told)


def test_lines_that_nobody_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not end the work."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        with Progress("cpu") as progress, progress.stage("search oss"):
            progress.watch(double)(torch.ones(5, 2), torch.ones(5))
            progress.shard({"round": 0, "rounds": 2, "shard": 1, "of": 2})
    assert progress.evaluations == 10


class Clock:
    """A clock that a test turns; it stands in the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, _: str) -> str:
        return "12:00:00"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("optsteps.running.progress.time", clock)
    return clock


def network(progress: Progress, clock: Clock, seconds: float = 1.0) -> Callable[[int], None]:
    """A watched network that takes so many seconds for each evaluation, to be called with a number of samples."""

    def evaluate(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
        clock.now += seconds * len(x)
        return x

    watched = progress.watch(evaluate)

    def call(samples: int) -> None:
        watched(torch.ones(samples, 2), torch.ones(samples))

    return call


def hours(told: str) -> list[float]:
    """The seconds that are left by every line that says so."""
    times = re.findall(r"(\d+):(\d\d):(\d\d) to go in all", told)
    return [int(h) * 3600 + int(m) * 60 + int(s) for h, m, s in times]


def test_a_line_at_least_every_30_seconds_within_one_shard(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("cpu") as progress:
        progress.expect({"search oss": 100})
        call = network(progress, clock)
        with progress.stage("search oss"):
            for _ in range(100):
                call(1)
    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r"(\d+)%, (\S+) to go in all", line) for line in lines[1:-1]] == [
        [("30", "0:01:10")],
        [("60", "0:00:40")],
        [("90", "0:00:10")],
    ]


@given(
    stages=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    batch=st.integers(1, 7),
    seconds=st.floats(0.5, 100),
    found=st.integers(0, 200),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_time_left_for_the_whole_run_at_a_constant_speed(
    stages: list[int],
    batch: int,
    seconds: float,
    found: int,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where evaluations were found in the store, which take no time."""
    capsys.readouterr()
    moments = []
    with Progress("cpu") as progress:
        call = network(progress, clock, seconds)
        tell = progress._tell
        progress._tell = lambda stage: (moments.append(clock.now), tell(stage))  # type: ignore[method-assign]
        counts = [batch * calls for calls in stages]
        progress.expect({"first": counts[0] + found, **{f"stage {k}": count for k, count in enumerate(counts[1:])}})
        for k, calls in enumerate(stages):
            with progress.stage("first" if k == 0 else f"stage {k - 1}"):
                if k == 0:
                    progress.found(("a shard", found))
                for _ in range(calls):
                    call(batch)
    left = hours(capsys.readouterr().err)
    assert len(left) == len(moments)
    assert left == pytest.approx([clock.now - moment for moment in moments], abs=1)


def test_stages_that_nobody_can_plan_make_the_time_a_minimum(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("cpu") as progress:
        progress.expect({"teacher": 60, "search mine": None})
        call = network(progress, clock)
        with progress.stage("teacher"):
            for _ in range(60):
                call(1)
    assert "teacher: 50%, at least 0:00:30 to go in all" in capsys.readouterr().err


def test_jobs_beside_each_other_label_their_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("cpu", label="job 3") as progress, progress.stage("teacher"):
        network(progress, clock)(40)
    assert [line[:30] for line in capsys.readouterr().err.splitlines()] == [
        "12:00:00 job 3: teacher: begin",
        "12:00:00 job 3: teacher: 40 ev",
        "12:00:00 job 3: teacher: done ",
    ]


def test_the_bar_moves_within_a_shard(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("cpu") as progress:
        progress.expect({"oracle": 10})
        call, moved = network(progress, clock), []
        with progress.stage("oracle"):
            for _ in range(5):
                call(2)
                moved.append(progress._bars.tasks[0].completed)
    assert moved == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
