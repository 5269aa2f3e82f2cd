"""Scripts that make tables of sweeps: what the runs lack is named, and the rest is printed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optsteps.reporting.sweep.pivot import pivot
from optsteps.reporting.sweep.run_rows import read_run_rows
from optsteps.reporting.sweep.table_script import field, figure, students, teacher

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
SCRIPTS = {
    "ays_images/image_table.py": 1,
    "ays_toys/toy_table.py": 1,
    "geneval_scenes/table.py": 1,
    "oss_solver_orders/solver_table.py": 1,
    "oss_solver_orders/teacher_table.py": 2,
    "rivals/leaderboard.py": 1,
    "rivals/rivals_table.py": 1,
}


def run(monkeypatch: pytest.MonkeyPatch, capsys: Any, script: str, *folders: object) -> tuple[int, str, str]:
    """Exit status, output and errors of a script of `experiments`, in this process."""
    spec = importlib.util.spec_from_file_location("table_of_a_sweep", EXPERIMENTS / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [script, *map(str, folders)])
    status: Any = 0
    try:
        module.main()
    except SystemExit as stopped:
        status = stopped.code
    said = capsys.readouterr()
    return status, said.out, said.err


def edited(run_folder: Path, change: Callable[[dict[str, Any]], None], name: str = "metrics.json") -> None:
    path = run_folder / name
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_runs_are_one_paragraph(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    status, out, error = run(monkeypatch, capsys, script, *[tmp_path / "none"] * SCRIPTS[script])
    assert (status, out) == (1, "")
    assert error.count("\n") == 1
    assert f"no run (a folder with metrics.json) below {tmp_path / 'none'}" in error
    assert "hydra.sweep.dir" in error
    assert run(monkeypatch, capsys, script)[0] == 2
    (tmp_path / "0-a").mkdir()
    (tmp_path / "0-a" / "job.json").write_text('{"failed": "ValueError: out of luck", "digest": "d", "commit": "c"}')
    assert "ValueError: out of luck" in run(monkeypatch, capsys, script, *[tmp_path] * SCRIPTS[script])[2]


@pytest.mark.parametrize("script", SCRIPTS)
def test_runs_of_something_else_raise_nothing(
    script: str, write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """No figure that the scripts show but psnr and fid, no teacher, no early stopping, other methods and fields."""
    for change in (
        lambda metrics: None,
        lambda metrics: metrics.update(rows=[row for row in metrics["rows"] if row["method"] != "teacher"]),
        lambda metrics: [row["figures"].clear() for row in metrics["rows"]],
        lambda metrics: [row.update(method="oss_mean") for row in metrics["rows"][1:2]],
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        edited(write_run(tmp_path / "run"), change)
        status, _, error = run(monkeypatch, capsys, script, *[tmp_path] * SCRIPTS[script])
        assert status in (0, 1, 3)
        assert bool(error) == (status != 0)
        assert all(line.startswith(script.split("/")[1]) for line in error.splitlines())
    edited(tmp_path / "run", lambda config: config.pop("solver"), ".hydra/config.yaml")
    edited(tmp_path / "run", lambda config: config.pop("model"), ".hydra/config.yaml")
    status, _, error = run(monkeypatch, capsys, script, *[tmp_path] * SCRIPTS[script])
    assert status in (1, 3)
    assert "no " in error


def test_what_is_there_is_printed_and_what_is_not_is_named(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    write_run(tmp_path / "0-a")
    write_run(tmp_path / "1-a", solver="dpmpp_2m")
    (tmp_path / "2-a").mkdir()
    (tmp_path / "2-a" / "job.json").write_text('{"failed": "ValueError: out of luck", "digest": "d", "commit": "c"}')
    status, out, error = run(monkeypatch, capsys, "oss_solver_orders/solver_table.py", tmp_path)
    rows = read_run_rows(tmp_path)
    lines = ["solver.name", "method"]
    for name, best in (("psnr", max), ("fid", min)):
        assert pivot(students(rows), lines, "budget", name, best) in out
    assert "(no table of kid by budget: no row has the figure 'kid'; there are fid, psnr)" in out
    assert status == 3
    assert "no table of kid by budget" in error
    assert f"{tmp_path / '2-a'} failed: ValueError: out of luck" in error
    # one by one
    assert field(rows[0], "solver.name") == "euler"
    assert figure(rows[0], "fid").value == 0.1
    assert teacher(rows).fields["nfe"] == 100
    with pytest.raises(ValueError, match=r"teacher with 100 steps in .*0-a has no psnr, only fid; repeat its run with"):
        figure(rows[0], "psnr")
    with pytest.raises(ValueError, match=r"0-a has no teacher\.family in its config"):
        field(rows[0], "teacher.family")
    with pytest.raises(ValueError, match=f"no run below {tmp_path} has a row of the teacher"):
        teacher(students(rows))


def test_tables_of_whole_runs_are_complete(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """With the figures, facts and curves that their sweeps have: nothing is said on the terminal."""

    def nll(metrics: dict[str, Any]) -> None:
        for row in metrics["rows"]:
            row["figures"] |= {name: {"value": 1.0, "low": 0.5, "high": 2.0} for name in ("nll", "sliced_wasserstein")}
        metrics["facts"]["entropy of the true distribution"] = "1.2 nats"

    edited(write_run(tmp_path / "toys" / "0"), nll)
    status, out, error = run(monkeypatch, capsys, "ays_toys/toy_table.py", tmp_path / "toys")
    assert (status, error) == (0, "")
    assert "| blobs | 1.2 nats | 1.000 [0.500, 2.000] |" in out

    def mean(metrics: dict[str, Any]) -> None:
        for row, name in zip(metrics["rows"][1:4], ("oss_mean", "naive", "oss_mean_per_sample"), strict=True):
            row |= {"method": name, "steps": 20}

    edited(write_run(tmp_path / "orders" / "0"), mean)
    edited(
        tmp_path / "orders" / "0",
        lambda config: config.update(process={"_target_": "optsteps.processes.EDM"}, teacher={"steps": 200}),
        ".hydra/config.yaml",
    )
    status, out, error = run(monkeypatch, capsys, "oss_solver_orders/teacher_table.py", *[tmp_path / "orders"] * 2)
    assert (status, error) == (0, "")
    assert "| OSS-ave | 24.00 |" in out

    def curves(metrics: dict[str, Any]) -> None:
        curve = {"walk": [["edm", 0], ["edm", 1]], "criterion": [2.0, 1.0], "stop": 1}
        metrics["early_stopping"] = {"ays_fid": {"5": curve}}

    edited(write_run(tmp_path / "images" / "0"), curves)
    status, out, error = run(monkeypatch, capsys, "ays_images/image_table.py", tmp_path / "images")
    assert (status, error) == (0, "")
    assert "| euler | edm | 2.00 | **1.00** |" in out
    assert (tmp_path / "images" / "early_stopping.png").read_bytes().startswith(b"\x89PNG")


def test_differences_of_images_are_of_every_main_method(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """AYS's run says nothing of OSS against EDM; a run of EDM on the same samples does, with the other sign."""

    def said(main: str, rival: str, value: float, verdict: str) -> Callable[[dict[str, Any]], None]:
        interval = {"value": value, "low": value - 0.1, "high": value + 0.1}
        place = {"method": main, "rival": rival, "steps": 5, "nfe": 5.0, "figure": "fid"}
        return lambda metrics: metrics.update(verdicts=[{**place, "difference": interval, "verdict": verdict}])

    edited(write_run(tmp_path / "ays"), said("ays_fid", "edm", 0.5, "worse"))
    edited(write_run(tmp_path / "edm"), said("edm", "oss", 1.0, "worse"))
    _, out, _ = run(monkeypatch, capsys, "ays_images/image_table.py", tmp_path)
    assert "| ays_fid | euler | 5 | *0.50 [0.40, 0.60]* |\n" in out
    assert "| oss | euler | 5 | **-1.00 [-1.10, -0.90]** |\n" in out


