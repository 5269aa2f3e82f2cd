"""Model card of a trained network: what it was made from, how, and its losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from optsteps.reporting.panels import legend, panels, to_png
from optsteps.reporting.plot_style import COLOURS
from optsteps.text.escaping import markdown


def model_card(facts: Mapping[str, str], history: Sequence[Mapping[str, float]], curve: str) -> str:
    """The card as Markdown.

    Args:
        facts: to be listed, by name; "name" is the heading.
        history: rows of `LossHistory`; the last value of every entry is listed.
        curve: file name of the loss curve.
    """
    latest = {name: row[name] for row in history for name in row if name != "step"}
    lines = [f"# {markdown(facts['name'])}", ""]
    lines += [f"- {name}: {markdown(str(value))}" for name, value in facts.items() if name != "name"]
    lines += [f"- last {name}: {value:.4g}" for name, value in latest.items()]
    return "\n".join([*lines, "", f"![loss curve]({curve})", ""])


def loss_curve_png(history: Sequence[Mapping[str, float]]) -> bytes:
    """Training and validation losses (log axis) against step, as PNG bytes.

    Args:
        history: records with "step" and "train/loss", "val/loss" or "val/loss/DECAY", that of the
            average with this decay; other entries are not drawn.
    """
    figure, (axis,) = panels([""], (6.0, 3.6))
    validated = dict.fromkeys(key for row in history for key in row if key.startswith("val/loss"))
    styles = {"train/loss": ("training", COLOURS[1], "")}
    for key, colour in zip(validated, itertools.cycle((COLOURS[0], *COLOURS[2:])), strict=False):
        decay = key.removeprefix("val/loss").removeprefix("/")
        styles[key] = (f"EMA {decay}" if decay else "validation", colour, "o")
    for key, (label, colour, marker) in styles.items():
        points = [(row["step"], row[key]) for row in history if math.isfinite(row.get(key, math.nan)) and row[key] > 0]
        if points:
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, linewidth=1.6, label=label)
    axis.set(yscale="log", xlabel="step", ylabel="loss")
    legend(figure, [axis])
    return to_png(figure)
