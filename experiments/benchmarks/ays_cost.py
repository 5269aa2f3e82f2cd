"""What Align Your Steps costs: the published optimiser against the coupled table, on the shipped MNIST model.

OPTSTEPS_DATA=FOLDER_WITH_MNIST python experiments/benchmarks/ays_cost.py --samples 128

Both descend from EDM's schedule of 10 steps with 11 candidates, on the same data, until a sweep lowers the bound by
less than the tolerance. That is judged, for both alike, by a third estimate of other data and noise, which neither pays
for.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import Tensor

from optsteps.datasets import ImageSet, mnist, to_unit_range
from optsteps.denoisers import CountedDenoiser
from optsteps.methods.coordinate_search import descend, sweep
from optsteps.methods.klub_monte_carlo import MonteCarloKlub
from optsteps.methods.klub_table import CoupledTable
from optsteps.models import Model, pretrained
from optsteps.noise import sample_generator
from optsteps.processes import EDM
from optsteps.reporting.tables import markdown_lines
from optsteps.schedules import build_schedule

STEPS, BATCH = 10, 512


def measured(model: Model, data: ImageSet, chosen: range, levels: int, seed: int) -> tuple[CoupledTable, int, float]:
    """A coupled table of some of the data, its evaluations and seconds."""
    denoiser, begun = CountedDenoiser(model.denoiser), time.perf_counter()
    high, low = model.noise_levels
    grid = torch.logspace(0, 1, levels + 1, base=low / high, dtype=torch.float64) * high
    tables = []
    for block in torch.tensor(chosen).split(16):
        generators = [sample_generator(seed, int(k)) for k in block]
        images, labels = to_unit_range(data.images[block]), data.labels[block]
        tables.append(CoupledTable.measure(denoiser, model.process, images, labels, grid, generators, BATCH))
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
    judge, _, _ = measured(model, data, others, 128, seed=1)
    start = build_schedule("edm", EDM(), STEPS, t_max=80.0, t_min=0.002).noise_levels

    def judged(levels: Tensor) -> float:
        return judge.estimate(levels)[0]

    lines = []

    def tell(name: str, evaluations: int, seconds: float, sweeps: int, levels: Tensor) -> None:
        value, error, quadrature = judge.estimate(levels)
        found = " ".join(f"{level:.3g}" for level in levels.tolist())
        bound = f"{value:.0f} +- {error:.0f} (quadrature {quadrature:.0f})"
        lines.append([name, f"{evaluations:,}", f"{seconds:.1f}", str(sweeps), bound, found])
        print(markdown_lines(["", "evaluations", "seconds", "sweeps", "KLUB", "levels"], lines[-1:]), flush=True)

    tell("EDM", 0, 0.0, 0, start)
    for levels in (64, 128):
        table, evaluations, seconds = measured(model, data, chosen, levels, seed=0)
        begun = time.perf_counter()
        path = descend(table.klub(), start, options.most_sweeps)
        seconds += time.perf_counter() - begun
        bounds: list[float] = []
        for step in path:
            bounds.append(judged(step))
            if stopped(bounds, options.tolerance):
                break
        tell(f"coupled table, {levels} levels", evaluations, seconds, len(bounds) - 1, path[len(bounds) - 1])

    denoiser = CountedDenoiser(model.denoiser)
    images, labels = to_unit_range(data.images[: options.samples]), data.labels[: options.samples]
    klub = MonteCarloKlub(denoiser, EDM(), images, labels, max_batch=BATCH)
    walked, seconds, bounds = start, 0.0, [judged(start)]
    while len(bounds) <= options.most_sweeps and not stopped(bounds, options.tolerance):
        begun = time.perf_counter()
        walked = sweep(klub, walked)
        seconds += time.perf_counter() - begun
        bounds.append(judged(walked))
        tell("as published", denoiser.evaluations, seconds, len(bounds) - 1, walked)
    print("\n" + markdown_lines(["", "evaluations", "seconds", "sweeps", "KLUB", "levels"], lines))


if __name__ == "__main__":
    main()