def test_rivals_are_counted_against_oss(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Two runs: the main method's verdict on a rival is the rival's with its sign turned."""
    for number, (verdict, difference) in enumerate([("better", 2.0), ("worse", -0.5)]):

        def judged(metrics: dict[str, Any], verdict: str = verdict, difference: float = difference) -> None:
            rival: dict[str, Any]
            rival, *_ = [row for row in metrics["rows"] if row["method"] == "edm"]
            place = {"method": "oss", "rival": "edm", "steps": rival["steps"], "nfe": float(rival["nfe"])}
            interval = {"value": difference, "low": difference - 0.1, "high": difference + 0.1}
            metrics["verdicts"] = [{**place, "figure": "psnr", "difference": interval, "verdict": verdict}]
            rival |= {"search_nfe": 7.0, "search_evaluations": 50}

        folder = write_run(tmp_path / str(number), seed=number)
        edited(folder, judged)
        edited(folder, lambda config: config.update(search={"samples": 3}), ".hydra/config.yaml")
    # a sweep that is not finished: another model with another solver alone
    other = {"search": {"samples": 3}, "model": {"name": "rings"}}
    edited(write_run(tmp_path / "2", solver="dpmpp_2m"), lambda config: config.update(other), ".hydra/config.yaml")
    _, out, _ = run(monkeypatch, capsys, "rivals/rivals_table.py", tmp_path)
    rows = [row for row in read_run_rows(tmp_path) if row.fields["method"] == "edm"]
    cost = sum(row.search_evaluations or 0 for row in rows) / len(rows)
    assert "| edm | 1 / 0 / 1 (-0.75) |\n" in out  # of the first model alone
    assert f" | {cost:,.0f} |" in out
    assert (tmp_path / "quality_and_cost.png").read_bytes().startswith(b"\x89PNG")


def test_the_leaderboard_ranks_by_the_mean_of_the_seeds(
    write_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """edm is first in neither run and first in the mean; what took part in one cell of three comes last."""

    def psnr(of: dict[str, float]) -> Callable[[dict[str, Any]], None]:
        def change(metrics: dict[str, Any]) -> None:
            template = next(row for row in metrics["rows"] if row["method"] == "edm")
            metrics["rows"] = [
                template | {"method": name, "figures": {"psnr": {"value": value, "low": value - 1, "high": value + 1}}}
                for name, value in of.items()
            ]

        return change

    edited(write_run(tmp_path / "0", seed=0), psnr({"oss": 30.0, "edm": 29.0, "dm": 20.0, "dm_without_orders": 99.0}))
    edited(write_run(tmp_path / "1", seed=1), psnr({"oss": 20.0, "edm": 29.0, "dm": 30.0}))
    edited(write_run(tmp_path / "2", solver="dpmpp_2m"), psnr({"edm": 40.0, "oss": 39.5, "rare": 41.0}))
    edited(write_run(tmp_path / "3", solver="unipc"), psnr({"edm": 40.0, "oss": 39.0}))
    status, out, error = run(monkeypatch, capsys, "rivals/leaderboard.py", tmp_path)
    assert (status, error) == (0, "")
    whole, cells = (
        [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")][2:]
        for part in out.split("**Every cell")
    )
    assert [line[:3] for line in whole] == [
        ["edm", "0.33", "2 / 3 / 3"],
        ["oss", "2.17", "0 / 3 / 3"],
        ["rare", "0.00", "1 / 1 / 1"],
        ["dm", "4.00", "0 / 1 / 1"],
    ]
    assert [line[1:2] + line[3:] for line in cells] == [
        ["dpmpp_2m", "rare 41.00", "edm 40.00", "oss 39.50", "-", "-"],
        ["euler", "edm 29.00", "oss 25.00", "dm 25.00", "-", "-"],
        ["unipc", "edm 40.00", "oss 39.00", "-", "-", "-"],
    ]
