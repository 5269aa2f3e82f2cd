"""One command under every launcher, with one, two and four processes: the same schedules and figures to the last bit.

python experiments/ranks/launchers.py model=digits search.samples=8

Every row is a run with a store of its own, so that it computes everything. Its schedule files and its metrics.json,
without the seconds, are compared byte by byte with those of a run of one process without a launcher. Two nodes are two
folders of this machine: with `store.shared=false` they share nothing, and the second one must end without a store.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

OPTSTEPS = ["-m", "optsteps"]
TORCHRUN = ["-m", "torch.distributed.run"]


@dataclass(frozen=True)
class Start:
    """A process that is started by hand.

    Attributes:
        arguments: of Python, before the overrides.
        environment: variables that a scheduler would set.
        overrides: of the command, which only this launcher needs.
        node: where it is started.
    """

    arguments: list[str]
    environment: dict[str, str]
    overrides: list[str]
    node: int = 0


def lightning(processes: int) -> Iterator[Start]:
    yield Start(OPTSTEPS, {}, [f"runner.devices={processes}"])


def torchrun(processes: int) -> Iterator[Start]:
    yield Start([*TORCHRUN, "--standalone", f"--nproc-per-node={processes}", *OPTSTEPS], {}, [])


def slurm(processes: int) -> Iterator[Start]:
    """The tasks of srun on one node."""
    port, devices = free_port(), f"runner.devices={processes}"
    names = ("NTASKS", "NTASKS_PER_NODE", "NNODES", "NODEID", "JOB_NAME", "JOB_ID", "PROCID", "LOCALID")
    for rank in range(processes):
        values = (processes, processes, 1, 0, "search", 31, rank, rank)
        variables = {f"SLURM_{name}": str(value) for name, value in zip(names, values, strict=True)}
        yield Start(OPTSTEPS, {**variables, "MASTER_PORT": port}, [devices])


def two_agents(processes: int) -> Iterator[Start]:
    """torchrun on each of two nodes."""
    address = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    agent = [*TORCHRUN, "--nnodes=2", f"--nproc-per-node={processes // 2}", *address]
    for node in range(2):
        yield Start([*agent, f"--node-rank={node}", *OPTSTEPS], {}, [], node)


def two_commands(processes: int) -> Iterator[Start]:
    """The command on each of two nodes."""
    devices = ["runner.num_nodes=2", f"runner.devices={processes // 2}"]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for node in range(2):
        yield Start(OPTSTEPS, {**address, "NODE_RANK": str(node)}, devices, node)


# the launchers of runs of so many processes
LAUNCHERS: dict[int, dict[str, Callable[[int], Iterator[Start]]]] = {
    2: {
        "Lightning": lightning,
        "torchrun": torchrun,
        "SLURM's tasks": slurm,
        "torchrun on two nodes": two_agents,
        "the command on two nodes": two_commands,
    },
    4: {"Lightning": lightning, "torchrun": torchrun},
    1: {"Lightning": lightning, "torchrun": torchrun},
}


def free_port() -> str:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return str(any_port.getsockname()[1])


def run(starts: list[Start], folder: Path, overrides: list[str]) -> str:
    """Start the processes of a run, in a folder for each node, and wait for them.

    Returns:
        What went wrong; empty where nothing did.
    """
    started = []
    for start in starts:
        home = folder / f"node{start.node}"
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *start.arguments, *overrides, *start.overrides]
        log = (folder / f"{len(started)}.log").open("wb")
        started.append(subprocess.Popen(command, cwd=home, env=os.environ | start.environment, stdout=log, stderr=log))
    codes = [process.wait() for process in started]
    return "" if not any(codes) else f"exit statuses {codes}, see {folder}"


def found_in(folder: Path) -> tuple[dict[str, bytes], str]:
    """The schedule files of a run, and its figures as text."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for row in metrics["rows"]:
        row.pop("search_seconds")
    figures = json.dumps([metrics["rows"], metrics["verdicts"]])
    return {path.name: path.read_bytes() for path in folder.glob("schedule_*.json")}, figures


def judged(folder: Path, wrong: str, shared: bool, alone: tuple[dict[str, bytes], str]) -> list[str]:
    """What a row says of its run: of the schedules, of the figures, and of the stores of both nodes."""
    if wrong:
        return [wrong, "", ""]
    found = found_in(folder / "node0" / "run")
    stores = len(list(folder.glob("**/.optsteps_store")))
    right_stores = stores == 1 and (shared or (folder / "node0" / "store").exists())
    same = ["identical" if ours == theirs else "DIFFER" for ours, theirs in zip(found, alone, strict=True)]
    return [*same, "one" if right_stores else f"{stores}, WRONG"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for the runs; a temporary one where none is named")
    options, overrides = parser.parse_known_args()
    common = ["runner.accelerator=cpu", "runner.threads=1", "logger=none", "hydra.run.dir=run", *overrides]
    with tempfile.TemporaryDirectory() as name:
        root = (options.folder or Path(name)).absolute()
        wrong = run([Start(OPTSTEPS, {}, ["store.folder=null"])], root / "alone", common)
        assert not wrong, wrong
        alone = found_in(root / "alone" / "node0" / "run")
        print("| launcher | processes | shared store | schedules | figures | stores | seconds |")
        print("| :-- | --: | :-- | :-- | :-- | :-- | --: |", flush=True)
        rows = right = 0
        runs = [(count, *launcher) for count, launchers in LAUNCHERS.items() for launcher in launchers.items()]
        for (count, launcher, starts), shared in product(runs, (True, False)):
            folder = root / f"{starts.__name__}{count}{'shared' if shared else 'apart'}"
            store = folder / "store" if shared else "store"
            own = [f"store.folder={store}", f"store.shared={str(shared).lower()}"]
            begun = time.monotonic()
            wrong = run(list(starts(count)), folder, [*common, *own])
            said = judged(folder, wrong, shared, alone)
            rows, right = rows + 1, right + (said == ["identical", "identical", "one"])
            cells = [launcher, str(count), "yes" if shared else "no", *said, f"{time.monotonic() - begun:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
        print(f"\n{right} of {rows} runs find what one process finds: {', '.join(sorted(alone[0]))} and all figures")
    raise SystemExit(right < rows)


if __name__ == "__main__":
    main()
