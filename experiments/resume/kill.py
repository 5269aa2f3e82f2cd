"""Runs that are killed and started again: the same result, and hardly anything computed twice.

python experiments/resume/kill.py --kills 20 --rank-kills 4 model=digits

Every trial kills the same command with SIGKILL at a random moment of its work, starts it again until it is through, and
compares its schedules byte by byte with those of a run left alone. Evaluations are counted over all starts. Then runs
of two ranks of which one is killed: under Lightning's launcher the run ends with a sentence that names it, and the same
command goes on; under torchrun with restarts it goes on by itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from optsteps.cli import run as command
from optsteps.denoisers import CountedDenoiser
from optsteps.storage.store import ShardStore

CONTEXT = multiprocessing.get_context("fork")


def started(overrides: list[str], counted: Any, largest: Any) -> None:
    """`optsteps OVERRIDES` in this process, adding its evaluations to `counted`; those of one shard to `largest`."""
    evaluate, keep = CountedDenoiser.__call__, ShardStore.put
    before = counted.value

    def evaluating(self: CountedDenoiser, *args: Any) -> Any:
        out = evaluate(self, *args)
        counted.value += self.nfe * len(out)
        return out

    def keeping(self: ShardStore, *args: Any) -> None:
        nonlocal before
        keep(self, *args)
        largest.value = max(largest.value, counted.value - before)
        before = counted.value

    CountedDenoiser.__call__, ShardStore.put = evaluating, keeping  # type: ignore[method-assign]
    sys.argv = ["optsteps", *overrides]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        command.main()


def run(folder: Path, overrides: list[str], kill_after: float | None, counted: Any, largest: Any) -> int | None:
    """Start the run of `folder`; its exit code, negative where it was killed."""
    own = [f"hydra.run.dir={folder / 'run'}", f"store.folder={folder / 'store'}", "logger=none", *overrides]
    process = CONTEXT.Process(target=started, args=(own, counted, largest))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def ranks(pid: int) -> list[int]:
    """The processes that a process has started as ranks, in their order."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with suppress(FileNotFoundError, ProcessLookupError):
            line = Path(f"/proc/{child}/cmdline").read_text()
            if "spawn_main" in line or "optsteps.cli.run" in line:
                found.append(child)
    return sorted(found)


def rank_killed(folder: Path, overrides: list[str], rank: int, after: float, torchrun: bool) -> bool | None:
    """A run of two ranks of which one is killed so many seconds after both were started: does it end as it should? None
    where it was through before."""
    own = [f"hydra.run.dir={folder / 'run'}", f"store.folder={folder / 'store'}", "logger=none", "runner.devices=2"]
    command = ["-m", "optsteps.cli.run", *overrides, *own]
    if torchrun:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", *command]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while len(ranks(process.pid)) < 2:
        assert process.poll() is None, "the run ended before it started its ranks"
        time.sleep(0.02)
    time.sleep(after)
    alive = ranks(process.pid)
    if len(alive) == 2:
        os.kill(alive[rank], signal.SIGKILL)
    _, said = process.communicate()
    if len(alive) < 2 or (not torchrun and process.returncode == 0):
        return None
    if torchrun:
        return process.returncode == 0
    named = f"rank {rank} was killed by SIGKILL" in " ".join(said.split())
    again = subprocess.run([sys.executable, *command], check=False, capture_output=True)
    return process.returncode == 1 and named and again.returncode == 0


def schedules(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "run").glob("schedule_*.json")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rank-kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options, overrides = parser.parse_known_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        counted, largest = (CONTEXT.Value("q", 0) for _ in range(2))
        begun = time.monotonic()
        assert run(root / "whole", overrides, None, counted, largest) == 0, "the command fails by itself"
        seconds, whole = time.monotonic() - begun, counted.value
        expected = schedules(root / "whole")
        print(f"left alone: {seconds:.1f} s, {whole:,} evaluations, at most {largest.value:,} in one shard", flush=True)
        right = kills = trials = most = 0
        while kills < options.kills:
            counted, _ = (CONTEXT.Value("q", 0) for _ in range(2))
            folder, after = root / str(trials), moments.uniform(0.05, 0.95) * seconds
            killed, trials = run(folder, overrides, after, counted, largest), trials + 1
            if killed == 0:
                continue  # it was faster than the first one and was through
            kills += 1
            spent = counted.value
            assert run(folder, overrides, None, counted, largest) == 0, "the second start failed"
            same = schedules(folder) == expected
            repeated = counted.value - whole
            right, most = right + same, max(most, repeated)
            print(
                f"killed after {after:.1f} s (exit {killed}), {spent:,} evaluations done; {repeated:,} repeated; "
                f"schedules {'identical' if same else 'DIFFER'}",
                flush=True,
            )
        print(f"{right} of {options.kills} end with identical schedules; at most {most:,} evaluations repeated")
        for torchrun in (False, True):
            right = kills = 0
            while kills < options.rank_kills:
                folder, after, rank = root / f"rank{trials}", moments.uniform(0.5, 1.5) * seconds, kills % 2
                ended, trials = rank_killed(folder, overrides, rank, after, torchrun), trials + 1
                if ended is None:
                    continue
                kills, right = kills + 1, right + (ended and schedules(folder) == expected)
                launcher = "torchrun" if torchrun else "Lightning"
                print(f"rank {rank} of 2 killed {after:.1f} s after {launcher} started it", flush=True)
            print(f"{right} of {options.rank_kills} runs that lost a rank end as they should, with identical schedules")


if __name__ == "__main__":
    main()
