"""What the folders of many runs say: one record for every row of every run."""

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
from optsteps.reporting.quantities import quantity
from optsteps.reporting.run_data import METRICS, IntervalData, RowData, read_config, read_metrics, read_pictures


class LeftOutWarning(UserWarning):
    """A run, or a picture of one, that cannot be read; the others are."""


@dataclass(frozen=True)
class Record:
    """One row of one run's comparison.

    Attributes:
        fields: the run's resolved config by dotted keys, and the row's "method", "steps", "nfe", "budget" (the least of
            the run's `nfe` that pays for it; its own where the run counted steps), "oracle" and "main" (the run's main
            method).
        figures: by name; one whose value was not finite is left out.
        higher_is_better: direction of each figure, None where neither is.
        noise_levels: of its schedule [n+1]; None where it has none.
        search_nfe: what finding the schedules of all step counts cost, per sample of the search.
        verdicts: all that its run holds.
        run: the run's folder.
        pictures: the run's pictures of samples by their number of steps, PNG.
    """

    fields: dict[str, Any]
    figures: dict[str, Interval]
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    noise_levels: Sequence[float] | None = None
    search_nfe: float = 0.0
    verdicts: tuple[VerdictRow, ...] = ()
    run: Path = Path()
    pictures: Mapping[int, bytes] = field(default_factory=dict, repr=False)


def read_records(folder: Path) -> list[Record]:
    """Every row of every run below `folder`, or of the run that it is. Arguments and errors as of `read_all`."""
    return read_all([folder])


def read_all(folders: Iterable[Path]) -> list[Record]:
    """The records of all runs below some folders; a run below two of them is read once.

    A run that cannot be read is left out with a `LeftOutWarning`, which names the file and the field.

    Raises:
        FileNotFoundError: no run below one of them.
        ValueError: none of the runs can be read.
    """
    runs: dict[Path, Path] = {}
    for folder in folders:
        found = [path.parent for path in sorted(folder.rglob(METRICS), key=_natural)]
        if not found:
            raise FileNotFoundError(f"no run (a folder with {METRICS}) below {folder}")
        for run in found:
            runs.setdefault(run.resolve(), run)
    records: list[Record] = []
    unreadable: list[str] = []
    for run in runs.values():
        try:
            records += _records(run)
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
    if not records:
        others = f" (and {len(unreadable) - 1} more runs cannot be read)" if len(unreadable) > 1 else ""
        raise ValueError(f"{unreadable[0]}{others}" if unreadable else f"no run below {folder} has any row")
    for sentence in unreadable:
        warnings.warn(f"a run is left out: {sentence}", LeftOutWarning, stacklevel=2)
    return records


def with_figure(records: Sequence[Record], figure: str) -> list[Record]:
    """The records that have `figure`.

    Raises:
        ValueError: none has.
    """
    found = [record for record in records if figure in record.figures]
    if not found:
        known = sorted({name for record in records for name in record.figures})
        raise ValueError(f"no row has the figure {figure!r}; there are {', '.join(known)}")
    return found


def check_fields(records: Sequence[Record], fields: Iterable[str]) -> None:
    """Raises ValueError for a field that no record has."""
    known = {name for record in records for name in record.fields}
    for name in fields:
        if name not in known:
            raise ValueError(f"a run has no field {name!r}; it has {', '.join(sorted(known))}")


def gather(
    records: Sequence[Record], fields: Sequence[str], over: Sequence[str], figure: str
) -> dict[tuple[Any, ...], dict[tuple[Any, ...], Record]]:
    """The records of each combination of `fields`, and under it of each combination of `over`.

    A rival is measured again by every run that is compared with it: results that agree are one.

    Raises:
        ValueError: two different results for one place, or a field that no record has.
    """
    check_fields(records, [*fields, *over])
    places: dict[tuple[Any, ...], dict[tuple[Any, ...], Record]] = {}
    for record in records:
        key, repetition = (tuple(as_label(record.fields.get(name)) for name in names) for names in (fields, over))
        there = places.setdefault(key, {})
        known = there.get(repetition, record)
        if not math.isclose(known.figures[figure].value, record.figures[figure].value, rel_tol=1e-6):
            raise ValueError(_two_results(dict(zip([*fields, *over], [*key, *repetition], strict=True)), known, record))
        verdicts = known.verdicts if known is record else (*known.verdicts, *record.verdicts)
        there[repetition] = replace(known, verdicts=verdicts)
    return places


def as_label(value: Any) -> Any:
    """A field's value as a key: itself where it can be one, its text where it is a list."""
    return str(value) if isinstance(value, list) else value


def in_order(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers by size, then all others as they first appear."""
    found = list(dict.fromkeys(values))
    # sorting is stable: what is no number stays where it was among its like
    return sorted(found, key=lambda value: (0, value) if isinstance(value, (int, float)) else (1, 0))


def _two_results(place: Mapping[str, Any], one: Record, other: Record) -> str:
    *first, (column, value) = place.items()
    differing = [
        name
        for name in dict.fromkeys([*one.fields, *other.fields])
        if one.fields.get(name) != other.fields.get(name) and not name.startswith("facts.")
    ]
    said = f"two results for {dict(first)} at {column} = {value}; add the field in which they differ to the rows"
    return f"{said} (it is among {', '.join(differing)})" if differing else said


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that puts run 2 before run 10, with or without a text behind the number."""
    numbers = [re.match(r"\d+", part) for part in path.parts]
    return [(int(n[0]) if n else -1, part) for n, part in zip(numbers, path.parts, strict=True)]


def _records(run: Path) -> list[Record]:
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
        Record(
            {**config, **_own_fields(row, config.get("nfe")), "main": metrics.method},
            {name: _interval(f) for name, f in row.figures.items() if f.value is not None},
            {
                name: f.higher_is_better
                if "higher_is_better" in f.model_fields_set
                else quantity(name).higher_is_better
                for name, f in row.figures.items()
                if f.value is not None
            },
            # the one that JSON cannot hold is a flow's at t = 1
            None if row.noise_levels is None else [math.inf if level is None else level for level in row.noise_levels],
            row.search_nfe,
            verdicts,
            run,
            pictures,
        )
        for row in metrics.rows
    ]


def _own_fields(row: RowData, nfe: Any) -> dict[str, Any]:
    """The fields that differ between the rows of a run, which was given so many evaluations."""
    budgets = [n for n in nfe if isinstance(n, (int, float)) and n >= row.nfe] if isinstance(nfe, list) else []
    own = {"method": row.method, "steps": row.steps, "nfe": row.nfe, "oracle": row.oracle}
    return {**own, "budget": min(budgets, default=row.nfe)}


def _interval(numbers: IntervalData) -> Interval:
    """What JSON holds, its null as NaN."""
    value, low, high = (math.nan if n is None else n for n in (numbers.value, numbers.low, numbers.high))
    return Interval(value, low, high)
