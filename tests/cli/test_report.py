"""`optsteps-report` as a user starts it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

from optsteps.cli import report as command
from optsteps.reporting.sweep.run_rows import INCOMPLETE


def start(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["optsteps-report", *map(str, arguments)])
    command.main()


def test_defaults(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    runs = shutil.copytree(sweep, tmp_path / "runs")
    start(monkeypatch, runs)
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in written} == {"report.md", "psnr.tex", "fid.tex", "report.csv", "report.html"}
    assert all(path.parent == runs / "report" and path.stat().st_size > 500 for path in written)
    # a report is no run: written again, it is the same
    before = (runs / "report" / "report.html").read_bytes()
    start(monkeypatch, runs)
    assert (runs / "report" / "report.html").read_bytes() == before


def test_every_option(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--rows test.samples method seed --columns steps --values fid --over --baseline logsnr --formats csv md"
    start(monkeypatch, *(sweep / str(k) for k in range(3)), *options.split(), "--output", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.csv", "report.md"}
    lines = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert {line["runs"] for line in lines} == {"1"}
    assert {line["figure"] for line in lines} == {"fid"}
    assert {line["baseline"] for line in lines} == {"logsnr"}
    assert list(lines[0])[:4] == ["test.samples", "method", "seed", "steps"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--rows", "nonsense"], ["nonsense", "solver.name"]),
        (["--columns", "nonsense"], ["nonsense", "budget"]),
        (["--values", "nonsense"], ["nonsense", "psnr"]),
        (["--over", "nonsense"], ["nonsense", "seed"]),
        (["--baseline", "nonsense"], ["nonsense", "edm"]),
        (["--rows", "method", "--over"], ["two results", "add the field"]),
    ],
)
def test_errors_are_one_paragraph(
    options: list[str], expected: list[str], sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, sweep, *options, "--output", tmp_path / "report")
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("optsteps-report: error:")
    assert error.count("\n") == 1
    for word in expected:
        assert word in error
    assert not (tmp_path / "report").exists()


def job(folder: Path, overrides: list[str], failed: str) -> None:
    """A job of a sweep that has no results."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))  # JSON is YAML
    (folder / "job.json").write_text(json.dumps({"digest": "d", "commit": "c", "failed": failed}))


def plan(sweep: Path, *overrides: str) -> None:
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None}
    hydra = {"overrides": {"task": list(overrides)}, "sweeper": sweeper}
    (sweep / "multirun.yaml").write_text(json.dumps({"hydra": hydra}))


def test_jobs_that_are_not_finished_are_named_everywhere(
    write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    plan(tmp_path, "seed=0,1,2")
    write_run(tmp_path / "0-a")
    (tmp_path / "0-a" / ".hydra" / "overrides.yaml").write_text('["seed=0"]')
    (tmp_path / "0-a" / "job.json").write_text('{"digest": "d", "commit": "c"}')
    job(tmp_path / "1-a", ["seed=1"], "ValueError: no <b>such</b> thing")
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path)
    assert stopped.value.code == INCOMPLETE
    page, text = ((tmp_path / "report" / name).read_text() for name in ("report.html", "report.md"))
    page = page[: page.index("<script>")]
    assert "<b>such" not in page
    for told in (text, page, capsys.readouterr().err):
        told = told.replace("&lt;", "<").replace("&gt;", ">").replace("\\<", "<")
        assert "2 jobs are not finished (1 failed, 1 missing)" in told
        assert f"seed=1 failed ({tmp_path / '1-a'}): ValueError: no <b>such</b> thing" in told
        assert f"seed=2 has no folder yet ({tmp_path})" in told
    for told in (text, page):
        assert told.index("oss is best in PSNR at 5 and 10 NFE") < told.index("2 jobs are not finished")
        assert told.index("2 jobs are not finished") < told.index("Compared with edm.")


def test_a_sweep_without_any_result_says_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    plan(tmp_path, "seed=0,1")
    job(tmp_path / "0-a", ["seed=0"], "ValueError: no such thing")
    with pytest.raises(SystemExit) as stopped:
        start(monkeypatch, tmp_path)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for said in ("no run", "1 failed, 1 missing", "ValueError: no such thing", "seed=1 has no folder yet"):
        assert said in error


def test_a_baseline_that_pairs_with_nothing_is_said(
    write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """No run has a verdict on ays and oss, and there is one seed of each."""
    for method in ("oss", "ays"):
        write_run(tmp_path / method, method)
        metrics = json.loads((tmp_path / method / "metrics.json").read_text())
        metrics["rows"] = [row for row in metrics["rows"] if row["method"] == method]
        (tmp_path / method / "metrics.json").write_text(json.dumps(metrics))
    start(monkeypatch, tmp_path, "--baseline", "ays", "--formats", "md")
    said = "Nothing is compared with ays: no runs of another method have the same seed and NFE, or they are too few"
    assert f"optsteps-report: {said}" in capsys.readouterr().err
    assert said in (tmp_path / "report" / "report.md").read_text()
    start(monkeypatch, write_run(tmp_path / "paired"), "--baseline", "logsnr", "--formats", "md")
    assert "Nothing is compared" not in capsys.readouterr().err


def test_folders_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(SystemExit):
            start(monkeypatch, folder)
        assert f"no run (a folder with metrics.json) below {folder}" in capsys.readouterr().err
