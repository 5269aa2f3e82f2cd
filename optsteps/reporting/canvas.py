"""What the figures share: panels, one look per method, a log axis for noise levels, PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from optsteps.comparison import Row
from optsteps.reporting.tables import TEACHER
from optsteps.text.escaping import matplotlib_text

INK, FAINT = "#222222", "#8a8a8a"
# Okabe and Ito's colours for all kinds of sight, without the yellow; the first is the main method's
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":", "-.")
COLUMNS = 3


class Look(NamedTuple):
    """How a method is drawn."""

    colour: str
    marker: str
    dashes: str
    width: float
    zorder: float


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method by order of first appearance; the first is the most salient."""
    names = [name for name in dict.fromkeys(methods) if name != TEACHER]
    return {
        name: Look(
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
            2.4 if i == 0 else 1.4,
            4 if i == 0 else 3 - i / 100,
        )
        for i, name in enumerate(names)
    }


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


class LevelAxis:
    """Noise levels on a log axis, with places at its ends for 0 and infinity, which have none.

    Args:
        levels: all noise levels that will be drawn.
    """

    def __init__(self, levels: Tensor) -> None:
        inside = levels[torch.isfinite(levels) & (levels > 0)]
        low, high = (inside.min().item(), inside.max().item()) if len(inside) else (1.0, 1.0)
        self.floor, self.ceiling = low / 3, high * 3
        self.zero, self.infinity = bool((levels == 0).any()), bool(levels.isinf().any())
        # of the drawn, with a margin
        self.limits = (self.floor if self.zero else low) / 1.5, (1.6 * self.ceiling if self.infinity else high) * 1.5

    def place(self, levels: Tensor) -> Tensor:
        """Where each level is drawn."""
        return levels.clamp(self.floor, self.ceiling)

    def hollow(self, levels: Tensor) -> Tensor:
        """Which levels are drawn at an end that stands for something else."""
        return (levels == 0) | levels.isinf()

    def mark(self, axis: Axes, direction: Literal["x", "y"]) -> None:
        """Dotted lines that say which end is noise level 0 and which infinity."""
        ends = [(self.zero, self.floor, "noise level 0"), (self.infinity, self.ceiling, "infinite noise level")]
        for present, place, name in ends:
            if not present:
                continue
            if direction == "y":
                axis.axhline(place, color=FAINT, linestyle=":", linewidth=1)
                top = place == self.ceiling
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


def steps_of(rows: Sequence[Row]) -> list[int]:
    """The step counts of the rows, without the teacher's."""
    return sorted({row.steps for row in rows if row.method != TEACHER})


def to_png(figure: Figure, dpi: int = 130) -> bytes:
    """PNG bytes, the same for the same figure."""
    FigureCanvasAgg(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
