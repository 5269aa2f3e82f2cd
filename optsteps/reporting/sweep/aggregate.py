"""Means over repeated runs, such as seeds, with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch

from optsteps.comparison import TEACHER
from optsteps.metrics.statistics import Interval, Verdict, spread, verdict
from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.run_rows import RunRow, gather, in_order, with_figure
from optsteps.reporting.sweep.table_layout import METHOD, TableLayout

Role = Literal["rival", "oracle", "reference"]
_OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "no better": "no better"}
_Runs = Mapping[tuple[Any, ...], RunRow]


@dataclass(frozen=True)
class SweepCell:
    """One number of one method in a cell of a sweep's table.

    Attributes:
        fields: the values of the layout's rows and column.
        figure: name of the number.
        higher_is_better: its direction, None where neither is.
        interval: the mean over the runs with Student's t interval; for a single run, the interval of that run.
        runs: how many.
        role: an oracle is a bound and the teacher a reference; neither is a rival.
        nfe, search_nfe: evaluations per sample, of sampling and of the search; means over the runs.
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
    best: bool = False
    verdict: Verdict | None = None

    @property
    def rivals_share(self) -> tuple[Any, ...]:
        """The values of all fields but the method."""
        return tuple(value for name, value in self.fields.items() if name != METHOD)


def aggregate(run_rows: Sequence[RunRow], layout: TableLayout, figure: str) -> list[SweepCell]:
    """The cells of one number, in the order of the table: by the layout's rows, oracles last in their group.

    A cell is compared with the baseline by the differences of paired runs, which share all of `layout.over` and the
    NFE: with two pairs or more by their Student's t interval, and for a single run by the verdict that this run holds.

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
        compared = baseline is not None and cell.role == "rival" and not _is_baseline(cell, layout)
        against = _against(places[key], baseline, figure, cell.higher_is_better) if baseline and compared else None
        judged.append(replace(cell, best=_is_best(cell, cells.values()), verdict=against))
    return _ordered(judged, names)


def _cell(fields: Mapping[str, Any], runs: Sequence[RunRow], figure: str) -> SweepCell:
    values = [run.intervals[figure] for run in runs]
    several = len(values) > 1
    first = runs[0].fields
    return SweepCell(
        fields,
        figure,
        next((run.higher_is_better[figure] for run in runs if figure in run.higher_is_better), _usual(figure)),
        spread(torch.tensor([v.value for v in values], dtype=torch.float64)) if several else values[0],
        len(runs),
        "oracle" if first.get("oracle") else "reference" if first.get(METHOD) == TEACHER else "rival",
        fmean(run.fields["nfe"] for run in runs),
        fmean(run.search_nfe for run in runs),
    )


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


def _against(mine: _Runs, baseline: _Runs, figure: str, higher_is_better: bool | None) -> Verdict | None:
    pairs = [
        (run, baseline[place])
        for place, run in mine.items()
        if place in baseline and run.fields["nfe"] == baseline[place].fields["nfe"]
    ]
    if higher_is_better is None or not pairs:
        return None
    if len(pairs) > 1:
        differences = [run.intervals[figure].value - rival.intervals[figure].value for run, rival in pairs]
        return verdict(spread(torch.tensor(differences, dtype=torch.float64)), higher_is_better)
    return _held(*pairs[0], figure) if len(mine) == 1 else None


def _held(run: RunRow, rival: RunRow, figure: str) -> Verdict | None:
    """The verdict of the run that compared the two, whichever of them was its main method."""
    method, baseline = run.fields[METHOD], rival.fields[METHOD]
    for row in (*run.verdicts, *rival.verdicts):
        if (row.figure, row.nfe) == (figure, run.fields["nfe"]):
            if (row.method, row.rival) == (method, baseline):
                return row.verdict
            if (row.method, row.rival) == (baseline, method):
                return _OPPOSITE[row.verdict]
    return None


def _ordered(cells: Sequence[SweepCell], names: Sequence[str]) -> list[SweepCell]:
    rank = {name: {v: i for i, v in enumerate(in_order(c.fields[name] for c in cells))} for name in names}

    def place(cell: SweepCell) -> tuple[Any, ...]:
        group = [rank[name][cell.fields[name]] for name in names if name != METHOD and name != names[-1]]
        method = [rank[METHOD][cell.fields[METHOD]]] if METHOD in names else []
        return (*group, cell.role == "oracle", *method, rank[names[-1]][cell.fields[names[-1]]])

    return sorted(cells, key=place)
