"""What auto reaches for the evaluations that it may spend, over runs of one step count each with method.budget set.

    python experiments/auto/budget_table.py outputs/auto_budget > experiments/auto/budget.md

reads every metrics.json and config.yaml below the folder, and draws budget.png beside this script.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from optsteps.reporting.markdown import markdown_lines
from optsteps.reporting.panels import to_png
from optsteps.reporting.plot_style import COLOURS, INK


class Run(NamedTuple):
    """What one run measured: PSNR in dB, evaluations of the search."""

    spent: int
    psnr: float
    hand_made: float
    oss_few: float
    oss_spent: int
    better: bool


def read(metrics: dict[str, Any]) -> Run:
    rows = {row["method"]: row for row in metrics["rows"]}
    psnr = {name: row["figures"]["psnr"]["value"] for name, row in rows.items() if "psnr" in row["figures"]}
    verdicts = {v["rival"]: v["verdict"] for v in metrics["verdicts"] if v["figure"] == "psnr"}
    formulas = {name: value for name, value in psnr.items() if not name.startswith(("auto", "oss"))}
    best = max(formulas, key=lambda name: formulas[name])
    oss = rows["oss_few"]["search_evaluations"]
    return Run(
        rows["auto"]["search_evaluations"],
        psnr["auto"],
        formulas[best],
        psnr["oss_few"],
        oss,
        verdicts[best] == "better",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    found = defaultdict[tuple[int, int], list[Run]](list)
    for path in sorted(parser.parse_args().folder.rglob("metrics.json")):
        config = OmegaConf.load(path.with_name("config.yaml"))
        found[config.nfe[0], config.method.budget].append(read(json.loads(path.read_text())))
    table = []
    for (nfe, budget), runs in sorted(found.items()):
        mean = Run(*(fmean(values) for values in zip(*runs, strict=True)))  # type: ignore[arg-type]
        better = f"{sum(run.better for run in runs)} of {len(runs)}"
        numbers = [f"{number:.2f}" for number in (mean.psnr, mean.hand_made, mean.oss_few)]
        table.append([f"{nfe}", f"{budget:,}", f"{mean.spent:,.0f}", *numbers, f"{mean.oss_spent:,.0f}", better])
    heads = ["NFE", "budget", "spent", "auto, dB", "best formula", "oss_few", "it spent", "better than the formula"]
    print(markdown_lines(heads, table, left=0))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for colour, nfe in zip(COLOURS, sorted({nfe for nfe, _ in found}), strict=False):
        points = [
            [fmean(r.spent for r in runs), fmean(r.psnr for r in runs)]
            for (n, _), runs in sorted(found.items())
            if n == nfe
        ]
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=f"auto, {nfe} NFE")
        rival = [run for (n, _), runs in found.items() if n == nfe for run in runs]
        axes.axhline(fmean(r.hand_made for r in rival), color=colour, linestyle=":", label=f"best formula, {nfe} NFE")
    axes.set(xscale="log", xlabel="network evaluations of the search", ylabel="PSNR to the teacher, dB")
    axes.tick_params(colors=INK)
    axes.legend()
    Path(__file__).with_name("budget.png").write_bytes(to_png(figure))


if __name__ == "__main__":
    main()
