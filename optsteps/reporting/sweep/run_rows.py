"""Rows of many runs, read from the folders of the runs."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optsteps.comparison import VerdictRow
from optsteps.metrics.statistics import Interval
from optsteps.reporting.number_format import number_format
from optsteps.reporting.run.reading import METRICS, IntervalData, RowData, read_config, read_metrics, read_pictures

# exit status of a command that has written its tables, and named what they lack
INCOMPLETE = 3


class LeftOutWarning(UserWarning):
    """A run, or a picture of a run, cannot be read and is left out."""


@dataclass(frozen=True)
class RunRow:
    """A row of one run's comparison.

    Attributes:
        fields: the run's resolved config by dotted keys, and six fields of the row: "method", "steps", "nfe", "oracle",
            "main" (the run's main method) and "budget" (the least of the run's `nfe` that pays for the row; the row's
            own NFE where the run counted steps).
        intervals: the measured numbers by name; a number that is not finite is left out.
        higher_is_better: direction of each number, None where neither is.
        noise_levels: of its schedule [n+1]; None where it has none.
        search_nfe: network evaluations, per sample of the search, for the schedules of all step counts.
        verdicts: all that its run holds.
        run: the run's folder.
        pictures: the run's pictures of samples by their number of steps, PNG.
    """

    fields: dict[str, Any]
    intervals: dict[str, Interval]
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    noise_levels: Sequence[float] | None = None
    search_nfe: float = 0.0
    verdicts: tuple[VerdictRow, ...] = ()
    run: Path = Path()
    pictures: Mapping[int, bytes] = field(default_factory=dict, repr=False)


def read_run_rows(*folders: Path) -> list[RunRow]:
    """The rows of all runs below some folders, each of which may be a run itself; a run below two is read once.

    A run that cannot be read is left out with a `LeftOutWarning`, which names the file and the field.

    Raises:
        FileNotFoundError: no run below one of them.
        ValueError: none of the runs can be read.
    """
    runs: dict[Path, Path] = {}
    for folder in folders:
        below = [path.parent for path in sorted(folder.rglob(METRICS), key=_natural)]
        if not below:
            raise FileNotFoundError(f"no run (a folder with {METRICS}) below {folder}")
        for run in below:
            runs.setdefault(run.resolve(), run)
    rows: list[RunRow] = []
    unreadable: list[str] = []
    for run in runs.values():
        try:
            rows += _rows_of(run)
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
    if not rows:
        others = f" (and {len(unreadable) - 1} more runs cannot be read)" if len(unreadable) > 1 else ""
        raise ValueError(
            f"{unreadable[0]}{others}" if unreadable else f"no run below {', '.join(map(str, folders))} has any row"
        )
    for sentence in unreadable:
        warnings.warn(f"a run is left out: {sentence}", LeftOutWarning, stacklevel=2)
    return rows


def with_figure(rows: Sequence[RunRow], figure: str) -> list[RunRow]:
    """The rows that have the number `figure`.

    Raises:
        ValueError: none has.
    """
    having = [row for row in rows if figure in row.intervals]
    if not having:
        available = sorted({name for row in rows for name in row.intervals})
        raise ValueError(f"no row has the figure {figure!r}; there are {', '.join(available)}")
    return having


def check_fields(rows: Sequence[RunRow], fields: Iterable[str]) -> None:
    """Raises ValueError for a field that no row has."""
    available = {name for row in rows for name in row.fields}
    for name in fields:
        if name not in available:
            raise ValueError(f"a run has no field {name!r}; it has {', '.join(sorted(available))}")


def gather(
    rows: Sequence[RunRow], fields: Sequence[str], over: Sequence[str], figure: str
) -> dict[tuple[Any, ...], dict[tuple[Any, ...], RunRow]]:
    """The rows of each combination of values of `fields`, and among these of each combination of values of `over`.

    A rival is measured again by every run that is compared with it: results that agree are one.

    Raises:
        ValueError: two different results for one combination, or a field that no row has.
    """
    check_fields(rows, [*fields, *over])
    gathered: dict[tuple[Any, ...], dict[tuple[Any, ...], RunRow]] = {}
    for row in rows:
        key, repetition = (tuple(as_label(row.fields.get(name)) for name in names) for names in (fields, over))
        repetitions = gathered.setdefault(key, {})
        first = repetitions.get(repetition, row)
        if not math.isclose(first.intervals[figure].value, row.intervals[figure].value, rel_tol=1e-6):
            place = dict(zip([*fields, *over], [*key, *repetition], strict=True))
            raise ValueError(_two_results(place, first, row))
        verdicts = first.verdicts if first is row else (*first.verdicts, *row.verdicts)
        repetitions[repetition] = replace(first, verdicts=verdicts)
    return gathered


def as_label(value: Any) -> Any:
    """A field's value as a key: itself where it can be one, its text where it is a list."""
    return str(value) if isinstance(value, list) else value


