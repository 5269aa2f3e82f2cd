"""The objective of a run: the number of which a sweeper looks for the best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig

from optsteps.text.suggestion import suggestion


def check_objective(options: DictConfig, figures: Mapping[str, bool | None] | None, steps: Sequence[int]) -> None:
    """Refuse an objective that the run will not have, before anything is sampled.

    Args:
        options: `objective` of the config.
        figures: those that the run will measure, and whether higher is better; None where only the run shows them.
        steps: its step counts.

    Raises:
        ValueError: there is no such figure or step count, the sweeper gets no number, or would look for the worst.
    """
    if options.figure is None:
        if options.direction is not None:
            raise ValueError("the sweeper needs a number of every job: give objective.figure=..., e.g. psnr")
        return
    if options.steps not in (None, *steps):
        raise ValueError(f"objective.steps={options.steps}, but the run has steps {list(steps)}")
    if figures is None:
        return
    if options.figure not in figures:
        raise ValueError(
            f"objective.figure={options.figure}, but the run has {', '.join(figures)}; or choose a metric"
            f"{suggestion(options.figure, figures)}"
        )
    _check_direction(options, figures[options.figure])


def objective(folder: Path, options: DictConfig) -> float:
    """The figure of a finished run's main method with `options.steps` steps, or its mean over all step counts for None.

    Raises:
        ValueError: as `check_objective`, of what the run measured.
    """
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = [row for row in metrics["rows"] if row["method"] == metrics["method"] and not row["oracle"]]
    chosen = [row["figures"] for row in rows if options.steps in (None, row["steps"])]
    measured = [{name: figure for name, figure in row.items() if figure["value"] is not None} for row in chosen]
    for figures in measured:
        directions = {name: figure["higher_is_better"] for name, figure in figures.items()}
        check_objective(options, directions, [row["steps"] for row in rows])
    return fmean(figures[options.figure]["value"] for figures in measured)


def _check_direction(options: DictConfig, higher_is_better: bool | None) -> None:
    right = "maximize" if higher_is_better else "minimize"
    if higher_is_better is not None and options.direction not in (None, right):
        raise ValueError(
            f"hydra.sweeper.direction={options.direction} would look for the worst {options.figure}; it takes {right}"
        )
