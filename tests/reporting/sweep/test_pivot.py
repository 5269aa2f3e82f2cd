"""Tables over many runs."""

import json
from pathlib import Path

import pytest

from optsteps.metrics import Interval
from optsteps.reporting.sweep.pivot import RunRow, pivot, read_run_rows, value_and_interval


def run_row(solver: str, method: str, nfe: int, psnr: float) -> RunRow:
    fields = {"solver.name": solver, "method": method, "nfe": nfe}
    return RunRow(fields, {"psnr": Interval(psnr, psnr - 1, psnr + 1)})


RECORDS = [
    run_row("euler", "oss", 10, 30.0),
    run_row("euler", "edm", 10, 25.0),
    run_row("euler", "oss", 5, 20.0),
    run_row("heun", "oss", 10, 40.0),
    run_row("heun", "edm", 10, 41.0),
]


def test_lines_columns_and_the_best_of_a_group() -> None:
    assert pivot(RECORDS, ["solver.name", "method"], "nfe", "psnr", max).splitlines() == [
        "| solver | method | 5 | 10 |",
        "| :-- | :-- | --: | --: |",
        "| euler | oss | 20.00 | **30.00** |",
        "| euler | edm | - | 25.00 |",
        "| heun | oss | - | 40.00 |",
        "| heun | edm | - | **41.00** |",
    ]
    assert "**25.00**" in pivot(RECORDS, ["solver.name", "method"], "nfe", "psnr", min)
    assert "**" not in pivot(RECORDS, ["solver.name", "method"], "nfe", "psnr", None)


def test_intervals_in_the_cells() -> None:
    table = pivot(RECORDS, ["solver.name", "method"], "nfe", "psnr", max, value_and_interval)
    assert "| heun | edm | - | **41.00 [40.00, 42.00]** |" in table.splitlines()


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"two results for .*'oss'.* at nfe = 10; add the field"):
        pivot(RECORDS, ["method"], "nfe", "psnr", max)
    with pytest.raises(ValueError, match=r"no field 'seed'; it has method, nfe, solver\.name"):
        pivot(RECORDS, ["seed"], "nfe", "psnr", max)
    with pytest.raises(ValueError, match="no row has the figure 'fid'; there are psnr"):
        pivot(RECORDS, ["method"], "nfe", "fid", max)


def test_runs_are_read_with_their_config(tmp_path: Path) -> None:
    for number, solver in zip((2, 10), ("euler", "heun"), strict=True):
        run = tmp_path / str(number)
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra" / "config.yaml").write_text(
            f"name: run${{seed}}\nseed: 3\nsolver: {{name: {solver}}}\nnfe: [5, 10]\nteacher: {{solver: null}}\n"
            "logger: {save_dir: '${hydra:runtime.output_dir}'}\n"
        )
        rows = [
            {"method": "oss", "steps": nfe // 2, "nfe": nfe, "oracle": False,
             "figures": {"fid": {"value": nfe, "low": 0.0, "high": 9.0}}}
            for nfe in (4, 10, 200)
        ]  # fmt: skip
        (run / "metrics.json").write_text(json.dumps({"rows": rows, "facts": {"device": "cpu"}}))
    run_rows = read_run_rows(tmp_path)
    assert [(r.fields["solver.name"], r.fields["nfe"], r.fields["budget"]) for r in run_rows] == [
        (solver, nfe, budget) for solver in ("euler", "heun") for nfe, budget in ((4, 5), (10, 10), (200, 200))
    ]
    assert (run_rows[0].fields["teacher.solver"], run_rows[0].fields["name"]) == (None, "run3")
    assert run_rows[0].fields["facts.device"] == "cpu"
    assert run_rows[0].intervals["fid"] == Interval(4, 0.0, 9.0)
    with pytest.raises(FileNotFoundError, match="no run"):
        read_run_rows(tmp_path / "elsewhere")
