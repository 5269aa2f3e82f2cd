"""The processes of one run. Lightning starts them, or finds that torchrun, SLURM, LSF or MPI did, and numbers them.

A run of one process has no process group, and on a CPU it does not load Lightning.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from optsteps.running.device import only_device, set_threads
from optsteps.running.started import is_divided, is_only_task
from optsteps.running.watch import Watch
from optsteps.storage.files import write_atomically
from optsteps.text.terminal import say

if TYPE_CHECKING:
    from lightning import Fabric

T = TypeVar("T")

# the file with what a rank that Lightning started says of another one
_LOSS = "lost.txt"
_GOES_ON = "the same command goes on from the finished shards"


@dataclass(frozen=True)
class Rank:
    """A process among those of its run.

    Attributes:
        device: the one that it computes on.
        number: of the process; rank 0 compares and reports.
        world_size: how many processes there are.
        board: key-value store of the process group; None where there is one process.
    """

    device: torch.device
    number: int = 0
    world_size: int = 1
    board: dist.Store | None = None


def only_rank(runner: DictConfig) -> Rank:
    """This process, where it is the only one.

    Raises:
        ValueError: there is no such device.
    """
    set_threads(runner)
    return Rank(only_device(runner))


def launch(runner: DictConfig, run: Callable[[Rank], T], logs: Path) -> T:
    """Call `run` in every process of the run.

    Args:
        runner: of the config.
        run: can be pickled, as can what it returns.
        logs: folder for the output of the ranks that Lightning starts, all but rank 0.

    Returns:
        What `run` returned in rank 0; in a process that a launcher started, what it returned there.

    Raises:
        ValueError: there are no such devices, or a rank was lost; the message names it and its log.
        Exception: the error of rank 0.
    """
    if not is_divided(runner):
        return run(only_rank(runner))
    fabric, starts = _fabric(runner)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _meet_at_agent(runner.timeout)
    if starts:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / _LOSS).unlink(missing_ok=True)
    before = dict(os.environ)
    try:
        value, error, cause = fabric.launch(_in_rank, run, runner, logs if starts else None)  # type: ignore[arg-type]
    except (ProcessExitedException, ProcessRaisedException) as loss:
        first = fabric.node_rank * fabric.strategy.num_processes  # type: ignore[attr-defined]
        raise ValueError(_sentence(loss, first, logs)) from None
    finally:  # Lightning leaves its port there, which the next run would take
        os.environ.clear()
        os.environ.update(before)
    if error is not None:
        raise error from cause
    return value  # type: ignore[no-any-return]


def _fabric(runner: DictConfig) -> tuple[Fabric, bool]:
    """Lightning's Fabric for this run, and whether it starts the processes of this node itself."""
    import lightning as L
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.fabric.strategies import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    def fabric(start: Any) -> Fabric:
        # nothing but a few words goes through the group, so it takes no memory of a GPU
        strategy = DDPStrategy(
            start_method=start, process_group_backend="gloo", timeout=timedelta(seconds=runner.timeout)
        )
        return L.Fabric(
            accelerator=runner.accelerator,
            devices=runner.devices,
            num_nodes=runner.num_nodes,
            strategy=strategy,
            plugins=[LightningEnvironment()] if is_only_task() else None,
        )

    try:
        of_launcher = fabric("popen")
        if of_launcher.strategy.cluster_environment.creates_processes_externally:  # type: ignore[attr-defined]
            return of_launcher, False
        return fabric("spawn"), True  # which hands `run` over, where "popen" would repeat the command line
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ValueError(
            f"Lightning cannot launch runner.accelerator={runner.accelerator}, runner.devices={runner.devices}, "
            f"runner.num_nodes={runner.num_nodes} here: {error}"
        ) from error


