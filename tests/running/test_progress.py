"""What a run tells of itself: evaluations of every rank, rates, what is left."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

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


def test_ranks_are_counted_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    further = Progress("H200", 1, tmp_path)
    watched = further.watch(double)
    with Progress("cpu", 0, tmp_path) as progress, progress.stage("teacher"):
        watched(torch.ones(20, 2), torch.ones(20))
        assert json.loads((tmp_path / "1.json").read_text()) == {"device": "H200", "evaluations": 40}
        progress.watch(double)(torch.ones(5, 2), torch.ones(5))
        progress.advance(0.1)
    told = capsys.readouterr().err
    assert re.search(r"50 evaluations, rank 0 [\d,]+/s on cpu, rank 1 [\d,]+/s on H200", told)
    # half of the evaluations are done: as much time is left as was spent, not nine times as much
    assert re.search(r"teacher: 0:00:00 to go, 50 evaluations", told)


def test_lines_that_nobody_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither they nor counts that cannot be written end the work."""
    (tmp_path / "file").write_text("")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        with Progress("cpu", 1, tmp_path / "file") as progress, progress.stage("search oss"):
            progress.watch(double)(torch.ones(5, 2), torch.ones(5))
            progress.shard({"round": 0, "rounds": 2, "shard": 1, "of": 2})
    assert progress.evaluations == 10
