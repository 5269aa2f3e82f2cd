"""What a refinement on few samples gains on samples that it never saw, and whether its guard holds.

    python experiments/auto/overfitting.py --model digits --repeats 100

For every number of fit samples, with as many selection samples, and for every repeat with noise of its own: the start
is refined, and the start and the result are compared with the teacher on the same unseen samples. The tables count
where the paired 95 % interval of the unseen samples says that the result is better or worse than the start.
"""

from __future__ import annotations

import argparse
from collections import Counter
from statistics import fmean

import torch

from optsteps.denoisers import CountedDenoiser
from optsteps.methods import DM, HandMade, SearchProblem
from optsteps.methods.nearness import Nearness, decibels
from optsteps.methods.refine.coordinates import GapCoordinates, WeightCoordinates
from optsteps.methods.refine.gauss_newton import refined
from optsteps.metrics.statistics import Verdict, paired_difference, verdict
from optsteps.models import Model, mixture, pretrained
from optsteps.noise import FIRST_TEST_SAMPLE, unit_noise
from optsteps.processes import EDM
from optsteps.reporting.markdown import markdown_lines
from optsteps.schedules import build_schedule
from optsteps.solvers import build_solver
from optsteps.solvers.multistep import Multistep
from optsteps.storage.workers import ALONE

FITS = (4, 8, 16, 32)
UNSEEN = 256
# as Auto has them
RIDGES, WEIGHT_ROUNDS = (0.3, 0.03), 2


def model_of(name: str) -> Model:
    """A shipped model of the command line, under EDM's process."""
    if name == "mixture":
        means, stds = [[-2.0, -2.0], [2.0, -1.0], [-1.0, 2.0], [2.5, 2.5]], [0.2, 0.4, 0.3, 0.1]
        return mixture(name, EDM(), torch.device("cpu"), means, stds, 80.0, 0.002, [0.3, 0.3, 0.2, 0.2])
    shape = {"digits": (1, 8, 8), "mnist": (1, 28, 28)}[name]
    return pretrained(name, f"shipped:{name}", EDM(), torch.device("cpu"), shape, 80.0, 0.002)


def problem_of(model: Model, solver: Multistep, seed: int, numbers: range) -> SearchProblem:
    """The problem of the samples with these numbers."""
    t_max, t_min = model.time_range
    teacher = build_schedule("edm", model.process, 100, t_max, t_min)
    noise = unit_noise(seed, numbers, model.shape)
    denoiser = CountedDenoiser(model.denoiser)
    return SearchProblem(denoiser, model.process, solver, noise, teacher, model.cond(numbers, torch.device("cpu")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits", choices=["digits", "mixture", "mnist"])
    parser.add_argument("--solver", default="dpmpp_2m", help="a multistep solver")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--start", default="dm", help="what is refined: dm, or a hand-made family")
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    model, solver = model_of(arguments.model), build_solver(arguments.solver)
    assert isinstance(solver, Multistep)
    problem = problem_of(model, solver, 0, range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + UNSEEN))
    method = DM() if arguments.start == "dm" else HandMade(arguments.start)
    (start,) = method.schedules(problem, arguments.steps)
    unseen = Nearness(problem, ALONE, shard_size=64)
    before = decibels(unseen.errors([start])[0])
    print(
        f"{arguments.model}, {arguments.solver}, {arguments.steps} steps from {arguments.start}, {arguments.repeats} "
        f"repeats, {UNSEEN} unseen samples\n"
    )
    heads = ["fit samples", "refined", "mean gain (dB)", "least gain", "better", "no better", "worse"]
    print(markdown_lines(heads, [], left=2), flush=True)
    for fitted in FITS:
        gains: dict[str, list[float]] = {"times": [], "times and weights": []}
        counts: dict[str, Counter[Verdict]] = {kind: Counter() for kind in gains}
        for seed in range(arguments.repeats):
            halves = [
                Nearness(problem_of(model, solver, seed, range(k, k + fitted)), ALONE, shard_size=fitted)
                for k in (0, fitted)
            ]
            times = refined(GapCoordinates(start), halves[0], halves[1:]).schedule
            weighted = WeightCoordinates(GapCoordinates(times), solver)
            weights = refined(weighted, halves[0], halves[1:], None, WEIGHT_ROUNDS, RIDGES).schedule
            for kind, schedule in zip(gains, (times, weights), strict=True):
                difference = paired_difference(decibels(unseen.errors([schedule])[0]), before)
                gains[kind].append(difference.value)
                counts[kind][verdict(difference, True)] += 1
        for kind, found in gains.items():
            count = counts[kind]
            told = [count["better"], count["no better"], count["worse"]]
            cells = [str(fitted), kind, f"{fmean(found):+.2f}", f"{min(found):+.2f}", *map(str, told)]
            print(markdown_lines(heads, [cells], left=2).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
