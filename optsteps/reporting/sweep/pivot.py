"""One figure of many runs as a table, laid out by any fields of their configs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optsteps.metrics.statistics import Interval
from optsteps.reporting.number_format import Quantity, quantity
from optsteps.reporting.run.tables import NOTHING, markdown_lines
from optsteps.reporting.sweep.run_rows import Record, gather, in_order, read_records, with_figure
from optsteps.text.escaping import markdown

__all__ = ["Record", "pivot", "read_records", "value_alone", "value_and_interval"]

Cell = Callable[[Quantity, Interval], str]


def value_alone(quantity: Quantity, interval: Interval) -> str:
    """A cell: the number."""
    return quantity.number(interval.value)


def value_and_interval(quantity: Quantity, interval: Interval) -> str:
    """A cell: the number and its 95 % interval."""
    return f"{quantity.number(interval.value)} {quantity.interval(interval)}"


def pivot(
    records: Sequence[Record],
    rows: Sequence[str],
    column: str,
    figure: str,
    best: Callable[..., float] | None,
    cell: Cell = value_alone,
) -> str:
    """A Markdown table of one figure: a line for every combination of the fields `rows`, a column for every value of
    the field `column`.

    Args:
        best: max or min: the best of the lines that differ in the last of `rows` alone is bold; None for none.
        cell: what stands in a cell.

    Raises:
        ValueError: two different results for one cell, an unknown field, or a figure that no record has.
    """
    cells: dict[tuple[Any, ...], dict[Any, Interval]] = {}
    for (*line, place), found in gather(with_figure(records, figure), [*rows, column], [], figure).items():
        cells.setdefault(tuple(line), {})[place] = found[()].figures[figure]
    columns = in_order(place for line in cells.values() for place in line)

    def text(key: tuple[Any, ...], place: Any) -> str:
        if place not in cells[key]:
            return NOTHING
        number = value_alone(quantity(figure), cells[key][place])
        rivals = [line[place].value for other, line in cells.items() if other[:-1] == key[:-1] and place in line]
        first = best is not None and len(rivals) > 1 and number == quantity(figure).number(best(rivals))
        shown = cell(quantity(figure), cells[key][place])
        return f"**{shown}**" if first else shown

    lines = [[*(markdown(str(value)) for value in key), *(text(key, place) for place in columns)] for key in cells]
    return markdown_lines(
        [*(field.split(".")[0] for field in rows), *(markdown(str(place)) for place in columns)], lines, left=len(rows)
    )
