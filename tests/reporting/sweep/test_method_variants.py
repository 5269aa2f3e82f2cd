"""Runs of one method with other settings: rows of their own wherever they are shown."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optsteps.cli import report as command
from optsteps.comparison import VerdictRow
from optsteps.metrics import Interval
from optsteps.reporting.sweep.aggregate import aggregate
from optsteps.reporting.sweep.method_variants import name_variants
from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_layout import METHOD, TableLayout, choose_layout


def run(
    number: int, settings: dict[str, Any], psnr: float, main: str = "oss", seed: int = 0, **config: Any
) -> list[RunRow]:
    """A run of `main` with the rival edm, which the main method beats; oss has an oracle."""
    verdicts = (VerdictRow(main, "edm", 5, 5, "psnr", Interval(1, 0.5, 2), "better"),)
    config = {"seed": seed, "rivals.edm.rho": 7, **{f"method.{k}": v for k, v in settings.items()}, **config}
    numbers = {"edm": 20.0 + seed, "oss_per_sample": 30.0 + seed, "teacher": 40.0}
    numbers = {main: psnr, **{name: value for name, value in numbers.items() if name != main}}
    return [
        RunRow(
            {**config, "method": name, "steps": 5, "nfe": 5, "budget": 5, "oracle": "per_sample" in name, "main": main},
            {"psnr": Interval(value, value - 1, value + 1)},
            verdicts=verdicts,
            run=Path(str(number)),
        )
        for name, value in numbers.items()
    ]


def methods(rows: list[RunRow]) -> list[str]:
    return list(dict.fromkeys(row.fields[METHOD] for row in rows))


def named(*runs: list[RunRow], fields: list[str] | None = None, over: tuple[str, ...] = ("seed",)) -> list[RunRow]:
    return name_variants([row for rows in runs for row in rows], fields or ["method", "budget"], over)


def test_a_swept_setting_stands_behind_the_name_of_its_method_alone() -> None:
    """In order of its size, in the verdicts as well; what no run changes, and what has no effect, is not named."""
    rows = named(*(run(k, {"rho": rho, "kept": 1}, 24 + rho / 7) for k, rho in enumerate((10, 3, 5.5))))
    assert methods(rows) == ["oss (rho=3)", "oss (rho=5.5)", "oss (rho=10)", "edm", "oss_per_sample", "teacher"]
    assert {row.fields["main"] for row in rows} == {"oss (rho=3)", "oss (rho=5.5)", "oss (rho=10)"}
    layout = choose_layout(rows)
    assert layout == TableLayout(("method",), "budget", ("psnr",), ("seed",), "edm")
    cells = {cell.fields[METHOD]: cell for cell in aggregate(rows, layout, "psnr")}
    assert {name: cell.interval.value for name, cell in cells.items()} == {
        "oss (rho=3)": 24 + 3 / 7, "oss (rho=5.5)": 24 + 5.5 / 7, "oss (rho=10)": 24 + 10 / 7, "edm": 20, "teacher": 40,
        "oss_per_sample": 30,
    }  # fmt: skip
    assert [name for name, cell in cells.items() if cell.best] == ["oss (rho=10)"]
    # each verdict is the one that its own run holds
    assert {name: cell.verdict for name, cell in cells.items() if cell.verdict} == dict.fromkeys(
        ("oss (rho=3)", "oss (rho=5.5)", "oss (rho=10)"), "better"
    )


def test_the_fewest_settings_and_how_they_are_typed() -> None:
    grid = [
        run(0, {"average": "mean", "start": None, "range": [1, 2], "_target_": "a.B"}, 21),
        run(1, {"average": "pooled", "start": None, "range": [1, 2], "_target_": "a.C"}, 22),
        run(2, {"average": "pooled", "start": True, "range": [1, 3], "_target_": "a.C"}, 23),
    ]
    assert methods(named(*grid))[:3] == [
        "oss (average=mean, start=null)", "oss (average=pooled, start=true)", "oss (average=pooled, start=null)",
    ]  # fmt: skip
    assert methods(named(*grid[:2]))[:2] == ["oss (average=mean)", "oss (average=pooled)"]
    lists = [run(0, {"range": [1, 2]}, 21), run(1, {"range": [1, 3]}, 22), run(2, {}, 23)]
    assert methods(named(*lists))[:3] == ["oss (range=[1, 2])", "oss (range=[1, 3])", "oss"]


def test_settings_of_a_rival_and_of_the_same_method_as_the_main_one() -> None:
    rows = named(
        run(0, {"average": "mean"}, 24, **{"rivals.edm.rho": 3}),
        run(1, {"rho": 7}, 21, main="edm"),
    )
    assert methods(rows)[:3] == ["oss", "edm (rho=3)", "edm (rho=7)"]
    assert {row.fields["main"] for row in rows} == {"oss", "edm (rho=7)"}


def test_repeated_runs_of_a_variant_are_one_cell() -> None:
    """Seeds, also where a setting of the method follows the seed; each variant on its own seeds is told apart too."""
    repeated = named(*(run(k, {"rho": 3, "noise": seed}, 24 + seed, seed=seed) for k, seed in enumerate((0, 1))))
    assert methods(repeated)[:2] == ["oss", "edm"]
    apart = named(run(0, {"rho": 3}, 24), run(1, {"rho": 5}, 25, seed=1))
    assert methods(apart)[:2] == ["oss (rho=3)", "oss (rho=5)"]


def test_what_the_table_tells_apart_already_is_not_repeated() -> None:
    runs = [run(k, {"rho": k, "grid": k}, 24 + k, **{"model.name": f"model{k}"}) for k in (1, 2)]
    assert methods(named(*runs, fields=["model.name", "method", "budget"]))[0] == "oss"
    assert methods(named(*runs, fields=["method.rho", "method", "budget"]))[0] == "oss"
    assert methods(named(*runs, over=("method.rho",)))[0] == "oss"
    assert methods(named(*runs))[0] == "oss (rho=1)"


def test_a_setting_that_changes_nothing_is_not_named() -> None:
    assert methods(named(run(0, {"batch": 8}, 24), run(1, {"batch": 16}, 24 + 1e-9)))[0] == "oss"


def test_the_command_shows_the_variants_everywhere(
    tmp_path: Path, write_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs in folders, of three settings and two seeds: tables, page and CSV have a row for each setting."""
    for rho in (7, 3, 5):
        for seed in (0, 1):
            folder = write_run(tmp_path / f"{rho}-{seed}", "oss", seed=seed)
            path = folder / ".hydra" / "config.yaml"
            config = json.loads(path.read_text())
            path.write_text(json.dumps({**config, "method": {"kind": "oss", "rho": rho}}))
            metrics = json.loads((folder / "metrics.json").read_text())
            for row in metrics["rows"]:
                if row["method"] == "oss":
                    for end in row["figures"]["psnr"]:
                        row["figures"]["psnr"][end] += rho / 10
            (folder / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setattr(sys, "argv", ["optsteps-report", str(tmp_path), "--values", "psnr"])
    command.main()
    variants = ["oss (rho=3)", "oss (rho=5)", "oss (rho=7)"]
    with (tmp_path / "report" / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    at_five = {line["method"]: line for line in lines if line["budget"] == "5"}
    assert list(at_five) == [*variants, "edm", "logsnr", "oss_per_sample"]
    assert [float(at_five[name]["value"]) for name in variants] == pytest.approx([24.55, 24.75, 24.95])
    assert {line["runs"] for line in at_five.values()} == {"2"}
    text = (tmp_path / "report" / "report.md").read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| oss (")] == variants
    page, tex = ((tmp_path / "report" / name).read_text() for name in ("report.html", "psnr.tex"))
    for name in variants:
        assert f'"name":"{name}"' in page.replace('": "', '":"')
        assert f'<td class="label">{name}</td>' in page
        assert f"{name} &" in tex
