import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import all_verdicts, image_rows, made_up, noise
from omegaconf import OmegaConf
from PIL import Image

from optsteps import Schedule
from optsteps.comparison import Row
from optsteps.methods import SearchResult
from optsteps.processes import Flow
from optsteps.reporting.run.folder import as_json, results, write_config, write_report
from optsteps.reporting.run.reading import read_config, read_metrics


def _refuse(token: str) -> None:
    raise AssertionError(f"{token} is not JSON")


def _write(folder: Path, rows: list[Row]) -> list[Path]:
    return write_report(folder, "images: oss with euler", rows, all_verdicts(rows), {"model": "images"}, "oss", {})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """One run's folder and what was said to be in it."""
    folder = tmp_path_factory.mktemp("new") / "run"
    return folder, _write(folder, image_rows())


def test_everything_is_there_and_reads_back(written: tuple[Path, list[Path]]) -> None:
    rows, (folder, paths) = image_rows(), written
    assert sorted(paths) == sorted(path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)) for path in paths}
    expected = {"metrics.json", "report.md", "schedules.png", "path_error.png", "samples_5.png", "samples_10.png"}
    expected |= {"schedule_5.json", "schedule_10.json", "schedules/edm_5.json", "schedules/teacher_100.json"}
    assert expected <= names
    assert len(names) == 6 + 9
    assert Schedule.load(folder / "schedule_5.json") == rows[1].schedule
    links = re.findall(r"!\[.+\]\((.+)\)", (folder / "report.md").read_text())
    assert sorted(links) == ["path_error.png", "samples_10.png", "samples_5.png", "schedules.png"]
    for link in links:
        Image.open(folder / link).verify()


def test_metrics_hold_rows_and_verdicts(written: tuple[Path, list[Path]]) -> None:
    rows, (folder, _) = image_rows(), written
    data = json.loads((folder / "metrics.json").read_text(), parse_constant=_refuse)
    assert data["method"] == "oss"
    assert data["facts"] == {"model": "images"}
    assert [row["method"] for row in data["rows"]] == [row.method for row in rows]
    oss = data["rows"][1]
    assert oss["figures"]["psnr"]["value"] == rows[1].measurements["psnr"].interval.value
    assert len(data["verdicts"]) == 6
    first = data["verdicts"][0]
    assert (first["rival"], first["verdict"]) == ("edm", "better")
    assert first["difference"]["low"] < first["difference"]["value"] < first["difference"]["high"]


@pytest.mark.usefixtures("blank_pictures")
def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    assert json.loads(as_json({"a": [float("nan"), (1.5, float("-inf"))], "b": True})) == {
        "a": [None, [1.5, None]],
        "b": True,
    }
    _write(tmp_path, made_up(noise(16, 2), Flow(), 1.0, "zero"))
    data = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=_refuse)
    oss = data["rows"][1]
    assert oss["noise_levels"][0] is None
    assert oss["path_error"][0] is None
    assert oss["times"][0] == 1.0


@pytest.mark.usefixtures("blank_pictures")
def test_the_report_and_metrics_hold_costs_and_decisions(tmp_path: Path) -> None:
    decided = {"oss": ["8 samples are enough"], "edm": [], "odd": 5, "none": None}
    searches = {name: SearchResult({}, evidence={"decisions": said}) for name, said in decided.items()}
    rows = image_rows(8)
    write_report(tmp_path, "title", rows, [], {}, "oss", {**searches, "ays": SearchResult({})}, rate=440.0)
    report = (tmp_path / "report.md").read_text()
    assert "## What the searches decided\n\noss:\n\n- 8 samples are enough\n\n## How to read this" in report
    assert "| 4,950 | 316,800 (12 min) |" in report
    found = read_metrics(tmp_path)
    assert found.evaluations_per_second == 440
    assert {row.search_evaluations for row in found.rows if row.method == "oss"} == {316_800}


