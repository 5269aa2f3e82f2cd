"""Wins, draws and losses of every method against the runs' main one, and quality against the cost of the search.

    python experiments/rivals/rivals_table.py SWEEP_FOLDER

prints the tables and draws quality_and_cost.png into SWEEP_FOLDER.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optsteps.metrics.statistics import Interval
from optsteps.reporting.markdown import NOTHING, markdown_lines
from optsteps.reporting.number_format import number_format
from optsteps.reporting.panels import to_png
from optsteps.reporting.plot_style import COLOURS, FAINT, INK
from optsteps.reporting.sweep.run_rows import LeftOutWarning, RunRow
from optsteps.reporting.sweep.table_script import field, students, table_script
from optsteps.text.escaping import markdown, matplotlib_text

PICTURE = "quality_and_cost.png"
# of the distances to the data the first that a run has
DISTANCES = ("fid", "sliced_wasserstein")
# dB that a rival may be behind before its cell is bold
NEAR = 0.3
FAMILIES = {
    "auto": ("auto",),
    "OSS": ("oss",),
    "paths on the teacher": ("path", "gits", "boss", "olss"),
    "monitors": ("curvature", "art", "solver_monitor", "tors", "entropic", "crs"),
    "error bounds": ("dm", "hso", "gaussian"),
    "AYS": ("ays",),
    "hand-made": ("",),
}


class Judged(NamedTuple):
    """A rival against the run's main method at one NFE and in one figure: the difference, rival minus main method, and
    its outcome."""

    model: str
    solver: str
    budget: float
    main: str
    rival: str
    figure: str
    difference: Interval
    outcome: str


def judged(rows: Sequence[RunRow]) -> list[Judged]:
    """All of them.

    Raises:
        ValueError: there are none.
    """
    outcomes = {"better": "win", "worse": "loss", "no better": "draw"}
    by_run: dict[Path, list[RunRow]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    found = []
    for row, *others in by_run.values():
        budgets = {one.fields["steps"]: one.fields["budget"] for one in (row, *others)}
        for held in row.verdicts:
            v = held.turned()
            place = field(row, "model.name"), field(row, "solver.name"), budgets.get(v.steps, v.nfe)
            found.append(Judged(*place, v.rival, v.method, v.figure, v.difference, outcomes[v.verdict]))
    if not found:
        raise ValueError("no run compares its main method with anything; repeat the command of the table")
    if len(mains := {one.main for one in found}) > 1:
        raise ValueError(f"the runs have several main methods, {', '.join(sorted(mains))}: give the folder of one")
    return found


def evaluations(row: RunRow) -> float:
    """Network evaluations of the search, of all its samples together."""
    return row.search_evaluations or 0.0


def tally(comparisons: Sequence[Judged]) -> str:
    """Wins, draws and losses, and the mean difference."""
    if not comparisons:
        return NOTHING
    counts = Counter(one.outcome for one in comparisons)
    differences = [one.difference.value for one in comparisons if math.isfinite(one.difference.value)]
    mean = number_format(comparisons[0].figure).number(fmean(differences), "+") if differences else NOTHING
    return f"{counts['win']} / {counts['draw']} / {counts['loss']} ({mean})"


def tally_table(
    comparisons: Sequence[Judged], columns: Callable[[Judged], str], costs: Mapping[str, float] | None = None
) -> str:
    """Lines of rivals, best first, a tally in every column, and what the searches cost."""
    if not comparisons:
        warnings.warn("no run has the figures of one of the tables", LeftOutWarning, stacklevel=2)
        return "(no run has such a figure)"
    direction = 1 if number_format(comparisons[0].figure).higher_is_better else -1
    places = list(dict.fromkeys(map(columns, comparisons)))
    lines: dict[str, list[Judged]] = {}
    for one in comparisons:
        lines.setdefault(one.rival, []).append(one)

    def rank(rival: str) -> tuple[float, float]:
        outcomes = Counter(one.outcome for one in lines[rival])
        share = (outcomes["win"] - outcomes["loss"]) / len(lines[rival])
        return -share, -direction * fmean(one.difference.value for one in lines[rival])

    def cost(rival: str) -> list[str]:
        return [] if costs is None else [f"{costs[rival]:,.0f}" if rival in costs else NOTHING]

    body = [
        [markdown(rival), *(tally([one for one in lines[rival] if columns(one) == p]) for p in places), *cost(rival)]
        for rival in sorted(lines, key=rank)
    ]
    heads = ["method", *map(markdown, places), *([] if costs is None else ["search evaluations"])]
    return markdown_lines(heads, body, left=1)


def behind_table(comparisons: Sequence[Judged], rival: str) -> str:
    """The rival's mean difference to the main method by model, solver and NFE, bold if more than `NEAR` behind."""
    cells: dict[tuple[str, str], dict[float, list[float]]] = {}
    for one in comparisons:
        if one.rival == rival:
            cells.setdefault((one.model, one.solver), {}).setdefault(one.budget, []).append(one.difference.value)
    budgets = sorted({budget for line in cells.values() for budget in line})

    def text(values: Sequence[float]) -> str:
        shown = f"{fmean(values):+.2f}" if values else NOTHING
        return f"**{shown}**" if values and fmean(values) < -NEAR else shown

    body = [
        [*map(markdown, place), *(text(line.get(budget, [])) for budget in budgets)] for place, line in cells.items()
    ]
    return markdown_lines(["model", "solver", *(f"{budget:g} NFE" for budget in budgets)], body, left=2)


