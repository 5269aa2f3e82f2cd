"""How many schedules the searches ask for until they come near an optimum that is known, under noise that is known.

    python experiments/blackbox/known_optima.py > experiments/blackbox/known_optima.md

The optimum is a schedule of 5 steps under a VP process, another for every seed. The loss of a schedule is its mean
squared distance to the optimum on the clock arctan(noise level), in units of that of uniform times, with ripples that
make false optima. So uniform times, with which every search begins, lose about 1, and the optimum loses 0. Every answer
has Gaussian noise of a known standard deviation. The optimum is reached once the schedule that the search ranks
first loses less than the tolerance without the noise, there and in every later round.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from math import inf, pi
from statistics import fmean, median

import torch
from torch import Generator, Tensor

from optsteps.methods import CMAES, Bayesian, Evolution, HandMade, Method, SearchProblem
from optsteps.methods.blackbox.search import BlackBox, asked_for
from optsteps.methods.blackbox.spaces import GridTimes, StickBreaking
from optsteps.methods.blackbox.trials import Trials
from optsteps.processes import VP
from optsteps.reporting.markdown import markdown_lines
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver

STEPS = 5
TEACHER = build_schedule("time_uniform", VP.linear(), 24, 999.0, 0.0, "zero")
START = build_schedule("time_uniform", VP.linear(), STEPS, 999.0, 0.0, "zero")
POOL: dict[str, Method] = {"time_uniform": HandMade("time_uniform")}
# no search here calls a network
PROBLEM = SearchProblem(lambda x, t, cond=None: x, VP.linear(), build_solver("euler"), torch.zeros(8, 1), TEACHER)
# how high the ripples are, and how long on the clock
RIPPLE, LENGTH = 0.05, 0.2
# how far an optimum may be from what the box of the gaps holds, on the clock
INSIDE = 1e-3


def searches(seed: int) -> dict[str, BlackBox]:
    """As they are configured, but for the rounds of CMA-ES, and random times."""
    return {
        "random times": Evolution("loss", POOL, mutants=0, crossovers=0, seed=seed),
        "evolution": Evolution("loss", POOL, seed=seed),
        "cmaes": CMAES("loss", POOL, rounds=60, seed=seed),
        "bayesian": Bayesian("loss", POOL, seed=seed),
    }


def places(schedule: Schedule) -> Tensor:
    return schedule.noise_levels.atan()


@dataclass(frozen=True)
class Loss:
    """Of a schedule, with this optimum."""

    optimum: Schedule

    def __call__(self, schedule: Schedule) -> float:
        away, of_uniform = (places(one) - places(self.optimum) for one in (schedule, START))
        ripples = RIPPLE * (1 - (2 * pi * away / LENGTH).cos()).mean()
        return float(away.square().mean() / of_uniform.square().mean() + ripples)


def drawn(seed: int) -> Loss:
    """A loss whose optimum is on the teacher's grid and in the box of the gaps."""
    random = Generator().manual_seed(seed)
    grid, gaps = GridTimes(TEACHER, STEPS, True), StickBreaking.around(TEACHER, STEPS, True, [START])
    while True:
        optimum = grid.schedule(torch.randperm(TEACHER.steps, generator=random)[:STEPS].sort().values)
        if (places(gaps.schedule(gaps.numbers(optimum))) - places(optimum)).abs().max() < INSIDE:
            return Loss(optimum)


def course(search: BlackBox, loss: Loss, noise: float, seed: int) -> list[tuple[int, float]]:
    """After every round how many schedules were asked for, and the loss of the one that is ranked first."""
    random = Generator().manual_seed(seed)
    space = search.space(PROBLEM, STEPS, [START])

    def measure(points: Tensor) -> Trials:
        losses = torch.tensor([loss(space.schedule(point)) for point in points], dtype=torch.float64)
        errors = noise * torch.randn(len(points), generator=random, dtype=torch.float64)
        return Trials(points, losses + errors, torch.full_like(losses, noise))

    trials, found = measure(space.numbers(START)[None]), list[tuple[int, float]]()
    for number in range(search.rounds):
        trials = asked_for(search.ask, measure, space, trials, range(number, number + 1))
        found.append((len(trials), loss(space.schedule(trials.numbers[search.ranked(space, trials)[0]]))))
    return found


def asked_until(course: list[tuple[int, float]], tolerance: float) -> float:
    """How many schedules were asked for until the first ranked stays within the tolerance; infinite if it does not."""
    needed = inf
    for asked, lost in reversed(course):
        if lost > tolerance:
            break
        needed = asked
    return needed


def shown(needed: list[float]) -> str:
    """The median and the most over the seeds, and how many reach the optimum where not all do."""
    reached = [one for one in needed if one < inf]
    middle = median(sorted(needed))
    if len(reached) == len(needed):
        return f"{middle:.0f} ({max(needed):.0f})"
    return f"{'-' if middle == inf else f'{middle:.0f}'} ({len(reached)} of {len(needed)} seeds)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.05, 0.2])
    parser.add_argument("--within", type=float, nargs="+", default=[0.2, 0.1, 0.05])
    arguments = parser.parse_args()
    rows = list[list[str]]()
    for noise in arguments.noise:
        courses = dict[str, list[list[tuple[int, float]]]]()
        for seed in range(arguments.seeds):
            for name, search in searches(seed).items():
                courses.setdefault(name, []).append(course(search, drawn(seed), noise, seed))
        for name, of_seeds in courses.items():
            cells = [shown([asked_until(one, tolerance) for one in of_seeds]) for tolerance in arguments.within]
            last = fmean(one[-1][1] for one in of_seeds)
            rows.append([f"{noise:g}", name, *cells, f"{last:.3f}", str(of_seeds[0][-1][0])])
    within = [f"within {tolerance:g}" for tolerance in arguments.within]
    print(f"Schedules asked for, {arguments.seeds} seeds: the median (the most)\n")
    print(markdown_lines(["noise", "search", *within, "loss at the end (mean)", "asked for by then"], rows, 2))


if __name__ == "__main__":
    main()
