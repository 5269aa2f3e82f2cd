"""Who starts the processes of a run, as the config and the environment tell before anything is loaded."""

from __future__ import annotations

import os

from omegaconf import DictConfig

# where torchrun, a user on several nodes, SLURM, LSF and MPI leave the number of a process or of its node
_NUMBERS = ("RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def is_divided(runner: DictConfig) -> bool:
    """Whether the run has several processes."""
    devices = runner.devices
    if devices == "auto":
        import torch

        devices = max(1, torch.cuda.device_count())
    return bool(devices * runner.num_nodes > 1)


def is_only_task() -> bool:
    """Whether SLURM started this process alone, as submitit starts a job, which then starts its ranks itself."""
    return os.environ.get("SLURM_NTASKS") == "1"


def started_by_launcher(runner: DictConfig) -> bool:
    """Whether this process is one of several of its run that somebody else starts: torchrun, SLURM, LSF, MPI, or a user
    on every node."""
    return any(name in os.environ for name in _NUMBERS) and not is_only_task() and is_divided(runner)


def started_as_helper(runner: DictConfig) -> bool:
    """Whether this process was started to help rank 0, which alone compares and reports."""
    return started_by_launcher(runner) and any(int(os.environ.get(name, 0)) > 0 for name in _NUMBERS)