@pytest.mark.usefixtures("blank_pictures")
def test_samples_that_cannot_be_drawn_leave_no_dead_link(tmp_path: Path) -> None:
    _write(tmp_path, made_up(noise(16, 7)))
    assert not list(tmp_path.glob("samples_*"))
    assert "samples_" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("drawing", ["schedules_png", "samples_figure"])
def test_results_are_there_before_a_picture_is_drawn(
    drawing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(f"optsteps.reporting.run.folder.{drawing}", fails)
    with pytest.raises(OSError, match="No space"):
        _write(tmp_path, image_rows())
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"metrics.json", "report.md", "schedule_5.json", "schedule_10.json", "schedules/edm_5.json"} <= left
    assert "![" not in (tmp_path / "report.md").read_text()


def test_the_results_of_a_folder_are_what_a_run_wrote(written: tuple[Path, list[Path]]) -> None:
    folder, paths = written
    own = [folder / name for name in ("samples_best.png", "notes.md", "schedule_mine.json")]
    for path in own:
        path.write_text("")
    assert sorted(results(folder)) == sorted(paths)
    assert results(folder)[0].name == "metrics.json"
    for path in own:
        path.unlink()


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_without_rivals_or_teacher(tmp_path: Path) -> None:
    only = [row for row in image_rows(8) if row.method == "oss" and row.steps == 5]
    _write(tmp_path, only)
    assert "no verdict" in (tmp_path / "report.md").read_text()


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        _write(tmp_path / "file", image_rows(8)[:2])


NAMES = {"edm": "../../../escape", "logsnr": "a|b\n# c", "time_uniform": "_<img src=x> $\\frac{$"}


def test_rivals_of_any_name(tmp_path: Path) -> None:
    """Their schedules lie in the run's folder, their names are text in the tables and in the pictures."""
    folder = tmp_path / "a" / "b" / "run"
    rows = [replace(row, method=NAMES.get(row.method, row.method)) for row in image_rows(8)]
    paths = _write(folder, rows)
    assert sorted(paths) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    saved = [Schedule.load(path) for path in (folder / "schedules").iterdir()]
    assert len(saved) == 1 + 2 * 3
    report = (folder / "report.md").read_text()
    tables = [line for line in report.splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert len(columns) == 3, "of the figures, the verdicts and the ranges"
    assert "\n# c" not in report
    assert not re.search(r"(?<!\\)<img", report)


def test_the_config_is_resolved_and_holds_no_key_of_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "here")
    config = {
        "seed": 3,
        "method": {"seed": "${seed}", "note": "${oc.env:CANARY}"},
        "logger": {"key": "${oc.env:CANARY}"},
    }
    path = write_config(tmp_path, OmegaConf.create(config))
    assert "logger" not in path.read_text()
    monkeypatch.setenv("CANARY", "there")
    assert read_config(tmp_path) == {"seed": 3, "method.seed": 3, "method.note": "here"}


def test_the_config_of_an_older_run_is_not_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "secret")
    with pytest.raises(FileNotFoundError, match=r"holds no config\.yaml"):
        read_config(tmp_path)
    (tmp_path / ".hydra").mkdir()
    text = "a: {b: 5}\nc: ${a.b}\nd: x${c}y\ne: ${oc.env:CANARY}\nf: ${nowhere}\ng: ${g}\nlogger: {h: 1}\n"
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    found = read_config(tmp_path)
    assert found.pop("e") == "${oc.env:CANARY}"
    assert found == {"a.b": 5, "c": 5, "d": "x5y", "f": "${nowhere}", "g": "${g}"}
    doubling = "".join(f"k{k}: ${{k{k + 1}}}${{k{k + 1}}}\n" for k in range(60))
    (tmp_path / ".hydra" / "config.yaml").write_text(doubling)
    assert max(len(str(value)) for value in read_config(tmp_path).values()) < 10**6
    assert os.environ["CANARY"] == "secret"
