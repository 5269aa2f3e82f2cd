"""What the runner costs, and what a second process gains.

python experiments/benchmarks/runner_cost.py --repeats 7 --samples 256 model=digits

Overhead: the search and the samples of a run by `optsteps.running.share.compute`, with a fresh store, against the same
calls in a bare loop that keeps nothing and shows nothing; one process, one thread, interleaved. Scaling: the command
with 1 and 2 processes of one thread each, by the time of its search.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from unittest import mock

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from optsteps import denoisers
from optsteps.cli.common import CONFIG_DIR
from optsteps.comparison import TRACED
from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser
from optsteps.running.compose import compose_experiment
from optsteps.running.launch import only_rank
from optsteps.running.share import compute
from optsteps.sampling import sample

ONE_THREAD = ["method=oss", "metric=teacher", "check_model=false", "runner=cpu", "runner.threads=1", "logger=none"]


def bare(config: DictConfig) -> None:
    """What `compute` does, without it."""
    experiment = compose_experiment(config, only_rank(config.runner).device, "oss")
    denoiser, problem = experiment.model.denoiser, experiment.problem(experiment.model.denoiser)
    comparison = experiment.comparison(denoiser)
    noise, cond = comparison.noise, comparison.cond
    found = [method.search(problem, experiment.steps) for method in experiment.methods.values()]
    walks = [experiment.comparison_teacher, *(result.schedules[n] for n in experiment.steps for result in found)]
    # the first samples are followed along the way, the others to their ends
    first, size = slice(0, TRACED), config.max_batch
    parts = [first, *(slice(k, k + size) for k in range(TRACED, len(noise), size))]
    for schedule in walks:
        for part in parts:
            sample(denoiser, schedule, experiment.solver, noise[part], None if cond is None else cond[part],
                   return_trajectory=part is first)  # fmt: skip


def composed(overrides: list[str], store: Path) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", [*ONE_THREAD, *overrides, f"store.folder={store}"])


@dataclass(frozen=True)
class Taken:
    """Seconds of a piece of work: by the clock, of the process's CPU time, and of that in the network."""

    wall: float
    cpu: float
    network: float

    @classmethod
    def by(cls, work: Callable[[], None]) -> Taken:
        evaluate, network = denoisers.evaluate, 0.0

        def timed(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
            nonlocal network
            begun = time.process_time()
            out = evaluate(denoiser, x, t, cond)
            network += time.process_time() - begun
            return out

        with mock.patch.object(denoisers, "evaluate", timed):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            return cls(time.perf_counter() - wall, time.process_time() - cpu, network)


# what the runner takes more than the bare loop, as a part of what that takes
OVERHEADS: dict[str, Callable[[Taken, Taken], float]] = {
    "by the clock": lambda bare, runner: runner.wall / bare.wall - 1,
    "by CPU time": lambda bare, runner: runner.cpu / bare.cpu - 1,
    # the network's speed varies from second to second, and is not the runner's doing
    "by CPU time beside the network": lambda bare, runner: (
        (runner.cpu - runner.network - bare.cpu + bare.network) / bare.cpu
    ),
}


def overhead(overrides: list[str], repeats: int) -> None:
    taken: dict[str, list[Taken]] = {"bare": [], "runner": []}
    for repeat in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            config = composed(overrides, Path(folder))
            pair = [
                ("bare", partial(bare, config)),
                ("runner", partial(compute, config, "oss", only_rank(config.runner))),
            ]
            for name, work in pair if repeat % 2 else reversed(pair):  # neither is always the second
                seconds = Taken.by(work)
                if repeat > 0:  # the first warms up
                    taken[name].append(seconds)
    print(f"overhead {' '.join(overrides)}: bare {statistics.median(each.cpu for each in taken['bare']):.2f} s of CPU")
    for name, overhead_of in OVERHEADS.items():
        ratios = [overhead_of(*pair) for pair in zip(taken["bare"], taken["runner"], strict=True)]
        print(
            f"  {name}: median of {repeats} interleaved pairs {statistics.median(ratios):+.1%} ({min(ratios):+.1%} to "
            f"{max(ratios):+.1%})",
            flush=True,
        )


def scaling(overrides: list[str]) -> None:
    for devices in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            own = [f"store.folder={folder}/store", f"hydra.run.dir={folder}/run", f"runner.devices={devices}"]
            command = [sys.executable, "-m", "optsteps.cli.run", *ONE_THREAD, *overrides, *own]
            subprocess.run(command, check=True, capture_output=True)
            rows = json.loads((Path(folder) / "run" / "metrics.json").read_text())["rows"]
            config = composed(overrides, Path(folder))
            row = next(row for row in rows if row["method"] == "oss")
            seconds, samples = row["search_seconds"], config.search.samples
            print(
                f"scaling {' '.join(overrides)}: {devices} processes, {samples} samples searched in {seconds:.1f} s, "
                f"{samples / seconds:.2f} samples/s, {row['search_evaluations'] / seconds:,.0f} evaluations/s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--samples", type=int, default=256, help="searched in the scaling")
    options, overrides = parser.parse_known_args()
    torch.set_num_threads(1)
    # without oss_mean, which with a store takes its teacher from oss and would hide a cost
    alone = ["search.samples=16", "test.samples=64", "test.oracle=0", "rivals=[edm,time_uniform,logsnr]"]
    overhead([*overrides, *alone], options.repeats)
    # of every node: the default looks at a few samples only, and is done before a second process has begun
    every_node = ["method.grid_steps=all", f"search.samples={options.samples}", "method.shard_size=16"]
    shards = [*every_node, "test.samples=16", "test.oracle=0"]
    scaling([*overrides, *shards, "rivals=none"])


if __name__ == "__main__":
    main()