def draw(rows: Sequence[RunRow]) -> Figure:
    """A panel for every model and solver: mean PSNR over budgets and seeds against the evaluations of the search."""
    models, solvers = (list(dict.fromkeys(field(row, name) for row in rows)) for name in ("model.name", "solver.name"))
    figure = Figure(figsize=(3.6 * len(solvers), 3.1 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(solvers), squeeze=False, sharex=True)
    for model, line in zip(models, axes, strict=True):
        for solver, axis in zip(solvers, line, strict=True):
            here = [r for r in rows if (field(r, "model.name"), field(r, "solver.name")) == (model, solver)]
            if not here:  # not run, or not yet
                axis.set_axis_off()
                continue
            axis.set_title(matplotlib_text(f"{model}, {solver}"), fontsize=10, color=INK)
            _draw_panel(axis, here)
        line[0].set_ylabel("mean PSNR (dB)", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("evaluations of the search, all samples", fontsize=9)
    entries = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _draw_panel(axis: Axes, rows: Sequence[RunRow]) -> None:
    points = {name: _point(of) for name, of in _by_method(rows).items() if not name.endswith("_without_orders")}
    colours = dict(zip(FAMILIES, (*COLOURS[: len(FAMILIES) - 1], FAINT), strict=True))
    least = min((cost for cost, _ in points.values() if cost > 0), default=10.0) / 10
    for family, colour in colours.items():
        shown = [max(points[name][0], least) for name in points if _family(name) == family]
        values = [points[name][1] for name in points if _family(name) == family]
        if shown:
            axis.scatter(shown, values, s=22, color=colour, label=family, zorder=3)
    best = -math.inf
    for name, (cost, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if value > best:  # nothing that is as cheap is better
            best = value
            place = max(cost, least), value
            axis.annotate(
                matplotlib_text(name), place, (0, 5), textcoords="offset points", fontsize=7, ha="center", color=INK
            )
    # few samples of the worst schedules would leave no room to the others
    values = sorted(value for _, value in points.values())
    axis.set_ylim(bottom=values[len(values) // 5] - 1)
    axis.set_xscale("log")
    axis.axvline(least * 3, color=FAINT, linestyle=":", linewidth=1)
    where = {"xycoords": axis.get_xaxis_transform(), "textcoords": "offset points"}
    axis.annotate("no search", (least, 0), (-6, 3), fontsize=7, ha="left", color=FAINT, **where)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(which="both", labelsize=8, colors=INK)
    axis.grid(color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)


def _by_method(rows: Iterable[RunRow]) -> dict[str, list[RunRow]]:
    found: dict[str, list[RunRow]] = {}
    for row in rows:
        found.setdefault(row.fields["method"], []).append(row)
    return found


def _point(rows: Sequence[RunRow]) -> tuple[float, float]:
    """The mean cost of the searches and the mean PSNR."""
    return fmean(map(evaluations, rows)), fmean(row.intervals["psnr"].value for row in rows)


def _family(method: str) -> str:
    return next(family for family, names in FAMILIES.items() if any(method.startswith(name) for name in names))


@table_script(__doc__, "SWEEP_FOLDER")
def main(rows: Sequence[RunRow]) -> None:
    comparisons = judged(rows)
    rivals = [row for row in students(rows) if not row.fields["oracle"]]
    costs = {name: fmean(map(evaluations, of)) for name, of in _by_method(rivals).items()}
    psnr = [one for one in comparisons if one.figure == "psnr"]
    distances = [one for one in comparisons if one.figure in DISTANCES]
    main = comparisons[0].main
    seeds = ", ".join(map(str, sorted({field(row, "seed") for row in rows})))
    print(f"Wins / draws / losses against `{main}`, counted over budgets and seeds by each run's paired 95 % interval,")
    print(f"and in brackets the mean difference. Seeds: {seeds}. `{main}` took {costs[main]:,.0f} evaluations.")
    print("\n**All models: nearness to the teacher (PSNR, dB) by solver**\n")
    print(tally_table(psnr, lambda one: one.solver, costs))
    for model in dict.fromkeys(one.model for one in psnr):
        print(f"\n**{markdown(model)}: nearness to the teacher (PSNR, dB) by solver**\n")
        print(tally_table([one for one in psnr if one.model == model], lambda one: one.solver))
    for figure in dict.fromkeys(one.figure for one in distances):
        print(f"\n**Distance to the data ({number_format(figure).label}; a win is a lesser one) by model**\n")
        print(tally_table([one for one in distances if one.figure == figure], lambda one: one.model))
    for rival in ("path", "oss_full", "oss_64", "auto_quarter", "auto_free", "auto_weights"):
        if any(one.rival == rival for one in psnr):
            print(f"\n**{rival} minus {main}, dB of PSNR; bold: more than {NEAR} dB behind**\n")
            print(behind_table(psnr, rival))
    drawn = [row for row in rivals if "psnr" in row.intervals]
    if drawn:
        Path(os.path.commonpath([row.run.parent for row in rows]), PICTURE).write_bytes(to_png(draw(drawn)))


if __name__ == "__main__":
    main()
