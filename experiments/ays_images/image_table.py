"""The tables and the stopping curves of the image sweeps, from their runs.

python experiments/ays_images/image_table.py SWEEP_FOLDER
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optsteps.reporting.markdown import markdown_lines
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

METHOD, CURVES = "ays_fid", ("ddim_stochastic", "sde_dpmpp_2m", "euler", "dpmpp_2m")


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


def verdict_table(runs: Mapping[str, RunRow]) -> str:
    """FID of AYS minus that of EDM's and of the log-SNR schedule, on the test's samples."""
    lines = []
    for solver, run_row in runs.items():
        for said in run_row.verdicts:
            if said.figure == "fid" and said.rival in ("edm", "logsnr", "oss"):
                shown = value_and_interval(number_format("fid"), said.difference)
                lines.append([solver, str(said.steps), said.rival, shown, said.verdict])
    return markdown_lines(["solver", "NFE", "rival", "FID of AYS minus the rival's", "AYS is"], lines, left=3)


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
    runs = {field(run_row, "solver.name"): run_row for run_row in run_rows}
    print("**FID**, 95 % intervals, by evaluations\n")
    print(table(students(run_rows), ["solver.name", "method"], "steps", "fid", min, value_and_interval))
    fid = figure(teacher(run_rows), "fid")
    print(f"\nThe teacher's: {value_and_interval(number_format('fid'), fid)}\n")
    print("**Verdicts** on the same noise\n")
    print(verdict_table(runs))
    curves = curves_of(runs)
    for steps in dict.fromkeys(steps for found in curves.values() for steps in found):
        print(f"\n**Early stopping, {steps} evaluations**: FID of the search's samples after every sweep\n")
        print(stopping_table(curves, steps))
    drawn = {
        f"{solver}, {steps} steps": curves[solver][steps]
        for steps in ("5", "10")
        for solver in CURVES
        if steps in curves.get(solver, {})
    }
    if len(drawn) == 2 * len(CURVES):
        (Path(__file__).parent / "early_stopping.png").write_bytes(stopping_png(drawn))
    else:
        shown = f"5 and 10 steps of each of {', '.join(CURVES)}"
        warnings.warn(f"early_stopping.png is left as it is: it shows {shown}", LeftOutWarning, stacklevel=2)


if __name__ == "__main__":
    main()
