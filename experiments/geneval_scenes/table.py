"""Table 7 of OSS in form: GenEval by schedule, from the runs of a sweep over solvers.

python experiments/geneval_scenes/table.py SWEEP_FOLDER > experiments/geneval_scenes/scenes.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from optsteps.datasets.geneval_prompts import TASKS
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.pivot import pivot, read_run_rows, value_alone, value_and_interval
from optsteps.reporting.sweep.run_rows import RunRow

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


def main() -> None:
    run_rows = read_run_rows(Path(sys.argv[1]))
    for solver in dict.fromkeys(run_row.fields["solver.name"] for run_row in run_rows):
        rows = [run_row for run_row in run_rows if run_row.fields["solver.name"] == solver]
        print(f"**{solver}**, {STEPS} steps\n\n{task_table(rows)}\n")
        students = [run_row for run_row in rows if run_row.fields["method"] != "teacher"]
        for figure in ("geneval_retention", "psnr"):
            shown, cell = number_format(figure), FIGURES[figure]
            print(f"**{solver}: {shown.label}**, {shown.unit}, by steps\n")
            print(pivot(students, ["method"], "steps", figure, max, cell) + "\n")


if __name__ == "__main__":
    main()