def in_order(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers by size, then all others as they first appear."""
    # sorting is stable: what is no number stays where it was among its like
    return sorted(dict.fromkeys(values), key=lambda value: (0, value) if isinstance(value, (int, float)) else (1, 0))


def _two_results(place: Mapping[str, Any], first: RunRow, second: RunRow) -> str:
    *others, (column, value) = place.items()
    differing = [
        name
        for name in dict.fromkeys([*first.fields, *second.fields])
        if first.fields.get(name) != second.fields.get(name) and not name.startswith("facts.")
    ]
    sentence = f"two results for {dict(others)} at {column} = {value}; add the field in which they differ to the rows"
    return f"{sentence} (it is among {', '.join(differing)})" if differing else sentence


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that puts run 2 before run 10, with or without a text behind the number."""
    numbers = [re.match(r"\d+", part) for part in path.parts]
    return [(int(n[0]) if n else -1, part) for n, part in zip(numbers, path.parts, strict=True)]


def _rows_of(run: Path) -> list[RunRow]:
    metrics, config = read_metrics(run), read_config(run)
    config |= {f"facts.{name}": value for name, value in metrics.facts.items()}
    verdicts = tuple(
        VerdictRow(v.method, v.rival, v.steps, v.nfe, v.figure, _interval(v.difference), v.verdict)
        for v in metrics.verdicts
    )
    pictures, unreadable = read_pictures(run)
    for sentence in unreadable:
        warnings.warn(f"a picture is left out: {sentence}", LeftOutWarning, stacklevel=3)
    return [
        RunRow(
            {**config, **_row_fields(row, config.get("nfe")), "main": metrics.method},
            {name: _interval(f) for name, f in row.figures.items() if f.value is not None},
            {
                name: f.higher_is_better
                if "higher_is_better" in f.model_fields_set
                else number_format(name).higher_is_better
                for name, f in row.figures.items()
                if f.value is not None
            },
            # JSON has null for the infinite level of a flow at t = 1
            None if row.noise_levels is None else [math.inf if level is None else level for level in row.noise_levels],
            row.search_nfe,
            verdicts,
            run,
            pictures,
        )
        for row in metrics.rows
    ]


def _row_fields(row: RowData, nfe: Any) -> dict[str, Any]:
    """The fields that differ between the rows of a run, of which `nfe` is the list of budgets or None."""
    budgets = [n for n in nfe if isinstance(n, (int, float)) and n >= row.nfe] if isinstance(nfe, list) else []
    fields = {"method": row.method, "steps": row.steps, "nfe": row.nfe, "oracle": row.oracle}
    return {**fields, "budget": min(budgets, default=row.nfe)}


def _interval(numbers: IntervalData) -> Interval:
    """An interval from JSON, whose null is NaN."""
    value, low, high = (math.nan if n is None else n for n in (numbers.value, numbers.low, numbers.high))
    return Interval(value, low, high)
