"""HTML page on many runs: interactive plots, samples and tables, in one file that needs no other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from optsteps.comparison import TEACHER
from optsteps.reporting.markdown import NOTHING
from optsteps.reporting.number_format import number_format
from optsteps.reporting.plot_style import looks
from optsteps.reporting.sweep.aggregate import FEWEST, Role, aggregate
from optsteps.reporting.sweep.answer import Answer
from optsteps.reporting.sweep.plots import cost_plot, quality_plot, schedules_plot
from optsteps.reporting.sweep.run_rows import RunRow, as_label, in_order
from optsteps.reporting.sweep.table_layout import METHOD, TableLayout, field_label
from optsteps.reporting.sweep.tables import MARKS, SweepTable, notes, shown_value, value_and_detail
from optsteps.text.escaping import html, script_data

_TEMPLATE = Path(__file__).with_name("page.html")
_ROLES: Mapping[Role, str] = {
    "oracle": "Dotted with hollow marks: an oracle, searched for the very samples it is judged on, a bound, no rival.",
    "reference": "The grey dotted line is the teacher, a reference.",
}
# sentences of an answer that the page shows without being asked
_MOST_IN_SIGHT = 6
_Choice = tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page that shows one of several things, which the reader chooses.

    Attributes:
        name: of its anchor.
        title, caption: above the plot.
        choosers: labels of the menus.
        shown: plotly figures or HTML, by one value for each menu.
    """

    name: str
    title: str
    caption: str
    choosers: tuple[str, ...]
    shown: Mapping[_Choice, go.Figure | str]


def page(
    title: str,
    summary: str,
    found: Sequence[Answer],
    unfinished: Sequence[str],
    run_rows: Sequence[RunRow],
    layout: TableLayout,
    tables: Sequence[SweepTable],
) -> str:
    """The page as HTML, with plotly's own script inside; nothing in it is fetched from anywhere.

    Args:
        title, summary: its head.
        found: the answers of the runs, which stand first.
        unfinished: how many jobs are not finished, and a sentence for each; empty where all are.
        run_rows: of all runs.
        layout: of the tables; the plots' menus choose among its groups.
        tables: one for each number.
    """
    sections = [part for part in (_schedules(run_rows, layout), *_qualities(run_rows, layout)) if part.shown]
    pictures = _samples(run_rows, layout)
    plots = {part.name: {_key(choice): _as_json(plot) for choice, plot in part.shown.items()} for part in sections}
    body = [*map(_section, sections), *([_section(pictures)] if pictures.shown else []), _tables(tables)]
    data = script_data(json.dumps(plots, allow_nan=False))
    return Template(_TEMPLATE.read_text()).substitute(
        title=html(title),
        answers="\n".join(map(_answer, found)),
        unfinished=_unfinished(unfinished),
        summary=html(summary),
        body="\n".join(body),
        plotly=get_plotlyjs(),
        plots=data,
    )


def _answer(answer: Answer) -> str:
    places = "".join(f"<li>{html(sentence)}</li>" for sentence in answer.places)
    listed = f'<ul class="places">{places}</ul>' if places else ""
    if len(answer.places) > _MOST_IN_SIGHT:
        listed = f"<details><summary>each of these {len(answer.places)}</summary>{listed}</details>"
    return f'<p class="answer">{html(answer.headline)}</p><p class="surety">{html(answer.surety)}</p>{listed}'


