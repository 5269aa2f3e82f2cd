"""The tables of the toy sweep, from its runs.

python experiments/ays_toys/toy_table.py SWEEP_FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence

from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.pivot import value_and_interval
from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_script import field, figure, students, table, table_script

FIGURES = ("nll", "sliced_wasserstein")


@table_script(__doc__, "SWEEP_FOLDER")
def main(run_rows: Sequence[RunRow]) -> None:
    for name in FIGURES:
        shown = number_format(name)
        print(f"**{shown.label}**{f' ({shown.unit})' if shown.unit else ''}, 95 % intervals, by evaluations\n")
        lines = ["model.name", "solver.name", "method"]
        print(table(students(run_rows), lines, "budget", name, min, value_and_interval))
        print()
    print("| | entropy of the true mixture | NLL of the 200-step teacher | its distance |\n| :-- | --: | --: | --: |")
    for run_row in run_rows:
        if run_row.fields["method"] == "teacher":
            nll, distance = (value_and_interval(number_format(name), figure(run_row, name)) for name in FIGURES)
            entropy = field(run_row, "facts.entropy of the true distribution")
            print(f"| {field(run_row, 'model.name')} | {entropy} | {nll} | {distance} |")


if __name__ == "__main__":
    main()
