"""Table of one number of many runs, with its title and notes; as Markdown, and all cells as tidy CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optsteps.metrics.statistics import Verdict
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.row_notes import row_notes
from optsteps.reporting.sweep.aggregate import FEWEST, SweepCell
from optsteps.reporting.sweep.run_rows import in_order
from optsteps.reporting.sweep.table_layout import METHOD, TableLayout, field_label, listed
from optsteps.text.escaping import csv_cell, markdown, printable

# the mark behind a cell for its verdict against the baseline
MARKS: Mapping[Verdict, str] = {"better": "▲", "worse": "▼", "no better": "≈"}


@dataclass(frozen=True)
class TableLine:
    """One line of a table: the values of the layout's rows, and a cell or none for every column."""

    labels: tuple[str, ...]
    group: tuple[Any, ...]
    cells: tuple[SweepCell | None, ...]


@dataclass(frozen=True)
class SweepTable:
    """The table of one number.

    Attributes:
        figure: name of the number.
        rows: headings of the label columns.
        column: what the other columns are values of.
        columns: those values.
        lines: of rivals and oracles; lines of one group stand together.
        references: the teacher's cells, which stand below the table.
        layout: of the table.
    """

    figure: str
    rows: tuple[str, ...]
    column: str
    columns: tuple[str, ...]
    lines: tuple[TableLine, ...]
    references: tuple[SweepCell, ...]
    layout: TableLayout

    @property
    def title(self) -> str:
        """The label of the number with its unit, and the columns' field."""
        shown = number_format(self.figure)
        return f"{shown.label}{f' ({shown.unit})' if shown.unit else ''} by {self.column}"


def sweep_table(cells: Sequence[SweepCell], layout: TableLayout) -> SweepTable:
    """The cells of one number, at least one, as a table."""
    judged = [cell for cell in cells if cell.role != "reference"]
    columns = in_order(cell.fields[layout.column] for cell in judged)
    lines: dict[tuple[Any, ...], dict[Any, SweepCell]] = {}
    for cell in judged:
        lines.setdefault(tuple(cell.fields[name] for name in layout.rows), {})[cell.fields[layout.column]] = cell
    return SweepTable(
        cells[0].figure,
        tuple(field_label(name) for name in layout.rows),
        field_label(layout.column),
        tuple(shown_value(place) for place in columns),
        tuple(_line(key, line, columns, layout.rows) for key, line in lines.items()),
        tuple(cell for cell in cells if cell.role == "reference"),
        layout,
    )


def _line(key: Sequence[Any], line: Mapping[Any, SweepCell], columns: Sequence[Any], rows: Sequence[str]) -> TableLine:
    oracle = next(iter(line.values())).role == "oracle"
    values = dict(zip(rows, key, strict=True))
    labels = [shown_value(value) + " (oracle)" * (oracle and name == METHOD) for name, value in values.items()]
    group = tuple(value for name, value in values.items() if name != METHOD)
    return TableLine(tuple(labels), group, tuple(line.get(place) for place in columns))


def shown_value(value: Any) -> str:
    """A field's value as it stands in a heading."""
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else printable(str(value))


def value_and_detail(cell: SweepCell) -> tuple[str, str]:
    """The number, and its detail: half of the interval over several runs, the interval of a single run, or nothing."""
    shown, interval = number_format(cell.figure), cell.interval
    value = shown.number(interval.value)
    if not math.isfinite(interval.low + interval.high):
        return value, ""
    if cell.runs > 1:
        return value, f"± {shown.number((interval.high - interval.low) / 2)}"
    return value, shown.interval(interval)