def _unfinished(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    jobs = "".join(f"<li>{html(job)}</li>" for job in sentences[1:])
    return f'<div class="unfinished"><p>{html(sentences[0])}</p><ul>{jobs}</ul></div>'


def _schedules(run_rows: Sequence[RunRow], layout: TableLayout) -> Section:
    students = [r for r in run_rows if r.noise_levels is not None and r.fields[METHOD] != TEACHER]
    style = looks(_methods(run_rows))
    by_choice: dict[_Choice, list[RunRow]] = {}
    for row in sorted(students, key=lambda r: (r.fields["steps"], list(style).index(r.fields[METHOD]))):
        choice = (*_group(row.fields, layout), str(row.fields["steps"]))
        by_choice.setdefault(choice, []).append(row)
    caption = (
        "The noise level (noise-to-signal ratio) at which each step of a schedule begins and ends, on a log axis. "
        "Where a method found different schedules in repeated runs, the first is drawn in full and the others thin. A "
        "click on a name hides it. Hollow marks on a dotted line stand for noise level 0 or infinity."
    )
    return Section(
        "schedules",
        "Schedules",
        caption,
        (*_group_labels(layout), "steps"),
        {choice: schedules_plot(rows, style) for choice, rows in by_choice.items()},
    )


def _qualities(run_rows: Sequence[RunRow], layout: TableLayout) -> list[Section]:
    style = looks(_methods(run_rows))
    by_nfe = replace(layout, rows=(*layout.group, METHOD), column="nfe")
    qualities: dict[_Choice, go.Figure] = {}
    costs: dict[_Choice, go.Figure] = {}
    roles: set[Role] = set()
    for figure in layout.figures:
        label = number_format(figure).label
        cells: dict[_Choice, list[Any]] = {}
        for cell in aggregate(run_rows, by_nfe, figure):
            cells.setdefault(_group(cell.fields, layout), []).append(cell)
            roles.add(cell.role)
        for group, in_group in cells.items():
            chosen, students = (*group, label), [cell for cell in in_group if cell.role != "reference"]
            if students:
                qualities[chosen] = quality_plot(in_group, style)
            for nfe in in_order(cell.nfe for cell in students if cell.role == "rival"):
                near = [cell for cell in in_group if cell.nfe == nfe or cell.role == "reference"]
                at_nfe = (*chosen, f"{nfe:g}")
                costs[at_nfe] = cost_plot(near, style)
    bars = (
        f"Bars are 95 % intervals: Student's t over {FEWEST} repeated runs or more, a single run's own. Two have none."
    )
    groups = _group_labels(layout)
    return [
        Section(
            "quality",
            "Quality against evaluations",
            " ".join([bars, *(note for role, note in _ROLES.items() if role in roles)]),
            (*groups, "value"),
            qualities,
        ),
        Section(
            "cost",
            "Quality against the cost of the search",
            "Across: what a method spent, per sample of its search, on the schedules of all step counts together. Up: "
            "what its schedule gives. "
            f"{bars}",
            (*groups, "value", "NFE"),
            costs,
        ),
    ]


def _samples(run_rows: Sequence[RunRow], layout: TableLayout) -> Section:
    """The pictures of samples that the runs left, side by side."""
    runs = {row.run: row for row in run_rows}
    over = [name for name in layout.over if name not in layout.group]
    cards: dict[_Choice, str] = {}
    for run, row in runs.items():
        fields = row.fields
        for steps, png in row.pictures.items():
            choice = (str(steps), *(shown_value(as_label(fields.get(name))) for name in over))
            label = ", ".join([*_group(fields, layout), shown_value(fields["main"]), f"run {run.name}"])
            picture = base64.b64encode(png).decode()
            cards[choice] = cards.get(choice, "") + (
                f'<figure><img alt="samples of {html(label)}" src="data:image/png;base64,{picture}">'
                f"<figcaption>{html(label)}</figcaption></figure>"
            )
    caption = (
        "Samples of every method of a run beside the teacher's, from the same noise. Below a picture: what tells its "
        "run apart, the run's main method and its folder."
    )
    ordered = dict(sorted(cards.items(), key=lambda item: int(item[0][0])))
    return Section("samples", "Samples", caption, ("steps", *map(field_label, over)), ordered)


def _tables(tables: Sequence[SweepTable]) -> str:
    parts = [f"<h3>{html(table.title)}</h3>\n{_table(table)}" for table in tables]
    return f'<section id="tables"><h2>Tables</h2>\n{"".join(parts)}</section>'


def _table(table: SweepTable) -> str:
    head = "".join(f'<th class="label">{html(name)}</th>' for name in table.rows)
    head += "".join(f"<th>{html(name)}</th>" for name in table.columns)
    lines, group = [], None
    for line in table.lines:
        first = ' class="first"' if group not in (None, line.group) else ""
        group = line.group
        labels = "".join(f'<td class="label">{html(label)}</td>' for label in line.labels)
        lines.append(f"<tr{first}>{labels}{''.join(map(_cell, line.cells))}</tr>")
    below = "".join(f"<p>{html(note)}</p>" for note in notes(table))
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        f'<div class="notes">{below}</div>\n'
    )


def _cell(cell: Any) -> str:
    if cell is None:
        return f"<td>{NOTHING}</td>"
    value, detail = map(html, value_and_detail(cell))
    value = f"<b>{value}</b>" if cell.best else value
    mark = MARKS[cell.verdict] if cell.verdict else ""
    return f'<td>{value} <span class="detail">{detail}</span><span class="mark">{mark}</span></td>'


def _section(part: Section) -> str:
    options = [_options(choice[k] for choice in part.shown) for k in range(len(part.choosers))]
    selects = "".join(
        # a single value stands in the page's head and leaves nothing to choose
        f"<label{' hidden' if len(values) == 1 else ''}>{html(name)} <select>"
        + "".join(f'<option value="{html(value)}">{html(value)}</option>' for value in values)
        + "</select></label>"
        for name, values in zip(part.choosers, options, strict=True)
    )
    drawn = {choice: shown for choice, shown in part.shown.items() if isinstance(shown, str)}
    cards = "".join(
        f'<div class="cards" data-key="{_key(map(html, choice))}" hidden>{cards}</div>'
        for choice, cards in drawn.items()
    )
    return (
        f'<section id="{part.name}" class="choose"><h2>{html(part.title)}</h2>'
        f'<p class="caption">{html(part.caption)}</p><div class="choosers">{selects}</div>'
        f'{cards or "<div class=plot></div>"}<p class="empty" hidden>No run has this combination.</p></section>'
    )


def _options(values: Iterable[str]) -> list[str]:
    """The values, each once; counts by size."""
    options = in_order(values)
    counts = all(value.replace(".", "", 1).isdigit() for value in options)
    return sorted(options, key=float) if counts else options


def _key(choice: Iterable[str]) -> str:
    return "\n".join(choice)


def _as_json(figure: go.Figure | str) -> Any:
    assert isinstance(figure, go.Figure)
    return json.loads(figure.to_json())


def _methods(run_rows: Sequence[RunRow]) -> list[str]:
    """In their order of appearance, oracles last."""
    return [r.fields[METHOD] for r in sorted(run_rows, key=lambda r: bool(r.fields["oracle"]))]


def _group(fields: Mapping[str, Any], layout: TableLayout) -> _Choice:
    return tuple(shown_value(as_label(fields.get(name))) for name in layout.group)


def _group_labels(layout: TableLayout) -> _Choice:
    return tuple(field_label(name) for name in layout.group)
