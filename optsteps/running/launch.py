"""The processes of one run: the number of this one, and the start of further ones.

Ranks have no collectives. They meet in the run's store: one that dies costs the shard it was at, which another
computes, and none of them waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from optsteps.storage.files import write_atomically


@dataclass(frozen=True)
class Rank:
    """A process among those of its run.

    Attributes:
        rank: its number; rank 0 compares and reports.
        world_size: how many there are, on all nodes.
        local_rank: its number on this node.
        to_start: how many more it starts on this node.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    to_start: int = 0


def this_rank(runner: DictConfig) -> Rank:
    """The rank of this process, which a user or a cluster's scheduler started.

    Under SLURM (`srun`) every task is a rank. Elsewhere the command is started once on every node, told its number by
    NODE_RANK, and starts the other ranks of its node: `runner.devices` in all, or one for every GPU where that is
    "auto".

    Raises:
        ValueError: NODE_RANK does not fit `runner.num_nodes`, or a number of devices below 1.
    """
    if runner.launcher == "slurm":
        from lightning.fabric.plugins.environments import SLURMEnvironment

        if not SLURMEnvironment.detect():
            raise ValueError(
                "runner=slurm is for commands that srun starts; elsewhere choose runner=all_gpus, gpu or cpu"
            )
        # by hand: Lightning's environment refuses srun --ntasks
        return Rank(*(int(os.environ[f"SLURM_{name}"]) for name in ("PROCID", "NTASKS", "LOCALID")))
    devices = max(1, torch.cuda.device_count()) if runner.devices == "auto" else int(runner.devices)
    # as Lightning reads them; GROUP_RANK is torchrun's
    node, nodes = int(os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", 0))), int(runner.num_nodes)
    if devices < 1 or not 0 <= node < nodes:
        raise ValueError(
            f"runner.devices={runner.devices}, runner.num_nodes={nodes} and NODE_RANK={node} do not go together: start "
            "the command on every node with NODE_RANK=0, 1, ..., and at least one device each"
        )
    return Rank(node * devices, nodes * devices, 0, devices - 1)


def module_path() -> dict[str, str]:
    """The environment variables by which another Python finds the same modules as this one (before Python 3.11, those
    of the current folder first)."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}


@contextmanager
def further_ranks(config: DictConfig, method: str, folder: Path, rank: Rank) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that `rank` is to start, while the body runs; their output goes to ranks/ in `folder`.

    All of them end with this process, however it ends.
    """
    composed = folder / "ranks" / "config.yaml"
    if rank.to_start > 0:
        write_atomically(composed, OmegaConf.to_yaml(config, resolve=True).encode())
    with ExitStack() as stack:
        processes = []
        for local_rank in range(1, rank.to_start + 1):
            number = rank.rank + local_rank
            log = stack.enter_context(open(folder / "ranks" / f"{number}.log", "wb"))
            numbers = [str(k) for k in (number, rank.world_size, local_rank)]
            command = [sys.executable, "-m", "optsteps.running.rank", str(composed), method, *numbers]
            environment = os.environ | module_path()
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment))
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()  # a suspended one would never hear that it is to terminate
                process.wait()


def failed_ranks(processes: list[subprocess.Popen[bytes]], folder: Path, rank: Rank) -> list[str]:
    """A sentence for every process started by `rank` that has failed."""
    return [
        f"rank {number} ended early with exit status {process.returncode}; the others computed its shards "
        f"({folder / 'ranks' / f'{number}.log'})"
        for number, process in enumerate(processes, start=rank.rank + 1)
        if process.poll()
    ]
