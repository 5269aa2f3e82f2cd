"""The tables of the toy sweep, from its runs.

python experiments/ays_toys/toy_table.py SWEEP_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from optsteps.reporting.number_format import quantity
from optsteps.reporting.sweep.pivot import pivot, read_records, value_and_interval

FIGURES = ("nll", "sliced_wasserstein")


def main() -> None:
    records = read_records(Path(sys.argv[1]))
    students = [record for record in records if record.fields["method"] != "teacher"]
    for figure in FIGURES:
        shown = quantity(figure)
        print(f"**{shown.label}**{f' ({shown.unit})' if shown.unit else ''}, 95 % intervals, by evaluations\n")
        print(pivot(students, ["model.name", "solver.name", "method"], "budget", figure, min, value_and_interval))
        print()
    print("| | entropy of the true mixture | NLL of the 200-step teacher | its distance |\n| :-- | --: | --: | --: |")
    for record in records:
        if record.fields["method"] == "teacher":
            nll, distance = (value_and_interval(quantity(name), record.figures[name]) for name in FIGURES)
            entropy = record.fields["facts.entropy of the true distribution"]
            print(f"| {record.fields['model.name']} | {entropy} | {nll} | {distance} |")


if __name__ == "__main__":
    main()
