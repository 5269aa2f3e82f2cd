"""OSS's Tables 2 and 3 (arXiv:2503.21774) from the runs of the two sweeps.

python experiments/oss_solver_orders/teacher_table.py FAMILIES_FOLDER STEPS_FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_script import field, table, table_script

FAMILIES = {"EDM": "EDM", "linear": "DDIM", "Flow": "FM"}
METHODS = {"naive": "naive", "oss_mean": "OSS-ave", "oss_mean_per_sample": "OSS"}


def named(run_row: RunRow) -> RunRow:
    """With the paper's words for the method and the teacher's family."""
    process = str(field(run_row, "process._target_")).split(".")[-1]
    if process not in FAMILIES:
        raise ValueError(f"{run_row.run} is a run of the process {process}; the table has {', '.join(FAMILIES)}")
    method = METHODS[run_row.fields["method"]]
    return replace(run_row, fields={**run_row.fields, "method": method, "family": FAMILIES[process]})


def compared(run_rows: Sequence[RunRow]) -> list[RunRow]:
    found = [named(run_row) for run_row in run_rows if run_row.fields["method"] in METHODS]
    return sorted(found, key=lambda r: (r.fields["steps"], list(METHODS.values()).index(r.fields["method"])))


@table_script(__doc__, "FAMILIES_FOLDER", "STEPS_FOLDER")
def main(of_families: Sequence[RunRow], of_steps: Sequence[RunRow]) -> None:
    families, steps = compared(of_families), compared(of_steps)
    print("**Table 2's form**: PSNR (dB) to a 200-step teacher of the same family, by that family\n")
    print(table(families, ["steps", "method"], "family", "psnr", None))
    print("\n**Table 3's form**: PSNR (dB) of 20 steps to a 1000-step teacher, by the steps of the search's teacher\n")
    print(table([r for r in steps if r.fields["steps"] == 20], ["method"], "teacher.steps", "psnr", None))


if __name__ == "__main__":
    main()
