"""The answer that many runs give: which method is best where, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optsteps.reporting.number_format import number_format
from optsteps.reporting.sweep.aggregate import FEWEST, Comparison, SweepCell, aggregate, compared
from optsteps.reporting.sweep.run_rows import RunRow, gather, with_figure
from optsteps.reporting.sweep.table_layout import BUDGETS, METHOD, TableLayout, field_label, listed
from optsteps.reporting.sweep.tables import shown_value

# figures that have an answer of their own, at most
_MOST_FIGURES = 3
_UNITS = {"budget": "NFE", "nfe": "NFE", "steps": "steps"}
# places that a sentence names one by one
_FEW = 3


@dataclass(frozen=True)
class Leader:
    """The method of the best estimate in one place of a table, and how it compares with its rivals there.

    Attributes:
        cell: of the method.
        ahead: rivals that it is better than, nearest first; with None where that follows from another rival, which is
            better than they are, and no run compares the two.
        even: rivals that it cannot be told from, nearest first.
        unknown: rivals that nothing compares it with.
    """

    cell: SweepCell
    ahead: Mapping[str, Comparison | None]
    even: Mapping[str, Comparison]
    unknown: Sequence[str]

    @property
    def best(self) -> bool:
        """Whether it is better than every rival."""
        return not self.even and not self.unknown


@dataclass(frozen=True)
class Answer:
    """What the runs say of one number: a headline, what its intervals are over, and a sentence for every place where
    there is more than one."""

    headline: str
    surety: str
    places: tuple[str, ...]


def answers(run_rows: Sequence[RunRow], layout: TableLayout) -> list[Answer]:
    """The answers for the numbers that the runs' verdicts are on; for the first that has a direction if there are none.

    There are none where the lines of the layout mix methods, or no place has two rivals.
    """
    if METHOD not in layout.rows:
        return []
    judged = {verdict.figure for row in run_rows for verdict in row.verdicts}
    found: dict[str, Answer] = {}
    for figure in sorted(layout.figures, key=lambda name: name not in judged):
        if len(found) < _MOST_FIGURES and (figure in judged or not found):
            leaders = leaders_of(run_rows, layout, figure)
            if leaders:
                found[figure] = _answer(leaders, layout)
    return list(found.values())


def leaders_of(run_rows: Sequence[RunRow], layout: TableLayout, figure: str) -> list[Leader]:
    """The leader of every place of a table that has two rivals, in the table's order."""
    places: dict[tuple[Any, ...], list[SweepCell]] = {}
    for cell in aggregate(run_rows, layout, figure):
        if cell.role == "rival" and cell.higher_is_better is not None:
            places.setdefault(cell.rivals_share, []).append(cell)
    names = list(dict.fromkeys([*layout.rows, layout.column]))
    runs = gather(with_figure(run_rows, figure), names, layout.over, figure)

    def difference(mine: SweepCell, rival: SweepCell) -> Comparison | None:
        of_mine, of_rival = (runs[tuple(cell.fields[name] for name in names)] for cell in (mine, rival))
        return compared(of_mine, of_rival, figure, bool(mine.higher_is_better))

    return [_leader(cells, difference) for cells in places.values() if len(cells) > 1]


def _leader(cells: Sequence[SweepCell], difference: Callable[[SweepCell, SweepCell], Comparison | None]) -> Leader:
    sign = -1 if cells[0].higher_is_better else 1
    first, *others = sorted(cells, key=lambda cell: sign * cell.interval.value)
    direct = {str(cell.fields[METHOD]): difference(first, cell) for cell in others}
    by_name = {str(cell.fields[METHOD]): cell for cell in others}
    beaten = [name for name, comparison in direct.items() if comparison and comparison.verdict == "better"]

    def follows(name: str) -> bool:
        steps = (difference(by_name[other], by_name[name]) for other in beaten)
        return any(step is not None and step.verdict == "better" for step in steps)

    implied = {name for name, comparison in direct.items() if comparison is None and follows(name)}
    return Leader(
        first,
        {name: comparison for name, comparison in direct.items() if name in beaten or name in implied},
        {name: comparison for name, comparison in direct.items() if comparison and name not in beaten},
        [name for name, comparison in direct.items() if comparison is None and name not in implied],
    )


def _answer(leaders: Sequence[Leader], layout: TableLayout) -> Answer:
    sentences = tuple(f"{_place(leader.cell, layout)}: {_standing(leader)}." for leader in leaders)
    surety = _surety(leaders, layout)
    if len(leaders) == 1:
        return Answer(sentences[0], surety, ())
    figure = number_format(leaders[0].cell.figure).label
    parts = []
    for method, group in _by_method(leader for leader in leaders if leader.best).items():
        parts.append(f"{method} is best in {figure} {_places(group, leaders, layout)}{_margin(group)}")
    for method, group in _by_method(leader for leader in leaders if not leader.best).items():
        even = list(dict.fromkeys(name for leader in group for name in leader.even))
        unknown = list(dict.fromkeys(name for leader in group for name in leader.unknown if name not in even))
        doubts = [f"cannot be told apart from {listed(even)}"] if even else []
        doubts += [f"is not compared with {listed(unknown)}"] if unknown else []
        lead = f"{method} leads in {figure} {_places(group, leaders, layout)}{_margin(group)}"
        parts.append(f"{lead}, but {' and '.join(doubts)}")
    return Answer(f"{'; '.join(parts)}.", surety, sentences)


