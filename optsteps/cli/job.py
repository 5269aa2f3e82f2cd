"""One job of the command: in a folder of its own and, in a sweep, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from optsteps.cli.own_folder import run_in_own_folder
from optsteps.cli.sweep_job import run_unless_finished
from optsteps.running.launch import Rank, launch
from optsteps.running.objective import objective
from optsteps.running.run import results_key, run, show_plan
from optsteps.running.share import compute
from optsteps.running.started import started_as_helper, started_by_launcher
from optsteps.running.version import code_version


def run_job(
    config: DictConfig, folder: Path, method: str, command: str, files: Mapping[Path, str], in_sweep: bool
) -> float | None:
    """Run the experiment of `config`, or this process's part of it.

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
    helps = started_as_helper(config.runner)
    if config.plan:
        if not helps:
            show_plan(config, method)
        return None
    log = _logging()
    job = partial(run_for_objective, config, folder, method, command, _label() if in_sweep else "", log)
    if in_sweep and started_by_launcher(config.runner):
        raise ValueError(
            "a sweep starts the processes of its jobs itself: start it by one process alone, without torchrun or srun, "
            f"and with runner.devices={config.runner.devices}"
        )
    if helps:  # rank 0, whose folder it is
        return job()
    job = partial(run_in_own_folder, job, folder, config, method, files)
    if not in_sweep:
        return job()
    return run_unless_finished(config, folder, code_version(), job, partial(results_key, config, method), log)


def _label() -> str:
    """What tells the lines of a job of a sweep from those of the jobs beside it; empty where they come one by one."""
    hydra = HydraConfig.get()
    return "" if "BasicLauncher" in hydra.launcher["_target_"] else f"job {hydra.job.num}"


def _logging() -> Callable[[], None]:
    """Sets the logging of this job up in another process."""
    hydra = HydraConfig.get()
    return partial(configure_log, DictConfig(OmegaConf.to_container(hydra.job_logging, resolve=True)), hydra.verbose)


def run_for_objective(
    config: DictConfig, folder: Path, method: str, command: str, label: str, log: Callable[[], None]
) -> float | None:
    """Run the experiment in all its processes, and return the number that `config.objective` names, for a sweeper; None
    where it names none, or where this process only helps. `log` sets logging up; other arguments as of `run`."""
    return launch(config.runner, partial(_run_rank, config, folder, method, command, label, log), folder / "ranks")


def _run_rank(
    config: DictConfig, folder: Path, method: str, command: str, label: str, log: Callable[[], None], rank: Rank
) -> float | None:
    if rank.number > 0:
        compute(config, method, rank)
        return None
    if rank.world_size > 1:
        log()
    run(config, folder, method, command, rank, label)
    return objective(folder, config.objective) if config.objective.figure is not None else None
