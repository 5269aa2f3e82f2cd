"""Runs that are killed and started again: the same result, and hardly anything computed twice.

python experiments/resume/kill.py --kills 20 --rank-kills 4 model=digits

Every trial kills the same command with SIGKILL at a random moment of its work, starts it again until it is through, and
compares its schedules byte by byte with those of a run left alone. Evaluations are counted over all starts. Then runs
of two ranks of which one is killed: under Lightning's launcher the run ends with a sentence that names it, and the same
command goes on; under torchrun with restarts it goes on by itself.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import counted

from optsteps.cli import run as command

CONTEXT = multiprocessing.get_context("fork")
# loaded here, for all processes that are forked off this one
PRELOADED = ("optsteps.cli.job", "optsteps.loggers.none", "optsteps.loggers.results")
# seconds within which all ranks have ended after one was lost
TIMEOUT = 60
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]


class Trial:
    """One run, with a folder, a store and counts of its own.

    Args:
        folder: of the run.
        overrides: of the command.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder, self.counts = folder, folder / "counts"
        self.overrides = [f"hydra.run.dir={folder / 'run'}", f"store.folder={folder / 'store'}", "logger=none"]
        self.overrides += [f"runner.timeout={TIMEOUT}", "model._target_=counted.pretrained", *overrides]
        self.counts.mkdir(parents=True)

    @property
    def evaluations(self) -> int:
        return counted.counts(self.counts)[0]

    @property
    def largest_shard(self) -> int:
        return counted.counts(self.counts)[1]

    @property
    def schedules(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "run").glob("schedule_*.json")}

    def wait_for(self, evaluations: float, is_over: Callable[[], bool]) -> None:
        """Wait until so many evaluations are made, or the run is over."""
        while self.evaluations < evaluations and not is_over():
            time.sleep(0.002)

    def _command(self) -> None:
        os.environ["COUNTS"] = str(self.counts)
        sys.argv = ["optsteps", *self.overrides]
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            command.main()

    def run(self, kill_at: float | None = None) -> int | None:
        """The command in a process of its own, killed after so many evaluations.

        Returns:
            Its exit code, negative where it was killed.
        """
        process = CONTEXT.Process(target=self._command)
        process.start()
        if kill_at is not None:
            self.wait_for(kill_at, lambda: not process.is_alive())
            process.kill()
        process.join()
        return process.exitcode

    def run_ranks(self, launcher: list[str], kill: int | None = None, kill_at: float = 0) -> tuple[int, str, float]:
        """The command in two ranks, of which one is killed after so many evaluations of both.

        Returns:
            The exit status, what the command said, and the seconds from the kill to its end, 0 where it was through
            before.
        """
        environment = {**os.environ, "COUNTS": str(self.counts), "PYTHONPATH": os.pathsep.join(sys.path)}
        started = subprocess.Popen(
            [sys.executable, *launcher, "-m", "optsteps", *self.overrides, "runner.devices=2"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun = None
        if kill is not None:
            self.wait_for(kill_at, lambda: started.poll() is not None)
            alive = ranks(started.pid)
            if len(alive) == 2:
                begun = time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(alive[kill], signal.SIGKILL)
        _, said = started.communicate()
        return started.returncode, " ".join(said.split()), time.monotonic() - begun if begun is not None else 0.0


def ranks(pid: int) -> list[int]:
    """The processes that a process has started as ranks, in their order."""
    found = []
    with suppress(FileNotFoundError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):
                line = Path(f"/proc/{child}/cmdline").read_text()
                if "spawn_main" in line or "optsteps" in line:
                    found.append(child)
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rank-kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options, overrides = parser.parse_known_args()
    moments = random.Random(options.seed)
    for module in PRELOADED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        alone = Trial(root / "alone", overrides)
        begun = time.monotonic()
        assert alone.run() == 0, "the command fails by itself"
        whole, shard, expected = alone.evaluations, alone.largest_shard, alone.schedules
        seconds = time.monotonic() - begun
        print(f"left alone: {seconds:.1f} s, {whole:,} evaluations, at most {shard:,} in one shard", flush=True)
        wrong = []
        trials = kills = most = 0
        while kills < options.kills:
            trial, trials = Trial(root / str(trials), overrides), trials + 1
            if trial.run(kill_at=moments.uniform(0.02, 0.98) * whole) == 0:
                continue  # it was through
            kills, spent = kills + 1, trial.evaluations
            assert trial.run() == 0, "the second start failed"
            repeated, same = trial.evaluations - whole, trial.schedules == expected
            most = max(most, repeated)
            wrong += [] if same and repeated <= shard else [trial.folder]
            print(
                f"killed after {spent:,} evaluations; {repeated:,} repeated; "
                f"schedules {'identical' if same else 'DIFFER'}",
                flush=True,
            )
        print(f"{kills - len(wrong)} of {kills} end as they should; at most {most:,} evaluations repeated")
        for name, launcher in {"Lightning": [], "torchrun with a restart": TORCHRUN}.items():
            failed = len(wrong)
            kills = 0
            while kills < options.rank_kills:
                trial, rank, trials = Trial(root / f"rank{trials}", overrides), kills % 2, trials + 1
                code, said, took = trial.run_ranks(launcher, rank, moments.uniform(0.1, 0.9) * whole)
                if not took or (not launcher and code == 0):
                    continue  # it was through
                kills += 1
                ended = f"ended after {took:.1f} s and named rank {rank}"
                right = took < TIMEOUT and code == 1 and f"rank {rank} was killed by SIGKILL" in said
                if launcher:
                    ended, right = f"went on by itself and was through after {took:.1f} s", code == 0
                else:
                    right = trial.run_ranks(launcher)[0] == 0 and right
                repeated, same = trial.evaluations - whole, trial.schedules == expected
                right = right and same and repeated <= 2 * shard
                wrong += [] if right else [trial.folder]
                ended = ended if right else f"DID NOT END AS IT SHOULD: {said[-500:]}"
                print(
                    f"{name}: rank {rank} of 2 killed; the run {ended}; {repeated:,} evaluations repeated; "
                    f"schedules {'identical' if same else 'DIFFER'}",
                    flush=True,
                )
            print(f"{name}: {kills - len(wrong) + failed} of {kills} runs that lost a rank end as they should")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
