"""A run as a sweeper sees it: one number, of which it looks for the best."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig

from optsteps.runner import run


def run_for_objective(
    config: DictConfig, folder: Path, method: str, command: str, direction: str | None
) -> float | None:
    """Run the experiment, as `run` does, and return what `config.objective` names; None where it names nothing.

    Args:
        direction: what the sweeper does with the number, minimize or maximize; None where it asks for none.

    Raises:
        ValueError: there is no such figure or step count, or the sweeper would look for the worst.
    """
    wanted = config.objective
    if direction is not None and wanted.figure is None:
        raise ValueError("the sweeper needs a number of every job: give objective.figure=..., e.g. psnr")
    rows = run(config, folder, method, command)
    if wanted.figure is None or not rows:
        return None
    return objective(folder, wanted.figure, wanted.steps, direction)


def objective(folder: Path, figure: str, steps: int | None, direction: str | None) -> float:
    """The figure of a run's main method with so many steps, or its mean over all step counts for None.

    Raises:
        ValueError: as `run_for_objective`.
    """
    found = json.loads((folder / "metrics.json").read_text())
    rows = [row for row in found["rows"] if row["method"] == found["method"] and not row["oracle"]]
    chosen = [row["figures"] for row in rows if steps in (None, row["steps"])]
    if not chosen:
        raise ValueError(f"objective.steps={steps}, but the run has steps {[row['steps'] for row in rows]}")
    for figures in chosen:
        measured = [name for name in figures if figures[name]["value"] is not None]
        if figure not in measured:
            raise ValueError(f"objective.figure={figure}, but the run has {', '.join(measured)}; or choose a metric")
    right = {True: "maximize", False: "minimize"}.get(chosen[0][figure]["higher_is_better"], direction)
    if direction not in (None, right):
        raise ValueError(f"hydra.sweeper.direction={direction} would look for the worst {figure}; it takes {right}")
    return fmean(figures[figure]["value"] for figures in chosen)