def _by_method(leaders: Iterable[Leader]) -> dict[str, list[Leader]]:
    """Leaders by their method, the one that leads in most places first."""
    groups: dict[str, list[Leader]] = {}
    for leader in leaders:
        groups.setdefault(str(leader.cell.fields[METHOD]), []).append(leader)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _places(group: Sequence[Leader], leaders: Sequence[Leader], layout: TableLayout) -> str:
    if len(group) <= _FEW:
        return f"at {_listed_places(group, layout)}"
    count = f"all {len(leaders)}" if len(group) == len(leaders) else f"{len(group)} of {len(leaders)}"
    names = [field_label(name) for name in dict.fromkeys([*layout.rows, layout.column]) if name != METHOD]
    return f"for {count} {'values' if len(names) == 1 else 'combinations'} of {listed(names)}"


def _listed_places(group: Sequence[Leader], layout: TableLayout) -> str:
    if layout.group or layout.column not in BUDGETS:
        return listed(_place(leader.cell, layout) for leader in group)
    return f"{listed(shown_value(leader.cell.fields[layout.column]) for leader in group)} {_UNITS[layout.column]}"


def _place(cell: SweepCell, layout: TableLayout) -> str:
    """Where a cell stands, e.g. "5 NFE (euler)"."""
    names = [name for name in dict.fromkeys([*layout.rows, layout.column]) if name != METHOD]
    spent = [f"{shown_value(cell.fields[name])} {_UNITS[name]}" for name in names if name in BUDGETS]
    values = {name: shown_value(cell.fields[name]) for name in names if name not in BUDGETS}
    others = [v if name.endswith(".name") else f"{field_label(name)} {v}" for name, v in values.items()]
    if not spent or not others:
        return ", ".join(spent or others)
    return f"{', '.join(spent)} ({', '.join(others)})"


def _standing(leader: Leader) -> str:
    """How a leader compares with its rivals, nearest first."""
    shown, method = number_format(leader.cell.figure), leader.cell.fields[METHOD]
    clauses = []
    if leader.ahead:
        # what follows, follows from a comparison: there is one
        nearest, comparison = next(iter(_compared(leader).items()))
        others = [name for name in leader.ahead if name != nearest]
        by = f"better than {nearest} by {shown.difference(comparison.difference)}"
        clauses.append(f"{by} and better than {listed(others)}" if others else by)
    if leader.even:
        even = [f"{name} ({shown.interval(one.difference, '+')})" for name, one in leader.even.items()]
        clauses.append(f"not to be told apart from {listed(even)}")
    if leader.unknown:
        clauses.append(f"not compared with {listed(leader.unknown)}, as nothing pairs them")
    word = "is best in" if leader.best else "leads in"
    value = f"{shown.label} ({shown.number(leader.cell.interval.value)}{f' {shown.unit}' if shown.unit else ''})"
    return f"{method} {word} {value}: {', '.join(clauses)}"


def _margin(group: Sequence[Leader]) -> str:
    """By how much the leaders of some places are ahead of the nearest rivals that they are better than."""
    shown = number_format(group[0].cell.figure)
    nearest = [(name, one) for leader in group for name, one in list(_compared(leader).items())[:1]]
    if len(nearest) < len(group):
        return ""
    if len(group) <= _FEW:
        return f", better than {listed(f'{name} by {shown.difference(one.difference)}' for name, one in nearest)}"
    sizes = sorted(abs(one.difference.value) for _, one in nearest)
    span = f"{shown.number(sizes[0])} to {shown.number(sizes[-1])} {shown.amount or shown.label}"
    return f", better than the next by {span}, each interval clear of 0"


def _compared(leader: Leader) -> dict[str, Comparison]:
    """The rivals that a leader is better than by a comparison of their own."""
    return {name: comparison for name, comparison in leader.ahead.items() if comparison}


def _surety(leaders: Sequence[Leader], layout: TableLayout) -> str:
    """What the intervals are over."""
    runs = sorted({leader.cell.runs for leader in leaders if leader.ahead or leader.even})
    if not runs:
        return "How sure that is cannot be told: nothing pairs the methods."
    over = listed(map(field_label, layout.over)) if layout.over else "repetition"
    sentences = []
    if runs[-1] >= FEWEST:
        counts = listed(n for n in runs if n >= FEWEST)
        sentences.append(f"95 % intervals of the paired differences over {counts} runs that differ in {over}.")
    if 2 in runs:
        sentences.append(
            f"With 2 runs, too few for an interval over {over}, a 95 % interval spans those of both over their samples."
        )
    if 1 in runs:
        sentences.append(f"The 95 % interval of a single run is over its samples, and says nothing of another {over}.")
    return " ".join(sentences)
