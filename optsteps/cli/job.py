"""One job of the command: in a folder of its own and, in a sweep, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from optsteps.cli.own_folder import run_in_own_folder
from optsteps.cli.sweep_job import run_unless_finished
from optsteps.running.launch import this_rank
from optsteps.running.objective import objective
from optsteps.running.run import results_key, run
from optsteps.running.version import code_version


def run_job(
    config: DictConfig, folder: Path, method: str, command: str, files: Mapping[Path, str], in_sweep: bool
) -> float | None:
    """Run the experiment of `config`.

    Args:
        config: resolved.
        folder: of the run.
        method: the main method's name.
        command: that repeats the run.
        files: that lie in the folder from the start, by their paths there.
        in_sweep: whether the job is one of a sweep, whose jobs lie beside `folder`.

    Returns:
        As `run_for_objective`.

    Raises:
        ValueError, OSError: with one paragraph that says what is wrong; of a job of a sweep, these are noted.
    """
    job = partial(run_for_objective, config, folder, method, command, _label() if in_sweep else "")
    if config.plan or this_rank(config.runner).rank > 0:  # it leaves nothing, or helps rank 0, whose folder it is
        return job()
    job = partial(run_in_own_folder, job, folder, config, method, files)
    if not in_sweep:
        return job()
    return run_unless_finished(config, folder, code_version(), job, partial(results_key, config, method))


def _label() -> str:
    """What tells the lines of a job of a sweep from those of the jobs beside it; empty where they come one by one."""
    hydra = HydraConfig.get()
    return "" if "BasicLauncher" in hydra.launcher["_target_"] else f"job {hydra.job.num}"


def run_for_objective(config: DictConfig, folder: Path, method: str, command: str, label: str = "") -> float | None:
    """Run the experiment and return the number that `config.objective` names, for a sweeper; None where it names none,
    or where this process only computes. Arguments as of `run`."""
    rows = run(config, folder, method, command, label)
    return objective(folder, config.objective) if rows and config.objective.figure is not None else None
