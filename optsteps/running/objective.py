"""The one number of a run that a sweeper looks for the best of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig

from optsteps.text.suggestion import suggestion


def check_objective(wanted: DictConfig, figures: Mapping[str, bool | None] | None, steps: Sequence[int]) -> None:
    """Refuse, before anything is sampled, an objective that the run will not have.

    Args:
        wanted: `objective` of the config.
        figures: those that the run will measure, and whether higher is better; None where only the run tells.
        steps: its step counts.

    Raises:
        ValueError: there is no such figure or step count, the sweeper gets no number, or would look for the worst.
    """
    if wanted.figure is None:
        if wanted.direction is not None:
            raise ValueError("the sweeper needs a number of every job: give objective.figure=..., e.g. psnr")
        return
    if wanted.steps not in (None, *steps):
        raise ValueError(f"objective.steps={wanted.steps}, but the run has steps {list(steps)}")
    if figures is None:
        return
    if wanted.figure not in figures:
        raise ValueError(
            f"objective.figure={wanted.figure}, but the run has {', '.join(figures)}; or choose a metric"
            f"{suggestion(wanted.figure, figures)}"
        )
    _check_direction(wanted, figures[wanted.figure])


def objective(folder: Path, wanted: DictConfig) -> float:
    """The figure of a finished run's main method with `wanted.steps` steps, or its mean over all step counts for None.

    Raises:
        ValueError: as `check_objective`, of what the run measured.
    """
    found = json.loads((folder / "metrics.json").read_text())
    rows = [row for row in found["rows"] if row["method"] == found["method"] and not row["oracle"]]
    chosen = [row["figures"] for row in rows if wanted.steps in (None, row["steps"])]
    measured = [{name: one for name, one in figures.items() if one["value"] is not None} for figures in chosen]
    for figures in measured:
        directions = {name: one["higher_is_better"] for name, one in figures.items()}
        check_objective(wanted, directions, [row["steps"] for row in rows])
    return fmean(figures[wanted.figure]["value"] for figures in measured)


def _check_direction(wanted: DictConfig, higher_is_better: bool | None) -> None:
    right = "maximize" if higher_is_better else "minimize"
    if higher_is_better is not None and wanted.direction not in (None, right):
        raise ValueError(
            f"hydra.sweeper.direction={wanted.direction} would look for the worst {wanted.figure}; it takes {right}"
        )
