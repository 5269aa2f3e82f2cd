"""The tables of a sweep over solvers, from its runs.

python experiments/oss_solver_orders/solver_table.py SWEEP_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from optsteps.reporting.number_format import quantity
from optsteps.reporting.sweep.pivot import pivot, read_records

FIGURES = {"psnr": max, "fid": min, "kid": min}


def main() -> None:
    records = read_records(Path(sys.argv[1]))
    for model in dict.fromkeys(record.fields["model.name"] for record in records):
        chosen = [r for r in records if r.fields["model.name"] == model and r.fields["method"] != "teacher"]
        teacher = next(r for r in records if r.fields["model.name"] == model and r.fields["method"] == "teacher")
        for figure, best in FIGURES.items():
            shown = quantity(figure)
            print(f"\n**{model}: {shown.label}** {shown.unit} by evaluations\n")
            print(pivot(chosen, ["solver.name", "method"], "budget", figure, best))
            if figure in teacher.figures:
                print(f"\nThe teacher's: {shown.number(teacher.figures[figure].value)}")


if __name__ == "__main__":
    main()
