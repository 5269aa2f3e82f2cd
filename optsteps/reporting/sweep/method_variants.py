"""Variants of a method: runs whose rows have one method's name and differ in a setting of that method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optsteps.reporting.sweep.run_rows import RunRow, as_label, in_order
from optsteps.reporting.sweep.table_layout import METHOD, ROW_FIELDS

_Settings = dict[str, Any]
_ABSENT = "absent"  # in the place of a setting that a variant does not have
# of rows that a run has beside those of its methods: an oracle, and a schedule without the orders of its steps
_SUFFIXES = ("_per_sample", "_without_orders")


def name_variants(rows: Sequence[RunRow], fields: Sequence[str], over: Sequence[str]) -> list[RunRow]:
    """The rows, with the settings in which the runs of a method differ behind its name, as in "edm (rho=3)".

    The settings are those of the run's config, `method` for its main method and `rivals.NAME` for a rival. The fewest
    that tell the variants apart are named, and none where every variant has the same results. The variants of a method
    stand together, ordered by their settings.

    Args:
        rows: of all runs.
        fields: what tells runs apart in the tables already.
        over: what repeated runs differ in; a setting that always equals one of these fields is left out.
    """
    of_configs = [name for name in fields if name not in ROW_FIELDS]
    labels: dict[int, str] = {}
    ranks: dict[int, tuple[int, ...]] = {}
    methods = list(dict.fromkeys(row.fields[METHOD] for row in rows))
    for method in methods:
        of_method = [row for row in rows if row.fields[METHOD] == method]
        settings = [_settings(row) for row in of_method]
        names = _telling(of_method, settings, of_configs, over)
        variants = [tuple(as_label(part.get(name, _ABSENT)) for name in names) for part in settings]
        if names and not _all_agree(of_method, variants, [*of_configs, *over]):
            orders = [in_order(values) for values in zip(*variants, strict=True)]
            for row, variant in zip(of_method, variants, strict=True):
                labels[id(row)] = _label(method, dict(zip(names, variant, strict=True)))
                ranks[id(row)] = tuple(order.index(value) for order, value in zip(orders, variant, strict=True))
    if not labels:
        return list(rows)
    of_runs: dict[Path, dict[str, str]] = {}
    for row in rows:
        of_runs.setdefault(row.run, {})[row.fields[METHOD]] = labels.get(id(row), row.fields[METHOD])
    ordered = sorted(rows, key=lambda row: (methods.index(row.fields[METHOD]), ranks.get(id(row), ())))
    return [_renamed(row, of_runs[row.run]) for row in ordered]


def _settings(row: RunRow) -> _Settings:
    """What the config says of the row's method, by dotted keys."""
    method = row.fields[METHOD]
    for name in (method, *(method.removesuffix(suffix) for suffix in _SUFFIXES)):
        section = "method." if name == row.fields.get("main") else f"rivals.{name}."
        settings = {key.removeprefix(section): value for key, value in row.fields.items() if key.startswith(section)}
        if settings:
            return settings
    return {}


def _telling(
    rows: Sequence[RunRow], settings: Sequence[_Settings], fields: Sequence[str], over: Sequence[str]
) -> list[str]:
    """The fewest settings that tell apart rows of one method which agree in `fields`; a target is taken last."""

    def repeats(name: str) -> bool:
        values = [part.get(name) for part in settings]
        return any(values == [row.fields.get(field) for row in rows] for field in over)

    names = dict.fromkeys(name for part in settings for name in part)
    telling: list[str] = []
    kinds = [tuple(as_label(row.fields.get(field)) for field in fields) for row in rows]
    for name in sorted(names, key=lambda name: name.endswith("_target_")):
        finer = [(*kind, as_label(part.get(name, _ABSENT))) for kind, part in zip(kinds, settings, strict=True)]
        if len(set(finer)) > len(set(kinds)) and not repeats(name):
            telling, kinds = [*telling, name], finer
    return telling


def _all_agree(rows: Sequence[RunRow], variants: Sequence[Any], fields: Sequence[str]) -> bool:
    """Whether all variants have the same results wherever there is one, so that their settings change nothing."""
    results: dict[Any, dict[Any, Any]] = {}
    for row, variant in zip(rows, variants, strict=True):
        place = tuple(as_label(row.fields.get(name)) for name in (*fields, "steps", "nfe"))
        numbers = {name: f"{interval.value:.6g}" for name, interval in row.intervals.items()}
        results.setdefault(place, {})[variant] = numbers
    count = len(set(variants))
    return all(
        len(at) == count and all(numbers == at[variants[0]] for numbers in at.values()) for at in results.values()
    )


def _label(method: str, variant: Mapping[str, Any]) -> str:
    settings = [f"{name}={_typed(value)}" for name, value in variant.items() if value != _ABSENT]
    return f"{method} ({', '.join(settings)})" if settings else method


def _typed(value: Any) -> str:
    """A value as one types it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _renamed(row: RunRow, labels: dict[str, str]) -> RunRow:
    """A row whose methods, and those of its verdicts, have their names by `labels`."""
    main = row.fields["main"]
    fields = {**row.fields, METHOD: labels[row.fields[METHOD]], "main": labels.get(str(main), main)}
    verdicts = tuple(
        replace(v, method=labels.get(v.method, v.method), rival=labels.get(v.rival, v.rival)) for v in row.verdicts
    )
    return replace(row, fields=fields, verdicts=verdicts)
