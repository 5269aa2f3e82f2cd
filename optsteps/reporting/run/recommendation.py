"""The answer of a run, a sentence for each step count: whose schedule to use, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optsteps.comparison import Row, VerdictRow
from optsteps.metrics.statistics import verdict
from optsteps.reporting.number_format import number_format


def recommendations(rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> list[str]:
    """One sentence per step count, on the first figure of the verdicts.

    The main method's schedule is named if it is better than the best of its rivals at equal NFE, otherwise that
    rival's: what cannot be told from a rival is not worth a search. For example "With 5 evaluations per sample use
    oss's schedule: it is better than the best other (edm) by 1.31 dB PSNR [1.20, 1.42].". Where rows were sampled with
    several solvers, the schedule's is named too. A rival that cannot be told from the main method, and whose search
    takes more evaluations, is no reason against it, and is named beside the others' best. A rival with the very
    schedule of the main method is named beside it;
    a formula with that schedule, which needs no search, is named before others that are no worse. A rival from which no
    difference shows in the digits of the figure is named beside it too, and not as better or worse; if it is a formula,
    in its place.

    What is better by one figure may be worse by another: nearness can be bought with spread. Where the main method's
    schedule is named, but is worse than the best hand-made one by the interval of a further figure that says nothing of
    the teacher (distance to the data, class accuracy, GenEval, ...), the sentence says that too.

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
    same = _with_the_same_schedule(rows, verdicts)
    formulas = {row.method for row in rows if row.nfe == verdicts[0].nfe and _is_hand_made(row)}
    even = [v.rival for v in verdicts if v.rival not in same and _shows_nothing(v)]
    dearer = [name for name in _dearer_draws(rows, verdicts) if name not in (*same, *even)]
    verdicts = [v for v in verdicts if v.rival not in dearer] or verdicts
    # a formula that is as good needs no search: it is a rival like others
    searched = [rival for rival in even if rival not in formulas]
    if len(same) + len(searched) < len(verdicts):  # that one is no better than oneself says nothing
        verdicts = [v for v in verdicts if v.rival not in (*same, *searched)]
    else:
        same, searched = [], []
    nearest = max(verdicts, key=lambda v: _merit(rows, v))
    said = "no better" if nearest.rival in even else nearest.verdict
    method, rival, shown = nearest.method, nearest.rival, number_format(nearest.figure)
    solvers = {row.method: row.solver for row in rows if row.nfe == nearest.nfe and row.solver}

    def schedule_of(name: str) -> str:
        with_solver = f" with {solvers[name]}" if len(set(solvers.values())) > 1 and name in solvers else ""
        return f"{name}'s schedule{with_solver}"

    budget = f"{nearest.nfe:g} evaluations per sample"
    budget += "" if nearest.nfe == nearest.steps else f" ({nearest.steps} steps)"
    by = f"by {shown.difference(nearest.difference)}"
    if said == "better":
        which = f", which is {' and '.join(same)}'s" if same else ""
        which += f", as good as {' and '.join(map(schedule_of, searched))}" if searched else ""
        than = f"{rival}'s" if len(verdicts) == 1 else f"the best other ({rival})"
        draws = f"; {' and '.join(dearer)} with a dearer search cannot be told from it" if dearer else ""
        better = f"With {budget} use {schedule_of(method)}{which}: it is better than {than} {by}"
        return f"{better}{_bought_with(rows, verdicts)}{draws}."
    if said == "worse":
        return f"With {budget} use {schedule_of(rival)}: {method}'s is worse {by}."
    amount = f"{shown.number(nearest.difference.value, '+')} {shown.amount or shown.label}"
    interval = shown.interval(nearest.difference, "+")
    own = [name for name in same if name in formulas]
    if own:
        held = f"it is no better than the best other ({rival}), {amount} {interval}"
        return f"With {budget} use {schedule_of(own[0])}, which is {method}'s: {held}, and needs no search."
    if rival in dearer:
        return f"With {budget} use {schedule_of(method)}: {rival}'s takes a dearer search and cannot be told from it."
    return f"With {budget} use {schedule_of(rival)}: {method}'s is no better ({amount} {interval})."


def _dearer_draws(rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> list[str]:
    """The rivals that cannot be told from the method, and whose search takes more evaluations."""
    nfe = verdicts[0].nfe
    evaluations = {row.method: row.search_evaluations for row in rows if row.nfe == nfe and not row.oracle}
    own = evaluations.get(verdicts[0].method, 0)
    return [v.rival for v in verdicts if v.verdict == "no better" and evaluations.get(v.rival, 0) > own]


def _with_the_same_schedule(rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> list[str]:
    """The rivals whose samples are those of the method's own schedule and solver."""

    def sampled(name: str) -> tuple[object, str] | None:
        found = (row for row in rows if (row.method, row.nfe) == (name, verdicts[0].nfe) and not row.oracle)
        row = next(found, None)
        return None if row is None or row.schedule is None else (row.schedule.facts, row.solver)

    own = sampled(verdicts[0].method)
    return [v.rival for v in verdicts if own is not None and sampled(v.rival) == own]


def _shows_nothing(verdict: VerdictRow) -> bool:
    """Whether both ends of the interval of a difference are 0 in the digits in which it is shown."""
    shown, ends = number_format(verdict.figure), (verdict.difference.low, verdict.difference.high)
    return all(float(shown.number(end)) == 0 for end in ends)


def _bought_with(rows: Sequence[Row], verdicts: Sequence[VerdictRow]) -> str:
    """The figures by which the method is worse than the best hand-made schedule, in words; empty for none. Where no
    rival is hand-made, it is held against the best of them."""
    nfe, figure = verdicts[0].nfe, verdicts[0].figure
    by_name = {row.method: row for row in rows if row.nfe == nfe and not row.oracle}
    hand_made = [v for v in verdicts if _is_hand_made(by_name[v.rival])]
    rival = max(hand_made or verdicts, key=lambda v: _merit(rows, v)).rival
    ours, theirs = by_name[verdicts[0].method].measurements, by_name[rival].measurements
    losses = list[str]()
    for name, measurement in ours.items():
        part_of_another = any(name.startswith(f"{other}_") for other in ours)
        if name == figure or part_of_another or measurement.compares_with_teacher or name not in theirs:
            continue
        difference = measurement.difference(theirs[name])
        if difference is None or measurement.higher_is_better is None:
            continue
        if verdict(difference, measurement.higher_is_better) == "worse":
            losses.append(f"by {number_format(name).difference(difference)}")
    return f", but worse than {rival}'s {' and '.join(losses)}" if losses else ""


def _is_hand_made(row: Row) -> bool:
    return row.schedule is not None and "family" in row.schedule.metadata


def _merit(rows: Sequence[Row], verdict: VerdictRow) -> float:
    """How good the rival of a verdict is by the figure; more is better."""
    measurement = next(
        row.measurements[verdict.figure]
        for row in rows
        if (row.method, row.nfe) == (verdict.rival, verdict.nfe) and verdict.figure in row.measurements
    )
    value = measurement.interval.value if measurement.higher_is_better else -measurement.interval.value
    return -math.inf if math.isnan(value) else value
