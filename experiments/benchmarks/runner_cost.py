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
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from optsteps.cli.common import CONFIG_DIR
from optsteps.comparison import TRACED
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
    first, rest = slice(0, TRACED), [slice(k, k + config.max_batch) for k in range(TRACED, len(noise), config.max_batch)]
    for schedule in walks:
        for part in (first, *rest):
            sample(denoiser, schedule, experiment.solver, noise[part], None if cond is None else cond[part],
                   return_trajectory=part is first)  # fmt: skip


def composed(overrides: list[str], store: Path) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("config", [*ONE_THREAD, *overrides, f"store.folder={store}"])


def overhead(overrides: list[str], repeats: int) -> None:
    """By the clock, and by this process's own CPU time, which other work on the machine disturbs less."""
    clocks = {"wall": time.perf_counter, "CPU": time.process_time}
    taken: dict[str, list[dict[str, float]]] = {"bare": [], "runner": []}
    for repeat in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder, redirect_stderr(StringIO()):
            config = composed(overrides, Path(folder))
            pair = [("bare", bare), ("runner", lambda c: compute(c, "oss", only_rank(c.runner)))]
            for name, work in pair if repeat % 2 else reversed(pair):  # neither is always the second
                begun = {clock: read() for clock, read in clocks.items()}
                work(config)
                if repeat > 0:  # the first warms up
                    taken[name].append({clock: read() - begun[clock] for clock, read in clocks.items()})
    for clock in clocks:
        alone, by_runner = ([seconds[clock] for seconds in each] for each in taken.values())
        ratios = [b / a - 1 for a, b in zip(alone, by_runner, strict=True)]
        print(
            f"overhead {' '.join(overrides)}, {clock} time: bare {statistics.median(alone):.2f} s, runner "
            f"{statistics.median(by_runner):.2f} s; median of {repeats} interleaved pairs "
            f"{statistics.median(ratios):+.1%} ({min(ratios):+.1%} to {max(ratios):+.1%})",
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
