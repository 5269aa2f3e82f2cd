"""The answer of a run, a sentence for each step count: whose schedule to use, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optsteps.comparison import Row, VerdictRow
from optsteps.reporting.number_format import number_format


def recommendations(rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> list[str]:
    """One sentence per step count, on the first figure of the verdicts.

    The main method's schedule is named if it is better than the best of its rivals at equal NFE, otherwise that
    rival's: what cannot be told from a rival is not worth a search. For example "With 5 evaluations per sample use
    oss's schedule: it is better than the best other (edm) by 1.31 dB PSNR [1.20, 1.42].". Where rows were sampled with
    several solvers, the schedule's is named too.

    Args:
        rows: of the comparison.
        verdicts: on the main method, of these rows.
    """
    groups: dict[tuple[int, float], list[VerdictRow]] = {}
    for v in verdicts:
        if v.figure == verdicts[0].figure:
            groups.setdefault((v.steps, v.nfe), []).append(v)
    return [_recommendation(rows, group) for group in groups.values()]


def _recommendation(rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> str:
    nearest = max(verdicts, key=lambda v: _merit(rows, v))
    method, rival, shown = nearest.method, nearest.rival, number_format(nearest.figure)
    solvers = {row.method: row.solver for row in rows if row.nfe == nearest.nfe and row.solver}

    def schedule_of(name: str) -> str:
        with_solver = f" with {solvers[name]}" if len(set(solvers.values())) > 1 and name in solvers else ""
        return f"{name}'s schedule{with_solver}"

    budget = f"{nearest.nfe:g} evaluations per sample"
    budget += "" if nearest.nfe == nearest.steps else f" ({nearest.steps} steps)"
    by = f"by {shown.difference(nearest.difference)}"
    if nearest.verdict == "better":
        than = f"{rival}'s" if len(verdicts) == 1 else f"the best other ({rival})"
        return f"With {budget} use {schedule_of(method)}: it is better than {than} {by}."
    if nearest.verdict == "worse":
        return f"With {budget} use {schedule_of(rival)}: {method}'s is worse {by}."
    amount = f"{shown.number(nearest.difference.value, '+')} {shown.amount or shown.label}"
    interval = shown.interval(nearest.difference, "+")
    return f"With {budget} use {schedule_of(rival)}: {method}'s is no better ({amount} {interval})."


def _merit(rows: Sequence[Row], verdict: VerdictRow) -> float:
    """How good the rival of a verdict is by the figure; more is better."""
    measurement = next(
        row.measurements[verdict.figure]
        for row in rows
        if (row.method, row.nfe) == (verdict.rival, verdict.nfe) and verdict.figure in row.measurements
    )
    value = measurement.interval.value if measurement.higher_is_better else -measurement.interval.value
    return -math.inf if math.isnan(value) else value
