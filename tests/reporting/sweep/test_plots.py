"""The interactive figures, as the data that plotly is given."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from optsteps.metrics import Interval
from optsteps.reporting.plot_style import looks
from optsteps.reporting.sweep.aggregate import SweepCell
from optsteps.reporting.sweep.plots import cost_plot, quality_plot, schedules_plot
from optsteps.reporting.sweep.run_rows import RunRow

STYLE = looks(["oss", "edm", "oracle"])


def schedule(method: str, levels: list[float]) -> RunRow:
    return RunRow({"method": method}, {}, noise_levels=levels)


def cell(
    method: str, nfe: float, value: float, role: str = "rival", search_nfe: float = 0.0, figure: str = "mse"
) -> SweepCell:
    interval, cost = Interval(value, value - 0.01, value + 0.02), (search_nfe, 32 * search_nfe, search_nfe)
    return SweepCell({"method": method, "nfe": nfe}, figure, False, interval, 1, role, nfe, *cost)  # type: ignore[arg-type]


def test_repeated_schedules_are_drawn_once_and_others_thin() -> None:
    same, other = [80.0, 1.0, 0.01], [80.0, 2.0, 0.01]
    drawn = schedules_plot([schedule("edm", same)] * 3 + [schedule("oss", same), schedule("oss", other)], STYLE).data
    assert [(trace.name, trace.showlegend) for trace in drawn] == [("edm", True), ("oss", True), ("oss", False)]
    assert list(drawn[2].y) == other
    assert drawn[2].opacity < 1


def test_noise_level_zero_and_infinity_have_their_ticks() -> None:
    figure = schedules_plot([schedule("oss", [math.inf, 9.0, 0.3, 0.0])], STYLE)
    assert list(figure.data[0].y) == pytest.approx([27.0, 9.0, 0.3, 0.1])
    assert list(figure.data[0].marker.symbol) == ["circle-open", "circle", "circle", "circle-open"]
    named = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
    assert (named["0"], named["∞"]) == (pytest.approx(0.1), pytest.approx(27.0))


def test_quality_has_intervals_an_oracle_apart_and_the_teacher() -> None:
    cells = [
        cell("oss", 10, 0.2),
        cell("oss", 5, 0.3),
        cell("oracle", 5, 0.1, "oracle"),
        cell("teacher", 99, 0.05, "reference"),
    ]
    oss, oracle, teacher = quality_plot(cells, STYLE).data
    assert (list(oss.x), list(oss.y)) == ([5, 10], [0.3, 0.2])
    assert list(oss.error_y.array) == pytest.approx([0.02, 0.02])
    assert list(oss.error_y.arrayminus) == pytest.approx([0.01, 0.01])
    assert (oracle.name, oracle.line.dash) == ("oracle (oracle)", "dot")
    assert (teacher.name, list(teacher.y)) == ("teacher (99 NFE)", [0.05, 0.05])


def test_values_are_in_the_units_of_the_tables() -> None:
    (trace,) = quality_plot([cell("oss", 5, 0.5, figure="accuracy")], STYLE).data
    assert list(trace.y) == [50.0]
    assert list(trace.error_y.array) == pytest.approx([2.0])


def test_a_wide_range_has_a_log_axis() -> None:
    axis = quality_plot([cell("oss", 5, 0.1), cell("edm", 5, 9.0)], STYLE).layout.yaxis
    assert axis.type == "log"
    assert {"0.1", "0.2", "0.5", "1", "2", "5"} <= set(axis.ticktext)
    assert axis.range[0] < math.log10(0.1) < math.log10(9) < axis.range[1]
    assert quality_plot([cell("oss", 5, 1.0), cell("edm", 5, 9.0)], STYLE).layout.yaxis.type is None


def test_no_search_has_a_place_beside_the_costs() -> None:
    figure = cost_plot(
        [cell("oss", 5, 0.1, search_nfe=940), cell("edm", 5, 0.2), cell("oracle", 5, 0.0, "oracle")], STYLE
    )
    assert {trace.name: list(trace.x) for trace in figure.data} == {"oss": [32 * 940], "edm": [1000]}
    assert [list(trace.text) for trace in figure.data] == [
        ["30,080 (16 min) evaluations, 940 a sample"],
        ["0 evaluations"],
    ]
    axis = figure.layout.xaxis
    assert list(axis.ticktext) == ["10,000", "100,000", "no search"]
    assert list(axis.tickvals) == [10_000, 100_000, 1000]
    handmade = cost_plot([cell("edm", 5, 0.2)], STYLE)
    assert handmade.layout.xaxis.ticktext[-1] == "no search"
    unknown = replace(cell("ays", 5, 0.15, search_nfe=10), search_evaluations=None)
    assert [trace.name for trace in cost_plot([unknown, cell("edm", 5, 0.2)], STYLE).data] == ["edm"]
