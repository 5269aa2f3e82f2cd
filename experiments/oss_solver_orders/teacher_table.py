"""OSS's Tables 2 and 3 (arXiv:2503.21774) from the runs of the two sweeps.

python experiments/oss_solver_orders/teacher_table.py FAMILIES_FOLDER STEPS_FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from optsteps.reporting.sweep.pivot import RunRow, pivot, read_run_rows

FAMILIES = {"EDM": "EDM", "linear": "DDIM", "Flow": "FM"}
METHODS = {"naive": "naive", "oss_mean": "OSS-ave", "oss_mean_per_sample": "OSS"}


def named(run_row: RunRow) -> RunRow:
    """With the paper's words for the method and the teacher's family."""
    fields = run_row.fields
    family = FAMILIES[fields["process._target_"].split(".")[-1]]
    return replace(run_row, fields={**fields, "method": METHODS[fields["method"]], "family": family})


def students(folder: str) -> list[RunRow]:
    found = [named(run_row) for run_row in read_run_rows(Path(folder)) if run_row.fields["method"] in METHODS]
    return sorted(found, key=lambda r: (r.fields["steps"], list(METHODS.values()).index(r.fields["method"])))


def main() -> None:
    families, steps = (students(folder) for folder in sys.argv[1:3])
    print("**Table 2's form**: PSNR (dB) to a 200-step teacher of the same family, by that family\n")
    print(pivot(families, ["steps", "method"], "family", "psnr", None))
    print("\n**Table 3's form**: PSNR (dB) of 20 steps to a 1000-step teacher, by the steps of the search's teacher\n")
    print(pivot([r for r in steps if r.fields["steps"] == 20], ["method"], "teacher.steps", "psnr", None))


if __name__ == "__main__":
    main()
