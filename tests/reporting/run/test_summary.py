from dataclasses import replace
from pathlib import Path

from made_up import all_verdicts, image_rows

from optsteps.reporting.run.summary import run_summary


def test_names_and_paths_are_no_markup() -> None:
    """And a path stands in one line, however long."""
    rows = [replace(row, method="[red]oss[/red]") if row.method == "oss" else row for row in image_rows(8)]
    folder = Path("/data/[bold]:smile:") / ("long" * 40)
    said = run_summary(rows, all_verdicts(image_rows(8)), [("report and schedules", folder)], 440.0)
    assert "(12 min)" in said
    assert f"report and schedules: {folder}" in said.splitlines()
    assert "[red]oss[/red]" in said
    assert said.count("At 5 NFE oss is") == 1
