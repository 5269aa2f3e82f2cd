"""Means over repeated runs, such as seeds, with intervals and verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch

from optsteps.comparison import TEACHER
from optsteps.metrics.statistics import Interval, Verdict, spread, verdict
from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.run_rows import RunRow, gather, in_order, with_figure
from optsteps.reporting.sweep.table_layout import METHOD, TableLayout, field_label, listed

Role = Literal["rival", "oracle", "reference"]
# the runs of a cell by their repetition, as in `gather`
Runs = Mapping[tuple[Any, ...], RunRow]
# an interval over repetitions takes so many: that of two would be 12.7 times as wide as they lie apart
FEWEST = 3


@dataclass(frozen=True)
class Comparison:
    """The difference of a method to its rival (method minus rival) with its 95 % interval, and the verdict of it."""

    difference: Interval
    verdict: Verdict


@dataclass(frozen=True)
class SweepCell:
    """One number of one method in a cell of a sweep's table.

    Attributes:
        fields: the values of the layout's rows and column.
        figure: name of the number.
        higher_is_better: its direction, None where neither is.
        interval: the mean over the runs with Student's t interval, whose ends are NaN where the runs are fewer than
            `FEWEST`; for a single run, the interval of that run.
        runs: how many.
        role: an oracle is a bound and the teacher a reference; neither is a rival.
        nfe, search_nfe: evaluations per sample, of sampling and of the search; means over the runs.
        search_evaluations, network_seconds: as in `RunRow`; means over the runs, None where one does not say.
        best: whether it is the best of the rivals that differ in the method alone, by the digits shown.
        verdict: against the baseline; None where the two cannot be compared.
    """

    fields: Mapping[str, Any]
    figure: str
    higher_is_better: bool | None
    interval: Interval
    runs: int
    role: Role
    nfe: float
    search_nfe: float
    search_evaluations: float | None = None
    network_seconds: float | None = None
    best: bool = False
    verdict: Verdict | None = None

    @property
    def rivals_share(self) -> tuple[Any, ...]:
        """The values of all fields but the method."""
        return tuple(value for name, value in self.fields.items() if name != METHOD)


def aggregate(run_rows: Sequence[RunRow], layout: TableLayout, figure: str) -> list[SweepCell]:
    """The cells of one number, in the order of the table: by the layout's rows, oracles last in their group.

    A cell is compared with the baseline as in `compared`.

    Raises:
        ValueError: two different results for one run of a cell, a field or a figure that no row has.
    """
    names = list(dict.fromkeys([*layout.rows, layout.column]))
    places = gather(with_figure(run_rows, figure), names, layout.over, figure)
    cells = {
        key: _cell(dict(zip(names, key, strict=True)), list(runs.values()), figure) for key, runs in places.items()
    }
    baselines = {cell.rivals_share: places[key] for key, cell in cells.items() if _is_baseline(cell, layout)}
    judged = []
    for key, cell in cells.items():
        baseline = baselines.get(cell.rivals_share)
        against = None
        if baseline and cell.role == "rival" and not _is_baseline(cell, layout) and cell.higher_is_better is not None:
            against = compared(places[key], baseline, figure, cell.higher_is_better)
        best = _is_best(cell, cells.values())
        judged.append(replace(cell, best=best, verdict=against.verdict if against else None))
    return _ordered(judged, names)


def unpaired(layout: TableLayout) -> str:
    """What is said of a baseline that no cell is compared with."""
    shared = listed(map(field_label, dict.fromkeys([*layout.group, *layout.over, "nfe"])))
    return (
        f"Nothing is compared with {layout.baseline}: no runs of another method have the same {shared}, or they are "
        "too few and hold no verdict on it."
    )


def _cell(fields: Mapping[str, Any], runs: Sequence[RunRow], figure: str) -> SweepCell:
    first = runs[0].fields
    return SweepCell(
        fields,
        figure,
        next((run.higher_is_better[figure] for run in runs if figure in run.higher_is_better), _usual(figure)),
        _mean([run.intervals[figure] for run in runs]),
        len(runs),
        "oracle" if first.get("oracle") else "reference" if first.get(METHOD) == TEACHER else "rival",
        fmean(run.fields["nfe"] for run in runs),
        fmean(run.search_nfe for run in runs),
        _known_mean([run.search_evaluations for run in runs]),
        _known_mean([run.network_seconds for run in runs]),
    )


def _known_mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _mean(intervals: Sequence[Interval]) -> Interval:
    if len(intervals) == 1:
        return intervals[0]
    values = [interval.value for interval in intervals]
    if len(values) < FEWEST:
        return Interval(fmean(values), math.nan, math.nan)
    return spread(torch.tensor(values, dtype=torch.float64))


def _usual(figure: str) -> bool | None:
    return number_format(figure).higher_is_better


def _is_baseline(cell: SweepCell, layout: TableLayout) -> bool:
    return layout.baseline is not None and cell.role == "rival" and cell.fields.get(METHOD) == layout.baseline


def _is_best(cell: SweepCell, cells: Iterable[SweepCell]) -> bool:
    if cell.role != "rival" or cell.higher_is_better is None or METHOD not in cell.fields:
        return False
    rivals = [c.interval.value for c in cells if c.role == "rival" and c.rivals_share == cell.rivals_share]
    best = (max if cell.higher_is_better else min)(rivals)
    shown = number_format(cell.figure).number
    return len(rivals) > 1 and shown(cell.interval.value) == shown(best)


def compared(mine: Runs, rival: Runs, figure: str, higher_is_better: bool) -> Comparison | None:
    """The paired difference of two methods in one cell of the table; None where nothing pairs them.

    Runs are paired that share their repetition and NFE. With `FEWEST` pairs or more, the interval is Student's t over
    them. With fewer, every run of `mine` must hold a verdict of its own samples on the two: the interval then spans
    those of the runs, and what the runs do not agree on is a draw.
    """
    pairs = [
        (run, rival[place])
        for place, run in mine.items()
        if place in rival and run.fields["nfe"] == rival[place].fields["nfe"]
    ]
    if len(pairs) >= FEWEST:
        values = [run.intervals[figure].value - other.intervals[figure].value for run, other in pairs]
        difference = spread(torch.tensor(values, dtype=torch.float64))
        return Comparison(difference, verdict(difference, higher_is_better))
    held = [comparison for pair in pairs if (comparison := _held(*pair, figure))]
    if not held or len(held) < len(mine):
        return None
    differences, verdicts = [one.difference for one in held], {one.verdict for one in held}
    spanned = Interval(
        fmean(d.value for d in differences), min(d.low for d in differences), max(d.high for d in differences)
    )
    return Comparison(spanned, verdicts.pop() if len(verdicts) == 1 else "no better")


def _held(run: RunRow, rival: RunRow, figure: str) -> Comparison | None:
    """What the run says that compared the two, whichever of them was its main method."""
    method, other = run.fields[METHOD], rival.fields[METHOD]
    for held in (*run.verdicts, *rival.verdicts):
        for row in (held, held.turned()):
            if (row.figure, row.nfe, row.method, row.rival) == (figure, run.fields["nfe"], method, other):
                return Comparison(row.difference, row.verdict)
    return None


def _ordered(cells: Sequence[SweepCell], names: Sequence[str]) -> list[SweepCell]:
    rank = {name: {v: i for i, v in enumerate(in_order(c.fields[name] for c in cells))} for name in names}

    def place(cell: SweepCell) -> tuple[Any, ...]:
        group = [rank[name][cell.fields[name]] for name in names if name != METHOD and name != names[-1]]
        method = [rank[METHOD][cell.fields[METHOD]]] if METHOD in names else []
        return (*group, cell.role == "oracle", *method, rank[names[-1]][cell.fields[names[-1]]])

    return sorted(cells, key=place)
