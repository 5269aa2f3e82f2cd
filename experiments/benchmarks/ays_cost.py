"""What Align Your Steps costs: the published optimiser against the coupled table, on the shipped MNIST model.

OPTSTEPS_DATA=FOLDER_WITH_MNIST python experiments/benchmarks/ays_cost.py --samples 128

Both descend from EDM's schedule of 10 steps with 11 candidates, on the same data, until a sweep lowers the bound by
less than the tolerance. That is judged, for both alike, by a third estimate of other data and noise, which neither pays
for; in the end by one more, whose levels contain those of the results.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import Tensor

from optsteps.datasets import ImageSet, mnist, to_unit_range
from optsteps.denoisers import CountedDenoiser
from optsteps.methods.ays.coordinate_search import descend, sweep
from optsteps.methods.ays.klub_monte_carlo import MonteCarloKlub
from optsteps.methods.ays.klub_table import CoupledTable
from optsteps.models import Model, pretrained
from optsteps.noise import sample_generator
from optsteps.processes import EDM
from optsteps.reporting.markdown import markdown_lines
from optsteps.schedules import build_schedule

STEPS, BATCH = 10, 512


def log_uniform(model: Model, steps: int) -> Tensor:
    high, low = model.noise_levels
    return build_schedule("logsnr", EDM(), steps, t_max=high, t_min=low).noise_levels


def measured(model: Model, data: ImageSet, chosen: range, levels: Tensor, seed: int) -> tuple[CoupledTable, int, float]:
    """A coupled table of some of the data, its evaluations and seconds."""
    denoiser, begun = CountedDenoiser(model.denoiser), time.perf_counter()
    tables = []
    for block in torch.tensor(chosen).split(16):
        generators = [sample_generator(seed, int(k)) for k in block]
        images, labels = to_unit_range(data.images[block]), data.labels[block]
        tables.append(CoupledTable.measure(denoiser, model.process, images, labels, levels, generators, BATCH))
    return CoupledTable.joined(tables), denoiser.evaluations, time.perf_counter() - begun


def stopped(bounds: list[float], tolerance: float) -> bool:
    """Whether the last sweep lowered the bound by less than the tolerance."""
    return len(bounds) > 1 and bounds[-1] > (1 - tolerance) * bounds[-2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--judges", type=int, default=512, help="samples of the independent estimate")
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--most-sweeps", type=int, default=30)
    parser.add_argument("--precision", default="bfloat16")
    options = parser.parse_args()
    data = mnist(os.environ["OPTSTEPS_DATA"])
    shape = list(data.images.shape[1:])
    model = pretrained(
        "mnist", "shipped:mnist", EDM(), torch.device("cpu"), shape, 80.0, 0.002, precision=options.precision
    )
    chosen, others = range(options.samples), range(10_000, 10_000 + options.judges)
    watch, _, _ = measured(model, data, others, log_uniform(model, 128), seed=1)
    start = build_schedule("edm", EDM(), STEPS, t_max=80.0, t_min=0.002).noise_levels

    def judged(levels: Tensor) -> float:
        return watch.estimate(levels)[0]

    results = [("EDM", 0, 0.0, 0, start)]
    for count in (64, 128):
        table, evaluations, seconds = measured(model, data, chosen, log_uniform(model, count), seed=0)
        begun = time.perf_counter()
        path = descend(table.klub(), start, options.most_sweeps)
        seconds += time.perf_counter() - begun
        bounds: list[float] = []
        for step in path:
            bounds.append(judged(step))
            if stopped(bounds, options.tolerance):
                break
        sweeps = len(bounds) - 1
        results.append((f"coupled table, {count} levels", evaluations, seconds, sweeps, path[sweeps]))

    denoiser = CountedDenoiser(model.denoiser)
    images, labels = to_unit_range(data.images[: options.samples]), data.labels[: options.samples]
    klub = MonteCarloKlub(denoiser, EDM(), images, labels, max_batch=BATCH)
    walked, bounds = start, [judged(start)]
    begun, judging = time.perf_counter(), 0.0
    while len(bounds) <= options.most_sweeps and not stopped(bounds, options.tolerance):
        walked = sweep(klub, walked)
        paused = time.perf_counter()
        bounds.append(judged(walked))
        judging += time.perf_counter() - paused
        print(f"sweep {len(bounds) - 1}: {denoiser.evaluations:,} evaluations, KLUB {bounds[-1]:.0f}", flush=True)
    seconds = time.perf_counter() - begun - judging
    results.append(("as published", denoiser.evaluations, seconds, len(bounds) - 1, walked))

    exact = torch.cat([log_uniform(model, 128), *(levels[1:-1] for *_, levels in results)])
    judge, _, _ = measured(model, data, others, exact.unique().flip(0), seed=2)
    lines = []
    for name, evaluations, seconds, sweeps, levels in results:
        value, error, quadrature = judge.estimate(levels)
        bound = f"{value:.0f} +- {error:.0f} (quadrature {quadrature:.0f})"
        found = " ".join(f"{level:.3g}" for level in levels.tolist())
        lines.append([name, f"{evaluations:,}", f"{seconds:.1f}", str(sweeps), bound, found])
    print("\n" + markdown_lines(["", "evaluations", "seconds", "sweeps", "KLUB", "levels"], lines))


if __name__ == "__main__":
    main()
