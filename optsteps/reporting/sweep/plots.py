"""Interactive plots of many runs, by plotly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from optsteps.reporting.number_format import number_format
from optsteps.reporting.plot_style import FAINT, INK, LevelScale, Look
from optsteps.reporting.sweep.aggregate import SweepCell
from optsteps.reporting.sweep.run_rows import RunRow
from optsteps.reporting.sweep.table_layout import METHOD
from optsteps.reporting.sweep.tables import value_and_detail
from optsteps.text.escaping import plotly_text

_SYMBOLS = dict(
    zip("osD^vPX", ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x"), strict=True)
)
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
# values that span more than this factor have a log axis
_WIDE = 20
_FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


def schedules_plot(run_rows: Sequence[RunRow], style: Mapping[str, Look]) -> go.Figure:
    """Noise level (log axis) against step.

    Args:
        run_rows: of one step count and one group; those without a schedule are left out. Where a method has several
            schedules, the first is drawn in full and the others are thin.
        style: a look for every method.
    """
    drawn: dict[str, list[torch.Tensor]] = {}
    for row in run_rows:
        if row.noise_levels is not None:
            levels = torch.tensor(row.noise_levels, dtype=torch.float64)
            schedules = drawn.setdefault(row.fields[METHOD], [])
            if not any(torch.equal(levels, other) for other in schedules):
                schedules.append(levels)
    scale = LevelScale(torch.cat([levels for schedules in drawn.values() for levels in schedules]))
    figure = _figure("step", "noise level")
    for method, schedules in drawn.items():
        for k, levels in enumerate(schedules):
            hollow = scale.hollow(levels)
            figure.add_scatter(
                x=list(range(len(levels))),
                y=scale.place(levels).tolist(),
                customdata=[f"{level:.4g}" for level in levels.tolist()],
                hovertemplate="step %{x}: noise level %{customdata}",
                **_look(method, style[method], thin=k > 0),
                marker_symbol=[_SYMBOLS[style[method].marker] + "-open" * bool(end) for end in hollow],
            )
    ends = [(scale.floor, "0")] * scale.zero + [(scale.ceiling, "∞")] * scale.infinity
    for place, _ in ends:
        figure.add_hline(place, line={"color": FAINT, "dash": "dot", "width": 1})
    low, high = (math.log10(limit) for limit in scale.limits)
    _log_ticks(figure.layout.yaxis, [10.0**power for power in range(math.ceil(low), math.floor(high) + 1)], ends)
    figure.update_yaxes(range=[low, high])
    steps = max(len(levels) - 1 for schedules in drawn.values() for levels in schedules)
    figure.update_xaxes(tickformat="d", dtick=max(1, round(steps / 10)))
    return figure


def quality_plot(cells: Sequence[SweepCell], style: Mapping[str, Look]) -> go.Figure:
    """A number of the samples against NFE, with its intervals, the teacher as a dotted line.

    Args:
        cells: of one number and one group, at least one; their method is in their fields.
        style: a look for every method.
    """
    figure = _figure("NFE: network evaluations per sample", _axis_title(cells[0]))
    for method, line in _by_method(cells).items():
        by_nfe = sorted(line, key=lambda cell: cell.nfe)
        figure.add_scatter(
            x=[cell.nfe for cell in by_nfe],
            **_values(by_nfe),
            hovertemplate="%{x:g} NFE: %{customdata}",
            **_look(method, style[method], oracle=by_nfe[0].role == "oracle"),
        )
    spent = sorted({cell.nfe for cell in cells if cell.role != "reference"})
    figure.update_xaxes(tickvals=spent)
    _value_axis(figure, cells)
    _teacher(figure, cells, (spent[0], spent[-1]))
    return figure


def cost_plot(cells: Sequence[SweepCell], style: Mapping[str, Look]) -> go.Figure:
    """A number of the samples against the cost of finding the schedule (log axis, with a place for 0).

    Args:
        cells: of one number, one group and one NFE, at least one.
        style: a look for every method.
    """
    rivals = _by_method([cell for cell in cells if cell.role == "rival"])
    figure = _figure("search NFE: network evaluations per sample of the search", _axis_title(cells[0]))
    costs = [cell.search_nfe for line in rivals.values() for cell in line]
    first = math.floor(math.log10(min((cost for cost in costs if cost > 0), default=10.0)))
    last = math.ceil(math.log10(max([*costs, 10.0 ** (first + 1)])))
    for method, line in rivals.items():
        figure.add_scatter(
            # what costs nothing stands a decade before all that costs something
            x=[cell.search_nfe or 10.0 ** (first - 1) for cell in line],
            **_values(line),
            text=[f"{cell.search_nfe:,.0f}" for cell in line],
            hovertemplate="%{text} search NFE: %{customdata}",
            **{**_look(method, style[method]), "mode": "markers", "marker_size": 13},
        )
    powers = [10.0**power for power in range(first, last + 1)]
    _log_ticks(figure.layout.xaxis, powers, [(10.0 ** (first - 1), "no search")])
    figure.update_xaxes(range=[first - 1.3, last + 0.2])
    _value_axis(figure, cells)
    _teacher(figure, cells, (10.0 ** (first - 1), 10.0**last))
    return figure


def _figure(x: str, y: str) -> go.Figure:
    axis = {"showline": True, "linecolor": FAINT, "gridcolor": "#e6e6e6", "zeroline": False, "ticks": "outside"}
    return go.Figure(
        layout={
            "template": "none",
            "height": 460,
            "margin": {"l": 80, "r": 20, "t": 40, "b": 60},
            "font": {"family": _FONT, "size": 14, "color": INK},
            "xaxis": {**axis, "title": {"text": x}},
            "yaxis": {**axis, "title": {"text": y}, "automargin": True},
            "legend": {"font": {"size": 14}, "tracegroupgap": 2, "itemwidth": 40},
            "hoverlabel": {"font": {"family": _FONT, "size": 13}},
        }
    )


def _look(method: str, look: Look, thin: bool = False, oracle: bool = False) -> dict[str, Any]:
    name = plotly_text(f"{method} (oracle)" if oracle else method)
    return {
        "name": name,
        "legendgroup": name,
        "showlegend": not thin,
        "opacity": 0.35 if thin else 1.0,
        "mode": "lines+markers",
        "line": {"color": look.colour, "dash": "dot" if oracle else _DASHES[look.dashes], "width": look.width},
        "marker": {
            "color": look.colour,
            "size": 5 if thin else 8,
            "symbol": _SYMBOLS[look.marker] + "-open" * oracle,
            "line": {"color": look.colour, "width": 1.5 if oracle else 0},
        },
    }


def _by_method(cells: Sequence[SweepCell]) -> dict[str, list[SweepCell]]:
    """The cells of rivals, then of oracles."""
    lines: dict[str, list[SweepCell]] = {}
    for cell in sorted(cells, key=lambda cell: cell.role == "oracle"):
        if cell.role != "reference":
            lines.setdefault(cell.fields[METHOD], []).append(cell)
    return lines


def _values(cells: Sequence[SweepCell]) -> dict[str, Any]:
    """Values with their intervals, in the units of the tables."""
    scale = number_format(cells[0].figure).scale
    ends = [(c.interval.high - c.interval.value, c.interval.value - c.interval.low) for c in cells]
    up, down = ([scale * d if math.isfinite(d) else 0.0 for d in side] for side in zip(*ends, strict=True))
    return {
        "y": [scale * cell.interval.value for cell in cells],
        "error_y": {"type": "data", "array": up, "arrayminus": down, "thickness": 1.2, "width": 4},
        "customdata": [" ".join(value_and_detail(cell)) for cell in cells],
    }


def _axis_title(cell: SweepCell) -> str:
    shown = number_format(cell.figure)
    direction = {True: "higher is better", False: "lower is better", None: ""}[cell.higher_is_better]
    label = plotly_text(", ".join(filter(None, (shown.label, shown.unit))))
    return f"{label} ({direction})" if direction else label


def _value_axis(figure: go.Figure, cells: Sequence[SweepCell]) -> None:
    """A log axis where the values ask for one."""
    scale = number_format(cells[0].figure).scale
    values = [scale * cell.interval.value for cell in cells]
    if min(values) <= 0 or max(values) / min(values) <= _WIDE:
        return
    ends = [scale * end for cell in cells for end in (cell.interval.low, cell.interval.high) if math.isfinite(end)]
    # an interval that reaches 0 is cut off
    low, high = math.log10(min(v for v in values + ends if v > min(values) / 3)), math.log10(max(values + ends))
    # 1, 2, 5, 10, ... as long as there is room for them
    leading = (1, 2, 5) if high - low < 2.5 else (1,)
    _log_ticks(
        figure.layout.yaxis,
        [k * 10.0**power for power in range(math.floor(low), math.ceil(high)) for k in leading],
    )
    margin = 0.05 * (high - low)
    figure.update_yaxes(range=[low - margin, high + margin])


def _log_ticks(axis: Any, ticks: Sequence[float], named: Sequence[tuple[float, str]] = ()) -> None:
    """Make `axis` logarithmic, its ticks labelled in full, and those of `named` by their names."""
    labels = [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks]
    axis.type = "log"
    axis.tickvals = [*ticks, *(place for place, _ in named)]
    axis.ticktext = [*labels, *(name for _, name in named)]


def _teacher(figure: go.Figure, cells: Sequence[SweepCell], across: tuple[float, float]) -> None:
    """The teacher's value as a line."""
    scale = number_format(cells[0].figure).scale
    for cell in cells:
        if cell.role == "reference":
            figure.add_scatter(
                x=across,
                y=[scale * cell.interval.value] * 2,
                name=f"teacher ({cell.nfe:g} NFE)",
                mode="lines",
                line={"color": FAINT, "dash": "dot", "width": 1.8},
                hovertemplate=" ".join(value_and_detail(cell)),
            )
