"""Two people's schedules compared on one model, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_run import TINY, TINY_PLANE, start

from optsteps import Schedule, build_schedule
from optsteps.processes import EDM, VP

pytestmark = pytest.mark.usefixtures("blank_pictures")


def saved(path: Path, family: str) -> Schedule:
    schedule = build_schedule(family, EDM(), 3, t_max=80.0, t_min=0.002)
    schedule.save(path)
    return schedule


def test_two_people_s_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedules = {
        name: saved(tmp_path / f"{name}.json", family) for name, family in (("mine", "edm"), ("hers", "cosine"))
    }
    files = ["method=file", f"method.path={tmp_path}/mine.json", f"rivals.hers.path={tmp_path}/hers.json"]
    rivals = ["rivals=[edm,cosine]", "+method@rivals.hers=file"]
    start(monkeypatch, tmp_path / "run", *TINY, *TINY_PLANE, *files, *rivals)
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    figures = {(row["method"], row["steps"]): row["figures"]["mse"] for row in rows if row["method"] != "teacher"}
    times = {(row["method"], row["steps"]): row["times"] for row in rows}
    assert times["file", 3] == schedules["mine"].times.tolist()
    assert times["hers", 3] == schedules["hers"].times.tolist()
    # who wrote them plays no part
    assert figures["file", 3] == figures["edm", 3]
    assert figures["hers", 3] == figures["cosine", 3]
    assert figures["file", 2] != figures["edm", 2]  # resampled, which is not the family of two steps
    assert Schedule.load(tmp_path / "run" / "schedule_3.json").facts == schedules["mine"].facts


def test_a_changed_file_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for family in ("edm", "cosine"):
        saved(tmp_path / "schedule.json", family)
        options = ["method=file", f"method.path={tmp_path}/schedule.json", "rivals=none"]
        start(monkeypatch, tmp_path / family, *TINY, *TINY_PLANE, *options)
        facts = json.loads((tmp_path / family / "metrics.json").read_text())["facts"]
        keys.append(facts["key of the results"])
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["method.path has no default: give method.path=..."]),
        (["method.path=none.json"], ["No such file", "none.json"]),
        (["method.path=published:sd3"], ["no published levels for 'sd3'"]),
        (["method.path=vp.json"], ["vp.json", "VP", "EDM"]),
        (["method.path=list.txt"], ["list.txt", "noise level 160", "80"]),
        (["method.path=three.json", "method.resample=false"], ["three.json", "steps=[3]", "not of 2"]),
        (["method.path=three.json", "method.resample=maybe"], ["method.resample=maybe", "boolean"]),
    ],
)
@pytest.mark.mostly_slow(3)
def test_refused_before_anything_runs(
    options: list[str], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def evaluated(*_args: object) -> None:
        raise AssertionError("an evaluation")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optsteps.denoisers.CountedDenoiser.__call__", evaluated)
    saved(Path("three.json"), "edm")
    build_schedule("time_uniform", VP.linear(), 3, t_max=999.0, t_min=0.0).save("vp.json")
    Path("list.txt").write_text("160, 5, 0")
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path / "run", *TINY, *TINY_PLANE, "method=file", *options)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert all(word in error for word in expected)
