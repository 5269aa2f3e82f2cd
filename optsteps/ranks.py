"""Further processes of one run: they compute shards of the run's store beside it and leave everything else to it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from optsteps.experiment import Experiment, launched
from optsteps.files import write_atomically


@contextmanager
def further_ranks(config: DictConfig, method: str, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Ranks 1 ... `config.runner.processes` - 1 while the body, rank 0, runs; their output goes to ranks/ in `folder`.

    There are no collectives: ranks meet in the store alone. One that dies costs the shard it was at, which another
    computes; all of them end with this process, however it ends.
    """
    world_size = config.runner.processes
    composed = folder / "ranks" / "config.yaml"
    if world_size > 1:
        write_atomically(composed, OmegaConf.to_yaml(config, resolve=True).encode())
    with ExitStack() as stack:
        ranks = []
        for rank in range(1, world_size):
            log = stack.enter_context(open(folder / "ranks" / f"{rank}.log", "wb"))
            command = [sys.executable, "-m", "optsteps.ranks", str(composed), method, str(rank)]
            ranks.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(rank))
            )
        try:
            yield ranks
        finally:
            for process in ranks:
                process.terminate()
                process.wait()


def lost(ranks: list[subprocess.Popen[bytes]], folder: Path) -> list[str]:
    """A sentence for every rank that has failed."""
    failed = {rank: process.returncode for rank, process in enumerate(ranks, start=1) if process.poll()}
    return [
        f"rank {rank} ended early with exit status {status}; the others computed its shards "
        f"({folder / 'ranks' / f'{rank}.log'})"
        for rank, status in failed.items()
    ]


def _environment(rank: int) -> dict[str, str]:
    """This process's, with the GPU of that number alone where there are GPUs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": gpus[rank % len(gpus)]} if gpus else dict(os.environ)


def _end_with_parent() -> None:
    sys.stdin.read()  # returns when the parent is gone, however it went
    os._exit(1)


def main() -> None:
    """One further rank: `python -m optsteps.ranks CONFIG METHOD RANK`."""
    from optsteps.runner import compute

    threading.Thread(target=_end_with_parent, daemon=True).start()
    path, method, rank = sys.argv[1:]
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    compute(Experiment.composed(config, launched(config).device, method), int(rank))


if __name__ == "__main__":
    main()
