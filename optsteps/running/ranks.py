"""The processes of one run: who is which, and starting those that are to be started here.

Ranks have no collectives. They meet in the run's store: one that dies costs the shard it was at, which another
computes, and none of them waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
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


def place(runner: DictConfig) -> Rank:
    """The place of the process that a user, or a cluster's scheduler, started.

    Under SLURM (`srun`) every task is a rank. Elsewhere the command is started once on every node, told its number by
    NODE_RANK, and starts the other ranks of its node: `runner.devices` in all, or one for every GPU where that is
    "auto".

    Raises:
        ValueError: NODE_RANK does not fit `runner.num_nodes`, or a number of devices below 1.
    """
    if runner.launcher == "slurm":
        if not SLURMEnvironment.detect():
            raise ValueError("runner=slurm is for commands that srun starts; elsewhere choose runner=ddp, gpu or cpu")
        # by hand: Lightning's environment refuses srun --ntasks
        return Rank(*(int(os.environ[f"SLURM_{name}"]) for name in ("PROCID", "NTASKS", "LOCALID")))
    devices = max(1, torch.cuda.device_count()) if runner.devices == "auto" else int(runner.devices)
    node, nodes = LightningEnvironment().node_rank(), int(runner.num_nodes)
    if devices < 1 or not 0 <= node < nodes:
        raise ValueError(
            f"runner.devices={runner.devices}, runner.num_nodes={nodes} and NODE_RANK={node} do not go together: start "
            "the command on every node with NODE_RANK=0, 1, ..., and at least one device each"
        )
    return Rank(node * devices, nodes * devices, 0, devices - 1)


@contextmanager
def further_ranks(config: DictConfig, method: str, folder: Path, here: Rank) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The ranks that `here` is to start while the body runs; their output goes to ranks/ in `folder`.

    All of them end with this process, however it ends.
    """
    composed = folder / "ranks" / "config.yaml"
    if here.to_start > 0:
        write_atomically(composed, OmegaConf.to_yaml(config, resolve=True).encode())
    with ExitStack() as stack:
        ranks = []
        for local_rank in range(1, here.to_start + 1):
            rank = here.rank + local_rank
            log = stack.enter_context(open(folder / "ranks" / f"{rank}.log", "wb"))
            numbers = [str(number) for number in (rank, here.world_size, local_rank)]
            command = [sys.executable, "-m", "optsteps.running.ranks", str(composed), method, *numbers]
            ranks.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log))
        try:
            yield ranks
        finally:
            for process in ranks:
                process.kill()  # a suspended one would never hear that it is to terminate
                process.wait()


def lost(ranks: list[subprocess.Popen[bytes]], folder: Path, here: Rank) -> list[str]:
    """A sentence for every rank started here that has failed."""
    failed = {here.rank + number: process.returncode for number, process in enumerate(ranks, start=1) if process.poll()}
    return [
        f"rank {rank} ended early with exit status {status}; the others computed its shards "
        f"({folder / 'ranks' / f'{rank}.log'})"
        for rank, status in failed.items()
    ]


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent is gone, however it went
    os._exit(1)


def main() -> None:
    """One further rank: `python -m optsteps.running.ranks CONFIG METHOD RANK WORLD_SIZE LOCAL_RANK`."""
    from optsteps.running.runner import compute

    threading.Thread(target=_end_with_parent, daemon=True).start()
    path, method, *numbers = sys.argv[1:]
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    compute(config, method, Rank(*map(int, numbers)))


if __name__ == "__main__":
    main()
