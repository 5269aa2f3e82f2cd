"""The tables of the toy sweep, from its runs.

python experiments/ays_toys/toy_table.py SWEEP_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.pivot import pivot, read_run_rows, value_and_interval

FIGURES = ("nll", "sliced_wasserstein")


def main() -> None:
    run_rows = read_run_rows(Path(sys.argv[1]))
    students = [run_row for run_row in run_rows if run_row.fields["method"] != "teacher"]
    for figure in FIGURES:
        shown = number_format(figure)
        print(f"**{shown.label}**{f' ({shown.unit})' if shown.unit else ''}, 95 % intervals, by evaluations\n")
        print(pivot(students, ["model.name", "solver.name", "method"], "budget", figure, min, value_and_interval))
        print()
    print("| | entropy of the true mixture | NLL of the 200-step teacher | its distance |\n| :-- | --: | --: | --: |")
    for run_row in run_rows:
        if run_row.fields["method"] == "teacher":
            nll, distance = (value_and_interval(number_format(name), run_row.intervals[name]) for name in FIGURES)
            entropy = run_row.fields["facts.entropy of the true distribution"]
            print(f"| {run_row.fields['model.name']} | {entropy} | {nll} | {distance} |")


if __name__ == "__main__":
    main()
