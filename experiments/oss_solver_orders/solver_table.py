"""The tables of a sweep over solvers, from its runs.

python experiments/oss_solver_orders/solver_table.py SWEEP_FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence

from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_script import field, students, table, table_script, teacher

FIGURES = {"psnr": max, "fid": min, "kid": min}


@table_script(__doc__, "SWEEP_FOLDER")
def main(run_rows: Sequence[RunRow]) -> None:
    for model in dict.fromkeys(field(run_row, "model.name") for run_row in run_rows):
        of_model = [run_row for run_row in run_rows if field(run_row, "model.name") == model]
        reference = teacher(of_model)
        for figure, best in FIGURES.items():
            shown = number_format(figure)
            print(f"\n**{model}: {shown.label}** {shown.unit} by evaluations\n")
            print(table(students(of_model), ["solver.name", "method"], "budget", figure, best))
            if figure in reference.intervals:
                print(f"\nThe teacher's: {shown.number(reference.intervals[figure].value)}")


if __name__ == "__main__":
    main()