def _meet_at_agent(timeout: float) -> None:
    """Form the process group in the store of torchrun's agent, which keeps what ranks wrote there before a restart.

    A rank that read such an address would fail. So rank 0 gives a new prefix to every rank that says hello, until all
    have heard it; what it says to those of before reaches nobody.

    Raises:
        ValueError: not all ranks are there in time.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    within = timedelta(seconds=timeout)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=within)
    me, until = uuid4().hex, time.monotonic() + timeout
    if rank > 0:
        store.set(f"hello/{rank}", me)
    others = [f"hello/{other}" for other in range(1, world_size)]
    while store.add(f"heard/{me}", 0) < world_size - 1 if rank == 0 else not store.check([f"prefix/{me}"]):
        if time.monotonic() > until:
            raise ValueError(f"rank {rank} did not meet all other ranks within runner.timeout={timeout:g} s")
        for hello in others if rank == 0 else ():
            if store.check([hello]):
                store.set(f"prefix/{store.get(hello).decode()}", me)
        time.sleep(0.05)
    prefix = me if rank == 0 else store.get(f"prefix/{me}").decode()
    if rank > 0:
        store.add(f"heard/{prefix}", 1)
    own = dist.PrefixStore(prefix, store)
    dist.init_process_group("gloo", store=own, rank=rank, world_size=world_size, timeout=within)


def _in_rank(
    fabric: Fabric, run: Callable[[Rank], T], runner: DictConfig, logs: Path | None
) -> tuple[T | None, Exception | None, BaseException | None]:
    """`run` in this rank; what it returned or, in rank 0, the error that it raised and the cause of this error."""
    set_threads(runner)
    number, world_size = fabric.global_rank, fabric.world_size
    if logs is not None and number > 0:
        _send_output(logs / f"{number}.log")
    token = fabric.broadcast(uuid4().hex)  # after a restart there is another one, and nothing of before counts
    environment = fabric.strategy.cluster_environment  # type: ignore[attr-defined]

    def board() -> dist.Store:
        timeout = timedelta(seconds=runner.timeout)
        store = dist.TCPStore(environment.main_address, environment.main_port, is_master=False, timeout=timeout)
        return dist.PrefixStore(token, store)

    def tell(loss: str) -> None:
        if logs is None:
            say(f"optsteps: error: {loss}; {_GOES_ON}", sys.stderr)
        else:  # the process that started this one says it
            write_atomically(logs / _LOSS, loss.encode())

    patience = 0.75 * runner.timeout  # so that all have ended within it
    watch = Watch(board(), number, world_size, patience, partial(_log, logs), tell)
    try:
        with watch:
            return run(Rank(fabric.device, number, world_size, board())), None, None
    except (KeyboardInterrupt, Exception) as error:
        if watch.over:
            return None, None, None
        if isinstance(error, dist.DistError) and logs is None:
            raise ValueError(f"rank 0 cannot be reached any more ({error}); {_GOES_ON}") from error
        if number == 0 and logs is not None and isinstance(error, Exception):  # torch would hand over its text alone
            return None, error, error.__cause__ or RuntimeError(traceback.format_exc())
        traceback.print_exc()
        raise


def _log(logs: Path | None, number: int) -> str:
    """Where to read what a rank said."""
    if logs is None:
        return f"the output of rank {number}"
    return str(logs / f"{number}.log") if number > 0 else "the output above"


def _sentence(loss: ProcessExitedException | ProcessRaisedException, first: int, logs: Path) -> str:
    """What became of a rank that Lightning started; `first` is the first one's number on this node."""
    number = first + loss.error_index
    if (logs / _LOSS).exists():
        what = (logs / _LOSS).read_text()
    elif isinstance(loss, ProcessRaisedException):
        what = f"rank {number} ended with {str(loss).strip().splitlines()[-1]} (see {_log(logs, number)})"
    else:
        how = f"was killed by {loss.signal_name}" if loss.signal_name else f"ended with exit status {loss.exit_code}"
        what = f"rank {number} {how} (see {_log(logs, number)})"
    return f"{what}; {_GOES_ON}"


def _send_output(log: Path) -> None:
    """Let everything that this process and its libraries print go to a file."""
    with open(log, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
