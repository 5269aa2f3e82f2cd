"""A run as a sweeper sees it: one number, of which it looks for the best."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from optsteps.running.objective import objective
from optsteps.running.run import run


def run_for_objective(config: DictConfig, folder: Path, method: str, command: str) -> float | None:
    """Run the experiment, as `run` does, and return what `config.objective` names; None where it names nothing."""
    rows = run(config, folder, method, command)
    return objective(folder, config.objective) if rows and config.objective.figure is not None else None
