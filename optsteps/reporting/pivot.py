"""Tables over many runs: what their folders say, laid out by any fields of their configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from optsteps.metrics.statistics import Interval
from optsteps.reporting.quantities import Quantity, quantity
from optsteps.reporting.tables import NOTHING, markdown_lines


@dataclass(frozen=True)
class Record:
    """One row of one run's comparison.

    Attributes:
        fields: the run's resolved config by dotted keys, and the row's "method", "steps", "nfe", "budget" (the least of
            the run's `nfe` that pays for it; its own where the run counted steps) and "oracle".
        figures: by name.
    """

    fields: dict[str, Any]
    figures: dict[str, Interval]


def read_records(folder: Path) -> list[Record]:
    """Every row of every run below `folder`.

    Raises:
        FileNotFoundError: no run there.
    """
    found = [record for path in sorted(folder.rglob("metrics.json"), key=_natural) for record in _records(path)]
    if not found:
        raise FileNotFoundError(f"no run (a folder with metrics.json) below {folder}")
    return found


def _natural(path: Path) -> list[tuple[bool, int | str]]:
    """A key that puts run 2 before run 10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in path.parts]


def _records(path: Path) -> Iterable[Record]:
    config: Any = OmegaConf.load(path.parent / ".hydra" / "config.yaml")
    config.pop("logger", None)  # refers to Hydra's own run, which is over
    run = dict(_flat(OmegaConf.to_container(config, resolve=True), ""))
    metrics = json.loads(path.read_text())
    run |= {f"facts.{name}": value for name, value in metrics["facts"].items()}
    for row in metrics["rows"]:
        own = {key: row[key] for key in ("method", "steps", "nfe", "oracle")}
        budget = min((n for n in run.get("nfe") or [] if n >= row["nfe"]), default=row["nfe"])
        figures = {name: Interval(f["value"], f["low"], f["high"]) for name, f in row["figures"].items()}
        yield Record({**run, **own, "budget": budget}, figures)


def _flat(tree: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


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
        ValueError: two records for one cell, an unknown field, or a figure that no record has.
    """
    chosen = [record for record in records if figure in record.figures]
    if not chosen:
        known = sorted({name for record in records for name in record.figures})
        raise ValueError(f"no row has the figure {figure!r}; there are {', '.join(known)}")
    cells: dict[tuple[Any, ...], dict[Any, Interval]] = {}
    for record in chosen:
        unknown = [field for field in (*rows, column) if field not in record.fields]
        if unknown:
            raise ValueError(f"a run has no field {unknown[0]!r}; it has {', '.join(sorted(record.fields))}")
        line = cells.setdefault(tuple(record.fields[field] for field in rows), {})
        place = record.fields[column]
        if place in line:
            raise ValueError(
                f"two results for {dict(zip(rows, (record.fields[f] for f in rows), strict=True))} at {column} = "
                f"{place}; add the field in which they differ to the rows"
            )
        line[place] = record.figures[figure]
    columns = sorted({place for line in cells.values() for place in line})

    def text(key: tuple[Any, ...], place: Any) -> str:
        if place not in cells[key]:
            return NOTHING
        number = value_alone(quantity(figure), cells[key][place])
        rivals = [line[place].value for other, line in cells.items() if other[:-1] == key[:-1] and place in line]
        first = best is not None and len(rivals) > 1 and number == quantity(figure).number(best(rivals))
        shown = cell(quantity(figure), cells[key][place])
        return f"**{shown}**" if first else shown

    lines = [[*map(str, key), *(text(key, place) for place in columns)] for key in cells]
    return markdown_lines([*(field.split(".")[0] for field in rows), *map(str, columns)], lines, left=len(rows))
