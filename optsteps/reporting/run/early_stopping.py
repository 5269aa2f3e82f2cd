"""Curve that AYS stops on: its criterion along the walks of the descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from optsteps.methods.base import SearchResult
from optsteps.reporting.panels import COLUMNS, legend, panels, to_png
from optsteps.reporting.plot_style import INK, looks
from optsteps.text.escaping import matplotlib_text

# of one search and step count: "walk", the start and the sweeps of every schedule judged; "klub" and "criterion"
# of each; "stop", the number of the schedule chosen
Curve = Mapping[str, Any]


def stopping_curves(searches: Mapping[str, SearchResult]) -> dict[str, dict[int, Curve]]:
    """The curves of all searches that judged the schedules on their way, by method and step count."""
    return {
        method: {
            n: {
                "walk": [list(step) for step in result.evidence["walk"][n]],
                "klub": result.evidence["klub"][n].tolist(),
                "criterion": criterion.tolist(),
                "stop": result.evidence["stop"][n],
            }
            for n, criterion in result.evidence["criterion"].items()
        }
        for method, result in searches.items()
        if "criterion" in result.evidence
    }


def stopping_png(curves: Mapping[str, Curve]) -> bytes:
    """Criterion (log axis where all are positive) against sweep, a panel for each curve by its title, a line for each
    start; a ring at the schedule chosen."""
    figure, axes = panels(list(curves), (4.2, 3.2))
    style = looks([start for curve in curves.values() for start, _ in curve["walk"]])
    positive = all(value > 0 for curve in curves.values() for value in curve["criterion"])
    for axis, curve in zip(axes, curves.values(), strict=True):
        points = list(zip(curve["walk"], curve["criterion"], strict=True))
        for start, look in style.items():
            line = [(sweeps, value) for (name, sweeps), value in points if name == start]
            if line:
                axis.plot(
                    *zip(*line, strict=True),
                    look.dashes,
                    color=look.colour,
                    marker=look.marker,
                    ms=3,
                    label=matplotlib_text(start),
                )
        (_, chosen), least = points[curve["stop"]]
        axis.plot([chosen], [least], "o", ms=11, mfc="none", color=INK)
        axis.set(xlabel="sweeps over the schedule", yscale="log" if positive else "linear")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("criterion (least is best)")
    legend(figure, axes)
    return to_png(figure)
