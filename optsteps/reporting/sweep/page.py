"""One HTML page on many runs: figures that answer the reader, samples and tables, in a file that needs no other."""

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

from optsteps.reporting.number_format import quantity
from optsteps.reporting.panels import looks
from optsteps.reporting.run.tables import NOTHING, TEACHER
from optsteps.reporting.sweep.aggregate import aggregate
from optsteps.reporting.sweep.plots import cost_plot, quality_plot, schedules_plot
from optsteps.reporting.sweep.run_rows import Record, as_label, in_order
from optsteps.reporting.sweep.table_layout import METHOD, Layout, field_label
from optsteps.reporting.sweep.tables import MARKS, Sheet, notes, shown_value, value_and_detail
from optsteps.text.escaping import html, script_data

_TEMPLATE = Path(__file__).with_name("page.html")
_Choice = tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the page that shows one of several things, as its choosers say.

    Attributes:
        name: of its anchor.
        title, caption: what is seen.
        choosers: what there is to choose.
        shown: by one value for each chooser: a plotly figure, or HTML.
    """

    name: str
    title: str
    caption: str
    choosers: tuple[str, ...]
    shown: Mapping[_Choice, go.Figure | str]


def page(title: str, summary: str, records: Sequence[Record], layout: Layout, sheets: Sequence[Sheet]) -> str:
    """The page as HTML, with plotly's own script inside; nothing in it is fetched from anywhere.

    Args:
        title, summary: its head.
        records: of all runs.
        layout: what the tables were laid out by; figures choose among its groups.
        sheets: the tables, one for each figure.
    """
    sections = [part for part in (_schedules(records, layout), *_qualities(records, layout)) if part.shown]
    pictures = _samples(records, layout)
    plots = {part.name: {_key(choice): _as_json(plot) for choice, plot in part.shown.items()} for part in sections}
    body = [*map(_section, sections), *([_section(pictures)] if pictures.shown else []), _tables(sheets)]
    data = script_data(json.dumps(plots, allow_nan=False))
    return Template(_TEMPLATE.read_text()).substitute(
        title=html(title), summary=html(summary), body="\n".join(body), plotly=get_plotlyjs(), plots=data
    )


def _schedules(records: Sequence[Record], layout: Layout) -> Section:
    students = [r for r in records if r.noise_levels is not None and r.fields[METHOD] != TEACHER]
    style = looks(_methods(records))
    found: dict[_Choice, list[Record]] = {}
    for record in sorted(students, key=lambda r: (r.fields["steps"], list(style).index(r.fields[METHOD]))):
        found.setdefault((*_group(record.fields, layout), str(record.fields["steps"])), []).append(record)
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
        {choice: schedules_plot(rows, style) for choice, rows in found.items()},
    )


def _qualities(records: Sequence[Record], layout: Layout) -> list[Section]:
    style = looks(_methods(records))
    by_nfe = replace(layout, rows=(*layout.group, METHOD), column="nfe")
    qualities: dict[_Choice, go.Figure] = {}
    costs: dict[_Choice, go.Figure] = {}
    for figure in layout.figures:
        label = quantity(figure).label
        cells: dict[_Choice, list[Any]] = {}
        for cell in aggregate(records, by_nfe, figure):
            cells.setdefault(_group(cell.fields, layout), []).append(cell)
        for group, found in cells.items():
            chosen, students = (*group, label), [cell for cell in found if cell.role != "reference"]
            if students:
                qualities[chosen] = quality_plot(found, style)
            for nfe in in_order(cell.nfe for cell in students if cell.role == "rival"):
                near = [cell for cell in found if cell.nfe == nfe or cell.role == "reference"]
                at_nfe = (*chosen, f"{nfe:g}")
                costs[at_nfe] = cost_plot(near, style)
    bars = "Bars are 95 % intervals: Student's t over repeated runs, a single run's own otherwise."
    groups = _group_labels(layout)
    return [
        Section(
            "quality",
            "Quality against evaluations",
            f"{bars} Dotted with hollow marks: an oracle, searched for the very samples it is judged on, a bound and "
            "no rival. The grey dotted line is the teacher, a reference.",
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


def _samples(records: Sequence[Record], layout: Layout) -> Section:
    """The pictures of samples that the runs left, side by side."""
    runs = {record.run: record for record in records}
    over = [name for name in layout.over if name not in layout.group]
    found: dict[_Choice, str] = {}
    for run, record in runs.items():
        fields = record.fields
        for steps, png in record.pictures.items():
            choice = (str(steps), *(shown_value(as_label(fields.get(name))) for name in over))
            label = ", ".join([*_group(fields, layout), shown_value(fields["main"]), f"run {run.name}"])
            picture = base64.b64encode(png).decode()
            found[choice] = found.get(choice, "") + (
                f'<figure><img alt="samples of {html(label)}" src="data:image/png;base64,{picture}">'
                f"<figcaption>{html(label)}</figcaption></figure>"
            )
    caption = (
        "Samples of every method of a run beside the teacher's, from the same noise. Below a picture: what tells its "
        "run apart, the run's main method and its folder."
    )
    ordered = dict(sorted(found.items(), key=lambda item: int(item[0][0])))
    return Section("samples", "Samples", caption, ("steps", *map(field_label, over)), ordered)


def _tables(sheets: Sequence[Sheet]) -> str:
    parts = [f"<h3>{html(sheet.title)}</h3>\n{_table(sheet)}" for sheet in sheets]
    return f'<section id="tables"><h2>Tables</h2>\n{"".join(parts)}</section>'


def _table(sheet: Sheet) -> str:
    head = "".join(f'<th class="label">{html(name)}</th>' for name in sheet.rows)
    head += "".join(f"<th>{html(name)}</th>" for name in sheet.columns)
    lines, group = [], None
    for line in sheet.lines:
        first = ' class="first"' if group not in (None, line.group) else ""
        group = line.group
        labels = "".join(f'<td class="label">{html(label)}</td>' for label in line.labels)
        lines.append(f"<tr{first}>{labels}{''.join(map(_cell, line.cells))}</tr>")
    below = "".join(f"<p>{html(note)}</p>" for note in notes(sheet))
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
        # one value is told by the page's head and leaves nothing to choose
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
    """Each once, counts by size."""
    found = in_order(values)
    return sorted(found, key=float) if all(value.replace(".", "", 1).isdigit() for value in found) else found


def _key(choice: Iterable[str]) -> str:
    return "\n".join(choice)


def _as_json(figure: go.Figure | str) -> Any:
    assert isinstance(figure, go.Figure)
    return json.loads(figure.to_json())


def _methods(records: Sequence[Record]) -> list[str]:
    """In their order of appearance, oracles last."""
    return [r.fields[METHOD] for r in sorted(records, key=lambda r: bool(r.fields["oracle"]))]


def _group(fields: Mapping[str, Any], layout: Layout) -> _Choice:
    return tuple(shown_value(as_label(fields.get(name))) for name in layout.group)


def _group_labels(layout: Layout) -> _Choice:
    return tuple(field_label(name) for name in layout.group)
