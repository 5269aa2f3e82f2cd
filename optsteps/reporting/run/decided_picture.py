"""Picture of how searches decided: the race of the candidates, and on its right the refinement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from optsteps.reporting.panels import COLUMNS, panels, to_png
from optsteps.reporting.plot_style import COLOURS, FAINT, INK
from optsteps.reporting.run.decided import Decided
from optsteps.text.escaping import matplotlib_text

# hand-made candidates beside the winner that are labelled, at most
_HAND_MADE = 2
# what is between two numbers of samples that do not touch, in doublings
_APART = 0.4
# between the race and a refinement, and between two iterates, in doublings of samples
_GAP, _ITERATE = 0.6, 0.35
# what a refinement takes at least, and what is left for the legend where there is none
_WIDTH = 1.6
# what is left above the lines for the names of the refinements, in margins
_NAMED = 8
# the winner's
_LINE: dict[str, Any] = {"color": COLOURS[0], "marker": "o", "zorder": 4}


def decided_png(decided: Mapping[str, Decided]) -> bytes | None:
    """dB over the winner of the race, on the same samples, against samples seen and then against the iterates of the
    refinement.

    A panel for each method and step count, a line for each candidate; a ring at what a refinement is judged by, filled
    if it is taken. None without a race.
    """
    races = [(name, n, one) for name, one in decided.items() for n in one.get("races", {})]
    if not races:
        return None
    alone = len({name for name, _, _ in races}) == 1
    titles = [f"{n} steps" if alone else f"{name}, {n} steps" for name, n, _ in races]
    figure, axes = panels(titles, (5.0, 3.8))
    drawn = []
    for axis, (_, n, one) in zip(axes, races, strict=True):
        race = one["races"][n]
        seen = [math.log2(part["samples"]) for part in race["rounds"]]
        drawn += _draw_race(axis, race, seen)
        drawn += _draw_refinements(axis, one.get("refinements", {}).get(n, []), seen[-1])
        # a number is left out where the next would touch it
        apart = [after - one > _APART for one, after in zip(seen, [*seen[1:], math.inf], strict=True)]
        named = [str(part["samples"]) if fits else "" for part, fits in zip(race["rounds"], apart, strict=True)]
        axis.set_xticks(seen, named)
        axis.set_xlabel("samples seen in the race", loc="left")
        axis.legend(loc="lower right", fontsize=8, facecolor="white", edgecolor="none", framealpha=1)
    low, high = min(drawn), max(drawn)
    margin = 0.06 * (high - low) or 1.0
    axes[0].set_ylim(low - margin, high + _NAMED * margin)
    for axis in axes[::COLUMNS]:
        axis.set_ylabel("dB over the winner of the race")
    return to_png(figure)


def _draw_race(axis: Axes, race: Mapping[str, Any], seen: Sequence[float]) -> list[float]:
    """Draw the lines of the candidates; returns the heights that the panel must show."""
    winner, *others = race["candidates"]
    style = dict(_LINE, lw=2.4, ms=4)
    axis.plot(seen, [0.0] * len(seen), **style, label=f"{_label(winner)}: the winner")
    # the next best, whoever it is, and the best hand-made ones
    hand_made = [one for one in others[1:] if one["hand_made"]][:_HAND_MADE]
    named, shown = [*others[:1], *hand_made], [0.0]
    for one in others:
        heights = [level - best for level, best in zip(one["levels"], winner["levels"], strict=False)]
        points = [(x, y) for x, y in zip(seen, heights, strict=False) if math.isfinite(y)]
        if not points:
            continue
        if one in named:
            colour = COLOURS[1 + named.index(one)]
            axis.plot(*zip(*points, strict=True), color=colour, lw=1.6, marker="o", ms=3.5, zorder=3, label=_label(one))
        else:
            axis.plot(*zip(*points, strict=True), color=FAINT, lw=0.8, marker=".", ms=3, alpha=0.5, zorder=2)
        # those that left after the first round may lie below the panel
        shown += [y for _, y in points] if one in named or len(points) > 1 else []
    return shown


def _draw_refinements(axis: Axes, refinements: Sequence[Mapping[str, Any]], race_end: float) -> list[float]:
    """Draw the iterates of refinements one after the other; returns the heights that the panel must show."""
    shown, end, kept, named = [0.0], race_end, (race_end, 0.0), list[str]()
    for one in refinements:
        moved = one["moved"].split(" and ")
        new, named = " and ".join(word for word in moved if word not in named), moved
        heights = [kept[1] + level - one["held"][0] for level in one["held"]]
        start, best = end + _GAP, one["best"]
        places = [start + _ITERATE * k for k in range(len(heights))]
        axis.plot([kept[0], start], [kept[1]] * 2, color=COLOURS[0], lw=1, ls=":", zorder=3)
        axis.plot(places, heights, **_LINE, lw=1.2, ms=4)
        filling = COLOURS[0] if one["taken"] else "white"
        axis.plot(places[best], heights[best], "o", ms=9, mfc=filling, mec=INK, zorder=5)
        end = max(places[-1], start + _WIDTH)
        axis.axvline(start - _GAP / 2, color=FAINT, lw=0.8, ls=":")
        axis.annotate(
            f"{new}: {'taken' if one['taken'] else 'not taken'}",
            (start - _GAP / 2, 1.0),
            (3, -4),
            xycoords=axis.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            rotation=90,
            fontsize=8,
            color=INK,
        )
        shown += [y for y in heights if math.isfinite(y)]
        kept = (places[best], heights[best]) if one["taken"] else (start, kept[1])
    axis.set_xlim(right=max(end, race_end + _WIDTH) + _GAP / 2)
    return shown


def _label(candidate: Mapping[str, Any]) -> str:
    return matplotlib_text(", ".join(candidate["names"]) + " (hand-made)" * candidate["hand_made"])
