"""Runs that differ only in what is repeated, put together: means over seeds, and what may be claimed from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch

from optsteps.metrics.statistics import Interval, Verdict, spread, verdict
from optsteps.reporting.number_format import quantity
from optsteps.reporting.run.tables import TEACHER
from optsteps.reporting.sweep.run_rows import Record, gather, in_order, with_figure
from optsteps.reporting.sweep.table_layout import METHOD, Layout

Role = Literal["rival", "oracle", "reference"]
_OPPOSITE: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "no better": "no better"}
_Runs = Mapping[tuple[Any, ...], Record]


@dataclass(frozen=True)
class Cell:
    """One figure of one method at one place of a table.

    Attributes:
        fields: the values of the layout's rows and column.
        figure: its name.
        higher_is_better: its direction, None where neither is.
        interval: the mean over the runs with Student's t interval; of a single run, that run's own.
        runs: how many.
        role: an oracle is a bound and the teacher a reference; neither is a rival.
        nfe, search_nfe: evaluations per sample, of sampling and of the search; means over the runs.
        best: the best of the rivals that differ in the method alone, as far as the digits shown tell.
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


def aggregate(records: Sequence[Record], layout: Layout, figure: str) -> list[Cell]:
    """The cells of one figure, in the order of the table: by the layout's rows, oracles last in their group.

    A cell is compared with the baseline by the differences of paired runs, which share all of `layout.over` and the
    NFE: with two pairs or more by their Student's t interval, and for a single run by the verdict that this run holds.

    Raises:
        ValueError: two different results for one run of a cell, a field or a figure that no record has.
    """
    names = list(dict.fromkeys([*layout.rows, layout.column]))
    places = gather(with_figure(records, figure), names, layout.over, figure)
    cells = {
        key: _cell(dict(zip(names, key, strict=True)), list(runs.values()), figure) for key, runs in places.items()
    }
    baselines = {cell.rivals_share: places[key] for key, cell in cells.items() if _is_baseline(cell, layout)}
    judged = []
    for key, cell in cells.items():
        baseline = baselines.get(cell.rivals_share)
        compared = baseline is not None and cell.role == "rival" and not _is_baseline(cell, layout)
        said = _against(places[key], baseline, figure, cell.higher_is_better) if baseline and compared else None
        judged.append(replace(cell, best=_is_best(cell, cells.values()), verdict=said))
    return _ordered(judged, names)


def _cell(fields: Mapping[str, Any], runs: Sequence[Record], figure: str) -> Cell:
    values = [run.figures[figure] for run in runs]
    several = len(values) > 1
    own = runs[0].fields
    return Cell(
        fields,
        figure,
        next((run.higher_is_better[figure] for run in runs if figure in run.higher_is_better), _usual(figure)),
        spread(torch.tensor([v.value for v in values], dtype=torch.float64)) if several else values[0],
        len(runs),
        "oracle" if own.get("oracle") else "reference" if own.get(METHOD) == TEACHER else "rival",
        fmean(run.fields["nfe"] for run in runs),
        fmean(run.search_nfe for run in runs),
    )


def _usual(figure: str) -> bool | None:
    return quantity(figure).higher_is_better


def _is_baseline(cell: Cell, layout: Layout) -> bool:
    return layout.baseline is not None and cell.role == "rival" and cell.fields.get(METHOD) == layout.baseline


def _is_best(cell: Cell, cells: Iterable[Cell]) -> bool:
    if cell.role != "rival" or cell.higher_is_better is None or METHOD not in cell.fields:
        return False
    rivals = [c.interval.value for c in cells if c.role == "rival" and c.rivals_share == cell.rivals_share]
    best = (max if cell.higher_is_better else min)(rivals)
    shown = quantity(cell.figure).number
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
        differences = [run.figures[figure].value - rival.figures[figure].value for run, rival in pairs]
        return verdict(spread(torch.tensor(differences, dtype=torch.float64)), higher_is_better)
    return _held(*pairs[0], figure) if len(mine) == 1 else None


def _held(run: Record, rival: Record, figure: str) -> Verdict | None:
    """The verdict that the run of one of the two holds, whichever of them was its main method."""
    ours, theirs = run.fields[METHOD], rival.fields[METHOD]
    for said in (*run.verdicts, *rival.verdicts):
        if (said.figure, said.nfe) == (figure, run.fields["nfe"]):
            if (said.method, said.rival) == (ours, theirs):
                return said.verdict
            if (said.method, said.rival) == (theirs, ours):
                return _OPPOSITE[said.verdict]
    return None


def _ordered(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    rank = {name: {v: i for i, v in enumerate(in_order(c.fields[name] for c in cells))} for name in names}

    def place(cell: Cell) -> tuple[Any, ...]:
        group = [rank[name][cell.fields[name]] for name in names if name != METHOD and name != names[-1]]
        method = [rank[METHOD][cell.fields[METHOD]]] if METHOD in names else []
        return (*group, cell.role == "oracle", *method, rank[names[-1]][cell.fields[names[-1]]])

    return sorted(cells, key=place)
