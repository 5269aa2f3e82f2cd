"""Table 7 of OSS in form: GenEval by schedule, from the runs of a sweep over solvers.

python experiments/geneval_scenes/table.py SWEEP_FOLDER > experiments/geneval_scenes/scenes.md
"""

from __future__ import annotations

from collections.abc import Sequence

from optsteps.datasets.geneval_prompts import TASKS
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.pivot import value_alone, value_and_interval
from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_script import field, students, table, table_script

STEPS = 10
# what stands in the table of tasks, and how
FIGURES = {
    "geneval": value_and_interval,
    **{f"geneval_{task}": value_alone for task in TASKS},
    "geneval_retention": value_and_interval,
    "psnr": value_alone,
}


def task_table(run_rows: Sequence[RunRow]) -> str:
    """The teacher, then every schedule of STEPS steps, its figures beside each other."""
    lines = []
    for run_row in run_rows:
        method, steps = str(run_row.fields["method"]), run_row.fields["steps"]
        if method == "teacher" or steps == STEPS:
            found = run_row.intervals
            cells = [
                shown(number_format(name), found[name]) if name in found else NOTHING for name, shown in FIGURES.items()
            ]
            lines.append([method, str(steps), *cells])
    return markdown_lines(["schedule", "steps", *(number_format(name).label for name in FIGURES)], lines)


@table_script(__doc__, "SWEEP_FOLDER")
def main(run_rows: Sequence[RunRow]) -> None:
    for solver in dict.fromkeys(field(run_row, "solver.name") for run_row in run_rows):
        rows = [run_row for run_row in run_rows if field(run_row, "solver.name") == solver]
        print(f"**{solver}**, {STEPS} steps\n\n{task_table(rows)}\n")
        for figure in ("geneval_retention", "psnr"):
            shown, cell = number_format(figure), FIGURES[figure]
            print(f"**{solver}: {shown.label}**, {shown.unit}, by steps\n")
            print(table(students(rows), ["method"], "steps", figure, max, cell) + "\n")


if __name__ == "__main__":
    main()
