"""The tables and the stopping curves of the image sweeps, from their runs.

    python experiments/ays_images/image_table.py SWEEP_FOLDER

prints the tables and draws early_stopping.png into SWEEP_FOLDER.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.run.early_stopping import stopping_png
from optsteps.reporting.sweep.pivot import value_and_interval
from optsteps.reporting.sweep.run_rows import LeftOutWarning, RunRow
from optsteps.reporting.sweep.table_script import (
    field,
    figure,
    stopping_curves,
    students,
    table,
    table_script,
    teacher,
)

PICTURE = "early_stopping.png"
METHOD = "ays_fid"
SEARCHED = (METHOD, "oss", "auto")
RIVALS = ("edm", "logsnr", "oss", "auto")
# what the picture shows of the solvers and step counts
DRAWN = ("ddim_stochastic", "sde_dpmpp_2m", "euler", "dpmpp_2m")
DRAWN_STEPS = ("5", "10")


def stopping_table(curves: Mapping[str, Any], steps: str) -> str:
    """FID of the search's samples by sweep, a line for every solver and start; the chosen one bold."""
    lines = []
    for solver, found in curves.items():
        if steps not in found:
            continue
        curve = found[steps]
        for start in dict.fromkeys(name for name, _ in curve["walk"]):
            places = [k for k, (name, _) in enumerate(curve["walk"]) if name == start]
            values = [f"{curve['criterion'][k]:.2f}" for k in places]
            marked = [f"**{v}**" if k == curve["stop"] else v for k, v in zip(places, values, strict=True)]
            lines.append([solver, start, *marked])
    longest = max(map(len, lines))
    header = ["solver", "start", *(f"sweep {k}" for k in range(longest - 2))]
    return markdown_lines(header, [line + ["-"] * (longest - len(line)) for line in lines], left=2)


def verdict_table(rows: Sequence[RunRow]) -> str:
    """FID of searched schedules minus that of others with the same solver and evaluations, on the same noise.

    Bold where the searched one is better, in italics where it is worse. Of runs on the same samples each adds what its
    main method was compared with.
    """
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        for held in row.verdicts:
            for v in (held, held.turned()):
                if v.figure == "fid" and v.method in SEARCHED and v.rival in RIVALS:
                    mark = {"better": "**", "worse": "*", "no better": ""}[v.verdict]
                    shown = f"{mark}{value_and_interval(number_format('fid'), v.difference)}{mark}"
                    cells.setdefault((v.method, field(row, "solver.name"), str(v.steps)), {})[v.rival] = shown
    rivals = [rival for rival in RIVALS if any(rival in line for line in cells.values())]
    header = ["FID of", "solver", "NFE", *(f"minus that of {rival}" for rival in rivals)]
    by_method = sorted(cells, key=lambda place: SEARCHED.index(place[0]))
    lines = [[*place, *(cells[place].get(rival, NOTHING) for rival in rivals)] for place in by_method]
    return markdown_lines(header, lines, left=3)


def curves_of(runs: Mapping[str, RunRow]) -> dict[str, Any]:
    """The stopping curves by solver, without those that a run lacks, which are named."""
    curves = {}
    for solver, run_row in runs.items():
        try:
            curves[solver] = stopping_curves(run_row, METHOD)
        except ValueError as error:
            warnings.warn(str(error), LeftOutWarning, stacklevel=2)
    return curves


@table_script(__doc__, "SWEEP_FOLDER")
def main(run_rows: Sequence[RunRow]) -> None:
    print("**FID**, 95 % intervals, by evaluations\n")
    print(table(students(run_rows), ["solver.name", "method"], "steps", "fid", min, value_and_interval))
    fid = figure(teacher(run_rows), "fid")
    print(f"\nThe teacher's: {value_and_interval(number_format('fid'), fid)}\n")
    print("**Differences** on the same noise; bold: better, in italics: worse\n")
    print(verdict_table(run_rows))
    ays_last = sorted(run_rows, key=lambda run_row: run_row.fields["main"] == METHOD)
    curves = curves_of({field(run_row, "solver.name"): run_row for run_row in ays_last})
    for steps in dict.fromkeys(steps for found in curves.values() for steps in found):
        print(f"\n**Early stopping, {steps} evaluations**: FID of the search's samples after every sweep\n")
        print(stopping_table(curves, steps))
    drawn = {
        f"{solver}, {steps} steps": curves[solver][steps]
        for steps in DRAWN_STEPS
        for solver in DRAWN
        if steps in curves.get(solver, {})
    }
    if drawn:
        Path(os.path.commonpath([row.run.parent for row in run_rows]), PICTURE).write_bytes(stopping_png(drawn))


if __name__ == "__main__":
    main()
