"""What a script needs that makes tables of a sweep: its runs, and sentences on what they lack."""

from __future__ import annotations

import argparse
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from optsteps.comparison import TEACHER
from optsteps.metrics.statistics import Interval
from optsteps.reporting.run.reading import METRICS
from optsteps.reporting.sweep.jobs import jobs_sentences, unfinished_jobs
from optsteps.reporting.sweep.pivot import CellFormat, pivot, value_alone
from optsteps.reporting.sweep.run_rows import INCOMPLETE, LeftOutWarning, RunRow, read_run_rows
from optsteps.storage.documents import read_json
from optsteps.text.escaping import printable


def table_script(description: str | None, *names: str) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a command of a function of sweeps' runs: its arguments are the rows below the folders on the command line.

    The function goes on without what is missing. That is named on the terminal, jobs that are not finished among it,
    and the exit status is then `INCOMPLETE`. A ValueError of the function, or that there is no run at all, is one
    paragraph with exit status 1.

    Args:
        description: of the command.
        names: of the folders, one for each argument of the function.
    """

    def decorate(tables: Callable[..., None]) -> Callable[[], None]:
        @wraps(tables)
        def main() -> None:
            parser = argparse.ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
            for name in names:
                parser.add_argument(name, type=Path, help="the folder of a sweep, hydra.sweep.dir")
            folders = vars(parser.parse_args())
            failed = False
            with warnings.catch_warnings(record=True) as lacking:
                warnings.simplefilter("always", LeftOutWarning)
                try:
                    tables(*(_rows(folders[name]) for name in names))
                except (ValueError, OSError) as error:
                    failed = True
                    warnings.warn(f"error: {error}", LeftOutWarning, stacklevel=2)
            for warning in lacking:
                print(f"{Path(sys.argv[0]).name}: {printable(str(warning.message))}", file=sys.stderr)
            if failed or any(issubclass(warning.category, LeftOutWarning) for warning in lacking):
                raise SystemExit(1 if failed else INCOMPLETE)

        return main

    return decorate


def field(row: RunRow, name: str) -> Any:
    """A field of a row's run.

    Raises:
        ValueError: its config has none; the message names the run.
    """
    if name not in row.fields:
        raise ValueError(f"{_named(row)} has no {name} in its config, so another command made it; {_repeat(row)}")
    return row.fields[name]


def figure(row: RunRow, name: str) -> Interval:
    """A figure of a row.

    Raises:
        ValueError: it was not measured; the message names the run and what it has.
    """
    if name not in row.intervals:
        there = ", ".join(row.intervals) or "none at all"
        raise ValueError(f"{_named(row)} has no {name}, only {there}; {_repeat(row, 'a metric that measures it')}")
    return row.intervals[name]


def students(rows: Iterable[RunRow]) -> list[RunRow]:
    """The rows without the teachers'."""
    return [row for row in rows if row.fields["method"] != TEACHER]


def teacher(rows: Sequence[RunRow]) -> RunRow:
    """The first row of a teacher.

    Raises:
        ValueError: there is none.
    """
    found = next((row for row in rows if row.fields["method"] == TEACHER), None)
    if found is None:
        raise ValueError(f"no run below {_common(rows)} has a row of the teacher; repeat one with this version")
    return found


def table(
    rows: Sequence[RunRow],
    fields: Sequence[str],
    column: str,
    figure: str,
    best: Callable[..., float] | None,
    cell: CellFormat = value_alone,
) -> str:
    """As `pivot`; where no row has the figure or a field, a line that says so, with a `LeftOutWarning`."""
    try:
        return pivot(rows, fields, column, figure, best, cell)
    except ValueError as error:
        sentence = f"no table of {figure} by {column}: {error}"
        warnings.warn(sentence, LeftOutWarning, stacklevel=2)
        return f"({sentence})"


def stopping_curves(row: RunRow, method: str) -> dict[str, Any]:
    """The curves of a method's early stopping in a row's run, by step count, as metrics.json has them.

    Raises:
        ValueError: there are none; the message names the run.
    """
    data = read_json(row.run / METRICS, row.run)
    curves = data.get("early_stopping", {}).get(method) if isinstance(data, dict) else None
    if not isinstance(curves, dict) or not curves:
        raise ValueError(f"{row.run / METRICS} has no early_stopping of {method}; {_repeat(row, f'method={method}')}")
    return curves


def _rows(folder: Path) -> list[RunRow]:
    jobs = jobs_sentences(unfinished_jobs(folder))
    try:
        rows = read_run_rows(folder)
    except FileNotFoundError as error:
        what = "; ".join(jobs) or "name the hydra.sweep.dir of the command that made the table's runs"
        raise FileNotFoundError(f"{error}: {what}") from None
    for sentence in jobs:
        warnings.warn(sentence, LeftOutWarning, stacklevel=2)
    return rows


def _named(row: RunRow) -> str:
    return f"the row of {row.fields['method']} with {row.fields['steps']} steps in {row.run}"


def _repeat(row: RunRow, changed: str = "the command of the table") -> str:
    command = row.fields.get("facts.command")
    return f"repeat its run with {changed}{f' (it was: {command})' if command else ''}"


def _common(rows: Sequence[RunRow]) -> str:
    return ", ".join(dict.fromkeys(str(row.run.parent) for row in rows)) or "the folder"
