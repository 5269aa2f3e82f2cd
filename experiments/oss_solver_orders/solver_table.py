"""The tables of a sweep over solvers, from its runs.

python experiments/oss_solver_orders/solver_table.py SWEEP_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.pivot import pivot, read_run_rows

FIGURES = {"psnr": max, "fid": min, "kid": min}


def main() -> None:
    run_rows = read_run_rows(Path(sys.argv[1]))
    for model in dict.fromkeys(run_row.fields["model.name"] for run_row in run_rows):
        chosen = [r for r in run_rows if r.fields["model.name"] == model and r.fields["method"] != "teacher"]
        teacher = next(r for r in run_rows if r.fields["model.name"] == model and r.fields["method"] == "teacher")
        for figure, best in FIGURES.items():
            shown = number_format(figure)
            print(f"\n**{model}: {shown.label}** {shown.unit} by evaluations\n")
            print(pivot(chosen, ["solver.name", "method"], "budget", figure, best))
            if figure in teacher.intervals:
                print(f"\nThe teacher's: {shown.number(teacher.intervals[figure].value)}")


if __name__ == "__main__":
    main()
