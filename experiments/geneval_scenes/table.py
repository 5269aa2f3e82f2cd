"""Table 7 of OSS in form: GenEval by schedule, from the runs of a sweep over solvers.

python experiments/geneval_scenes/table.py SWEEP_FOLDER > experiments/geneval_scenes/scenes.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from optsteps.datasets.geneval import TASKS
from optsteps.reporting.number_format import quantity
from optsteps.reporting.run.tables import NOTHING, markdown_lines
from optsteps.reporting.sweep.pivot import pivot, read_records, value_alone, value_and_interval
from optsteps.reporting.sweep.run_rows import Record

STEPS = 10
# what stands in the table of tasks, and how
FIGURES = {
    "geneval": value_and_interval,
    **{f"geneval_{task}": value_alone for task in TASKS},
    "geneval_retention": value_and_interval,
    "psnr": value_alone,
}


def task_table(records: Sequence[Record]) -> str:
    """The teacher, then every schedule of STEPS steps, its figures beside each other."""
    lines = []
    for record in records:
        method, steps = str(record.fields["method"]), record.fields["steps"]
        if method == "teacher" or steps == STEPS:
            found = record.figures
            cells = [
                shown(quantity(name), found[name]) if name in found else NOTHING for name, shown in FIGURES.items()
            ]
            lines.append([method, str(steps), *cells])
    return markdown_lines(["schedule", "steps", *(quantity(name).label for name in FIGURES)], lines)


def main() -> None:
    records = read_records(Path(sys.argv[1]))
    for solver in dict.fromkeys(record.fields["solver.name"] for record in records):
        rows = [record for record in records if record.fields["solver.name"] == solver]
        print(f"**{solver}**, {STEPS} steps\n\n{task_table(rows)}\n")
        students = [record for record in rows if record.fields["method"] != "teacher"]
        for figure in ("geneval_retention", "psnr"):
            shown, cell = quantity(figure), FIGURES[figure]
            print(f"**{solver}: {shown.label}**, {shown.unit}, by steps\n")
            print(pivot(students, ["method"], "steps", figure, max, cell) + "\n")


if __name__ == "__main__":
    main()
