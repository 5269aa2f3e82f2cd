"""Panels of a matplotlib figure, what is drawn in them, and the figure as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from optsteps.reporting.plot_style import FAINT, INK, LevelScale, Look
from optsteps.text.escaping import matplotlib_text

COLUMNS = 3


def panels(titles: Sequence[str], size: tuple[float, float], columns: int = COLUMNS) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel each, `columns` to a row at most, all of the same y axis."""
    across = min(len(titles), columns)
    down = -(-len(titles) // across)
    figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
    for spare in axes[len(titles) :]:
        spare.remove()
    for axis, title in zip(axes, titles, strict=False):
        axis.set_title(matplotlib_text(title), fontsize=10, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(which="both", labelsize=9, colors=INK)
        axis.grid(color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes[: len(titles)]


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend below all panels, an entry for each label that any of them has."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if entries:
        columns = max(1, min(len(entries), int(figure.get_figwidth() / 1.4)))
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )


def mark_ends(axis: Axes, direction: Literal["x", "y"], scale: LevelScale) -> None:
    """Dotted lines that say which end of the scale stands for noise level 0 and which for infinity."""
    ends = [(scale.zero, scale.floor, "noise level 0"), (scale.infinity, scale.ceiling, "infinite noise level")]
    for present, place, name in ends:
        if not present:
            continue
        if direction == "y":
            axis.axhline(place, color=FAINT, linestyle=":", linewidth=1)
            top = place == scale.ceiling
            axis.annotate(
                name,
                (1.0 if top else 0.0, place),
                (-3 if top else 3, 3),
                xycoords=axis.get_yaxis_transform(),
                textcoords="offset points",
                ha="right" if top else "left",
                fontsize=8,
                color=FAINT,
            )
        else:
            axis.axvline(place, color=FAINT, linestyle=":", linewidth=1)
            axis.annotate(
                name,
                (place, 0.0),
                (-3, 4),
                xycoords=axis.get_xaxis_transform(),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="bottom",
                fontsize=8,
                color=FAINT,
            )


def draw_path(axis: Axes, x: Tensor, y: Tensor, hollow: Tensor, label: str, look: Look) -> None:
    """A line with a marker at every point, without filling where `hollow`."""
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5.5, "zorder": look.zorder}
    axis.plot(x, y, linestyle=look.dashes, linewidth=look.width, label=matplotlib_text(label), **style)
    axis.plot(x[hollow], y[hollow], linestyle="none", markerfacecolor="white", **style)


def to_png(figure: Figure, dpi: int = 130) -> bytes:
    """PNG bytes, the same for the same figure."""
    FigureCanvasAgg(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