def notes(table: SweepTable) -> list[str]:
    """Notes on how to read this table, a sentence or two each."""
    cells = [cell for line in table.lines for cell in line.cells if cell is not None]
    higher = cells[0].higher_is_better if cells else None
    runs = {cell.runs for cell in cells}
    sentences = []
    over = listed(map(field_label, table.layout.over)) if table.layout.over else ""
    enough = sorted(count for count in runs if count >= FEWEST)
    if enough:
        sentences.append(
            f"Value ± half of its 95 % interval (Student's t) over {listed(enough)} runs that differ in {over} alone."
        )
    if 2 in runs:
        sentences.append(
            f"Value alone: the mean of 2 runs that differ in {over} alone, too few for an interval over them, which "
            f"takes {FEWEST}."
        )
    if 1 in runs:
        sentences.append("Value [95 % interval] of a single run, over its samples.")
    if any(cell.best for cell in cells):
        sentences.append(f"Bold: the best of its group in its column; {'higher' if higher else 'lower'} is better.")
    if higher is None:
        sentences.append("This figure has no direction: nothing is bold or compared.")
    sentences += _baseline_notes(table, cells)
    if any(cell.role == "oracle" for cell in cells):
        sentences.append(
            "Oracle: searched for the very samples it is judged on, a bound and no rival; never bold or compared."
        )
    methods = [str(cell.fields[METHOD]) for cell in cells if METHOD in cell.fields]
    return [*sentences, *row_notes(methods), *_reference_notes(table)]


def _baseline_notes(table: SweepTable, cells: Sequence[SweepCell]) -> list[str]:
    if not any(cell.verdict for cell in cells):
        return []
    legend = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    how = []
    if any(cell.verdict and cell.runs >= FEWEST for cell in cells):
        how.append(f"runs are paired by {listed(map(field_label, table.layout.over))}")
    if any(cell.verdict and cell.runs == 1 for cell in cells):
        how.append("a single run has the verdict from its own samples")
    if any(cell.verdict and cell.runs == 2 for cell in cells):
        how.append("two runs have the verdict that both hold from their own samples, and a draw where these differ")
    return [
        f"Against {table.layout.baseline}: {legend} (the 95 % interval of the paired difference covers 0: a draw); "
        f"unmarked: not compared. {'; '.join(how).capitalize()}."
    ]


def _reference_notes(table: SweepTable) -> list[str]:
    if not table.references:
        return []
    sentences = []
    for cell in table.references:
        group = ", ".join(shown_value(cell.fields[name]) for name in table.layout.group if name in cell.fields)
        number = " ".join(value_and_detail(cell)).strip()
        sentences.append(f"{f'{group}: ' if group else ''}{number} at {cell.nfe:g} NFE")
    return [f"The teacher, a reference: {'; '.join(sentences)}."]


def markdown_table(table: SweepTable) -> str:
    """The table as Markdown, its notes below it."""

    def text(cell: SweepCell | None) -> str:
        if cell is None:
            return NOTHING
        value, detail = value_and_detail(cell)
        mark = MARKS[cell.verdict] if cell.verdict else ""
        return " ".join(part for part in (f"**{value}**" if cell.best else value, detail, mark) if part)

    lines = [[*map(markdown, line.labels), *map(text, line.cells)] for line in table.lines]
    header = [*map(markdown, table.rows), *map(markdown, table.columns)]
    return "\n".join(
        [markdown_lines(header, lines, left=len(table.rows)), "", *(f"{markdown(note)}  " for note in notes(table))]
    )


def tidy_csv(cells: Iterable[SweepCell], layout: TableLayout) -> str:
    """One line for each cell: the layout's fields, then what `CSV_COLUMNS` names; numbers exact and without scale.

    A text that a spreadsheet would take for a formula has an apostrophe before it.
    What is not known is empty, such as the verdict of a cell that was not compared, and the interval over two runs.
    """
    fields = list(dict.fromkeys([*layout.rows, layout.column]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, [*fields, *CSV_COLUMNS]))
    for cell in cells:
        ends = [end if not math.isnan(end) else None for end in (cell.interval.low, cell.interval.high)]
        numbers = [cell.figure, cell.role, cell.interval.value, *ends, cell.runs]
        line = [*(cell.fields[name] for name in fields), *numbers, layout.baseline, cell.verdict]
        writer.writerow(map(csv_cell, line))
    return text.getvalue()


CSV_COLUMNS = ("figure", "role", "value", "low", "high", "runs", "baseline", "verdict")
