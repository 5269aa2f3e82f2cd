"""Pivot table of one number of many runs, laid out by any fields of their configs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optsteps.deprecation import old_names
from optsteps.metrics.statistics import Interval
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import NumberFormat, number_format
from optsteps.reporting.sweep.run_rows import RunRow, gather, in_order, read_run_rows, with_figure
from optsteps.text.escaping import markdown

__all__ = ["RunRow", "pivot", "read_run_rows", "value_alone", "value_and_interval"]

CellFormat = Callable[[NumberFormat, Interval], str]


def value_alone(written: NumberFormat, interval: Interval) -> str:
    """A cell: the number."""
    return written.number(interval.value)


def value_and_interval(written: NumberFormat, interval: Interval) -> str:
    """A cell: the number and its 95 % interval."""
    return f"{written.number(interval.value)} {written.interval(interval)}"


def pivot(
    run_rows: Sequence[RunRow],
    rows: Sequence[str],
    column: str,
    figure: str,
    best: Callable[..., float] | None,
    cell: CellFormat = value_alone,
) -> str:
    """A Markdown table of one number.

    Args:
        run_rows: of all runs.
        rows: fields; each combination of their values has a line.
        column: a field; each of its values has a column.
        figure: name of the number.
        best: max or min: the best of the lines that differ in the last of `rows` alone is bold; None for none.
        cell: writes the text of a cell.

    Raises:
        ValueError: two different results for one cell, an unknown field, or a figure that no row has.
    """
    cells: dict[tuple[Any, ...], dict[Any, Interval]] = {}
    for (*line, place), repetitions in gather(with_figure(run_rows, figure), [*rows, column], [], figure).items():
        cells.setdefault(tuple(line), {})[place] = repetitions[()].intervals[figure]
    columns = in_order(place for line in cells.values() for place in line)

    def text(key: tuple[Any, ...], place: Any) -> str:
        if place not in cells[key]:
            return NOTHING
        number = value_alone(number_format(figure), cells[key][place])
        rivals = [line[place].value for other, line in cells.items() if other[:-1] == key[:-1] and place in line]
        first = best is not None and len(rivals) > 1 and number == number_format(figure).number(best(rivals))
        shown = cell(number_format(figure), cells[key][place])
        return f"**{shown}**" if first else shown

    lines = [[*(markdown(str(value)) for value in key), *(text(key, place) for place in columns)] for key in cells]
    return markdown_lines(
        [*(field.split(".")[0] for field in rows), *(markdown(str(place)) for place in columns)], lines, left=len(rows)
    )


__getattr__ = old_names(__name__, Record="RunRow", read_records="read_run_rows")
