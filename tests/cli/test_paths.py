"""`boss`, `gits` and `path` from the command line: as main method, as rivals, in a sweep, and on two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_run import TINY, start

from optsteps.schedules import Schedule

pytestmark = pytest.mark.usefixtures("blank_pictures")

DIGITS = ["model=digits", "steps=[2,3]", "teacher.steps=8", "search.samples=5", "test.samples=32", "test.oracle=0"]
DIGITS += ["logger=none", "runner=cpu", "runner.threads=1", "check_model=false", "rivals=[boss,gits,edm]"]


def found(run: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of a run's table without wall times, and its schedules."""
    rows = json.loads((run / "metrics.json").read_text())["rows"]
    schedules = {file.name: file.read_text() for file in run.glob("schedule_*.json")}
    return [{key: value for key, value in row.items() if key != "search_seconds"} for row in rows], schedules


def command(folder: Path, *overrides: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optsteps.cli.run", *overrides], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_path_and_its_rivals(solver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search's cost is the teacher's walk alone for `boss` and `gits`."""
    start(monkeypatch, tmp_path, *DIGITS, "store.folder=null", "method=path", f"solver={solver}")
    rows, _ = found(tmp_path)
    assert {row["method"] for row in rows} >= {"teacher", "path", "boss", "gits", "edm"}
    walk = {"dpmpp_2m": 8, "heun": 16}[solver]
    searched = {row["method"]: row["search_nfe"] for row in rows}
    assert searched["boss"] == searched["gits"] == walk < searched["path"]
    metadata = Schedule.load(tmp_path / "schedule_3.json").metadata
    assert (metadata["method"], metadata["solver"]) == ("path", solver)


def test_a_plan_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    start(monkeypatch, tmp_path, *DIGITS, "store.folder=null", "method=boss", "rivals=[path]", "plan=true")
    said = capsys.readouterr().out
    assert "boss" in said
    assert "path" in said


def test_a_default_rival_that_cannot_take_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        start(monkeypatch, tmp_path, *TINY, "model=digits", "method=path", "solver=ddim_stochastic", "runner=cpu")
    assert "the stochastic solver 'ddim_stochastic' does not repeat" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_shares_the_teacher(tmp_path: Path) -> None:
    command(tmp_path, "-m", "method=boss,gits,path", *DIGITS[:-1], "rivals=[edm]", "hydra.sweep.dir=sweep")
    jobs = sorted((tmp_path / "sweep").glob("*/metrics.json"))
    assert len(jobs) == 3
    command(tmp_path, "method=path", *DIGITS[:-1], "rivals=[edm]", "hydra.run.dir=run", "store.folder=null")
    assert found(jobs[2].parent) == found(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun"])
def test_two_processes_find_what_one_finds(solver: str, tmp_path: Path) -> None:
    chosen = ["method=path", f"solver={solver}", *DIGITS, "method.shard_size=2", "rivals.gits.shard_size=2"]
    command(tmp_path, *chosen, "hydra.run.dir=alone", "store.folder=alone_store")
    command(tmp_path, *chosen, "hydra.run.dir=both", "store.folder=both_store", "runner.devices=2")
    assert found(tmp_path / "both") == found(tmp_path / "alone")
    command(tmp_path, *chosen, "hydra.run.dir=again", "store.folder=both_store")
    assert found(tmp_path / "again") == found(tmp_path / "alone")
