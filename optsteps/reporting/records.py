"""What the folders of many runs say: one record for every row of every run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from optsteps.comparison import VerdictRow
from optsteps.metrics.statistics import Interval
from optsteps.reporting.quantities import quantity


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
    """

    fields: dict[str, Any]
    figures: dict[str, Interval]
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    noise_levels: Sequence[float] | None = None
    search_nfe: float = 0.0
    verdicts: tuple[VerdictRow, ...] = ()
    run: Path = Path()


def read_records(folder: Path) -> list[Record]:
    """Every row of every run below `folder`, or of the run that it is.

    Raises:
        FileNotFoundError: no run there, or one without its config.
        ValueError: a metrics.json that no run wrote.
    """
    found = [record for path in sorted(folder.rglob("metrics.json"), key=_natural) for record in _records(path)]
    if not found:
        raise FileNotFoundError(f"no run (a folder with metrics.json) below {folder}")
    return found


def read_all(folders: Iterable[Path]) -> list[Record]:
    """The records of all folders; a run below two of them is read once."""
    by_run: dict[Path, list[Record]] = {}
    for folder in folders:
        runs = set(by_run)
        for record in read_records(folder):
            if record.run.resolve() not in runs:
                by_run.setdefault(record.run.resolve(), []).append(record)
    return [record for records in by_run.values() for record in records]


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


def _records(path: Path) -> Iterable[Record]:
    config: Any = OmegaConf.load(path.parent / ".hydra" / "config.yaml")
    config.pop("logger", None)  # refers to Hydra's own run, which is over
    run = dict(_flat(OmegaConf.to_container(config, resolve=True), ""))
    metrics = _metrics(path)
    run |= {f"facts.{name}": value for name, value in metrics["facts"].items()}
    said = tuple(VerdictRow(**{**v, "difference": _interval(v["difference"])}) for v in metrics.get("verdicts", []))
    for row in metrics["rows"]:
        own = {key: row[key] for key in ("method", "steps", "nfe", "oracle")}
        budget = min((n for n in run.get("nfe") or [] if n >= row["nfe"]), default=row["nfe"])
        found = {name: f for name, f in row["figures"].items() if f["value"] is not None}
        levels = row.get("noise_levels")
        yield Record(
            {**run, **own, "budget": budget, "main": metrics.get("method")},
            {name: _interval(f) for name, f in found.items()},
            {name: f.get("higher_is_better", quantity(name).higher_is_better) for name, f in found.items()},
            # the one that JSON cannot hold is a flow's at t = 1
            None if levels is None else [math.inf if level is None else level for level in levels],
            row.get("search_nfe", 0.0),
            said,
            path.parent,
        )


def _metrics(path: Path) -> Any:
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); repeat its run or leave its folder out") from error
    if not isinstance(metrics, dict) or not {"rows", "facts"} <= set(metrics):
        raise ValueError(f"{path} has no rows and facts, so no run of optsteps wrote it; leave its folder out")
    return metrics


def _interval(numbers: Mapping[str, float | None]) -> Interval:
    """What JSON holds, its null as NaN."""
    value, low, high = (math.nan if numbers[name] is None else numbers[name] for name in ("value", "low", "high"))
    return Interval(value, low, high)  # type: ignore[arg-type]


def _flat(tree: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
