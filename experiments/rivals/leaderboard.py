"""The leaderboard: which methods are nearest to the teacher, by model, solver and evaluations.

    python experiments/rivals/leaderboard.py SWEEP_FOLDER

prints a table of all methods over all cells, and one of the first five of every cell. A cell is a model, a solver and a
number of evaluations; a method has its mean PSNR over the seeds there. Runs may have different main methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_script import field, students, table_script
from optsteps.text.escaping import markdown

PSNR = number_format("psnr")
# the methods of a cell that are named
FIRST = 5


class Cell(NamedTuple):
    """What methods of one model, one solver and one number of evaluations are compared in."""

    model: str
    solver: str
    budget: float


def cells_of(rows: Sequence[RunRow]) -> dict[Cell, dict[str, float]]:
    """The mean PSNR of every method in every cell, the nearest to the teacher first.

    Raises:
        ValueError: no row has a PSNR.
    """
    values: dict[Cell, dict[str, list[float]]] = {}
    for row in students(rows):
        name = row.fields["method"]
        if row.fields["oracle"] or name.endswith("_without_orders") or "psnr" not in row.intervals:
            continue
        cell = Cell(field(row, "model.name"), field(row, "solver.name"), row.fields["budget"])
        values.setdefault(cell, {}).setdefault(name, []).append(row.intervals["psnr"].value)
    if not values:
        raise ValueError("no run measured a PSNR: repeat the command of the table with metric=teacher")
    return {
        cell: dict(sorted(((name, fmean(of)) for name, of in methods.items()), key=lambda item: -item[1]))
        for cell, methods in sorted(values.items())
    }


def methods_table(cells: dict[Cell, dict[str, float]], costs: dict[str, float]) -> str:
    """All methods by their mean distance to the first of a cell, those of less than half the cells at the end."""
    names = {name for methods in cells.values() for name in methods}
    lines = []
    for name in names:
        places = [list(methods).index(name) + 1 for methods in cells.values() if name in methods]
        behind = fmean(max(methods.values()) - methods[name] for methods in cells.values() if name in methods)
        first, near = (sum(place <= last for place in places) for last in (1, 3))
        cost = f"{costs[name]:,.0f}" if name in costs else NOTHING
        rare = 2 * len(places) < len(cells)
        lines.append((rare, behind, [markdown(name), PSNR.number(behind), f"{first} / {near} / {len(places)}", cost]))
    heads = ["method", "dB behind the first", "first / in the first three / cells", "evaluations of a search"]
    return markdown_lines(heads, [line for *_, line in sorted(lines)], left=1)


def cells_table(cells: dict[Cell, dict[str, float]]) -> str:
    """The first methods of every cell with their PSNR."""
    lines = [
        [
            markdown(cell.model),
            markdown(cell.solver),
            f"{cell.budget:g}",
            *([f"{markdown(name)} {PSNR.number(value)}" for name, value in methods.items()] + [NOTHING] * FIRST)[
                :FIRST
            ],
        ]
        for cell, methods in cells.items()
    ]
    heads = ["model", "solver", "NFE", *(f"{place}." for place in range(1, FIRST + 1))]
    return markdown_lines(heads, lines, left=2)


@table_script(__doc__, "SWEEP_FOLDER")
def main(rows: Sequence[RunRow]) -> None:
    cells = cells_of(rows)
    searches: dict[str, list[float]] = {}
    for row in students(rows):
        if row.search_evaluations is not None and not row.fields["oracle"]:
            searches.setdefault(row.fields["method"], []).append(row.search_evaluations)
    print("**All methods: mean PSNR behind the first of a cell, places, and evaluations of a search for all counts**\n")
    print(methods_table(cells, {name: fmean(of) for name, of in searches.items()}))
    print(f"\n**Every cell: the first {FIRST} with their PSNR in dB**\n")
    print(cells_table(cells))


if __name__ == "__main__":
    main()
