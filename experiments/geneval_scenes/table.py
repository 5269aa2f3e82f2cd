"""Table 7 of OSS in form: GenEval by schedule, from the runs of a sweep over solvers.

python experiments/geneval_scenes/table.py SWEEP_FOLDER > experiments/geneval_scenes/scenes.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from optsteps.datasets.geneval import TASKS
from optsteps.reporting.pivot import pivot, read_records, value_and_interval
from optsteps.reporting.quantities import quantity
from optsteps.reporting.records import Record
from optsteps.reporting.tables import markdown_lines

STEPS = 10
FIGURES = ("geneval", *(f"geneval_{task}" for task in TASKS), "geneval_retention", "psnr")


def task_table(records: Sequence[Record]) -> str:
    """The teacher, then every schedule of STEPS steps, its figures beside each other."""
    lines = []
    for record in records:
        if record.fields["method"] != "teacher" and record.fields["steps"] != STEPS:
            continue
        cells = [
            (value_and_interval if name in ("geneval", "geneval_retention") else lambda q, i: q.number(i.value))(
                quantity(name), record.figures[name]
            )
            if name in record.figures
            else "-"
            for name in FIGURES
        ]
        lines.append([str(record.fields["method"]), str(record.fields["steps"]), *cells])
    return markdown_lines(["schedule", "steps", *(quantity(name).label for name in FIGURES)], lines, left=1)


def main() -> None:
    records = read_records(Path(sys.argv[1]))
    for solver in dict.fromkeys(record.fields["solver.name"] for record in records):
        rows = [record for record in records if record.fields["solver.name"] == solver]
        print(f"\n**{solver}**, {STEPS} steps\n")
        print(task_table(rows))
        students = [record for record in rows if record.fields["method"] != "teacher"]
        for figure in ("geneval_retention", "psnr"):
            shown = quantity(figure)
            print(f"\n**{solver}: {shown.label}**, {shown.unit}, by steps\n")
            cell = value_and_interval if figure == "geneval_retention" else None
            print(pivot(students, ["method"], "steps", figure, max, *([cell] if cell else [])))


if __name__ == "__main__":
    main()
