"""`optsteps-report` as a user starts it."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest

from optsteps.cli import report as command


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


def test_folders_without_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for folder in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(SystemExit):
            start(monkeypatch, folder)
        assert f"no run (a folder with metrics.json) below {folder}" in capsys.readouterr().err
