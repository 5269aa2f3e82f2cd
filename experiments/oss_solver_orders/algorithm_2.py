"""OSS's Algorithm 2 against the same solver at its own orders, on Algorithm 1's schedule and on its own.

    python experiments/oss_solver_orders/algorithm_2.py

For the shipped MNIST model and a mixture in the plane: schedules searched on samples 0, 1, ...; mean squared error to
the 100-step teacher of the same solver on unseen samples, paired, with 95 % bootstrap intervals of the differences.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from optsteps import Schedule, SearchProblem, build_schedule
from optsteps.methods import OSS
from optsteps.metrics import bootstrap, mse, paired_difference
from optsteps.models.base import Model, grid_mixture, pretrained
from optsteps.noise import unit_noise
from optsteps.processes import EDM
from optsteps.solvers import Solver, build_solver
from optsteps.trajectories import Trajectories

SOLVERS = {
    "dpmpp_2m": {},
    "dpmpp_3m": {},
    "ipndm": {"order": 4},
    "deis": {"order": 3},
    "unipc": {"order": 2},
    "unipc, order 3": {"order": 3},
}
FIRST_TEST_SAMPLE = 1_000_000


def problem_of(model: Model, solver: Solver, samples: range) -> SearchProblem:
    t_max, t_min = model.time_range
    return SearchProblem(
        denoiser=model.denoiser,
        process=model.process,
        solver=solver,
        noise=unit_noise(0, samples, model.shape),
        cond=model.cond(samples, torch.device("cpu")),
        teacher=build_schedule("edm", model.process, 100, t_max=t_max, t_min=t_min),
    )


def errors(problem: SearchProblem, schedule: Schedule, teacher: Tensor) -> Tensor:
    return mse(Trajectories(problem.denoiser).ends(schedule, problem.solver, problem.noise, problem.cond), teacher)


def compare(model: Model, name: str, steps: list[int], search: int, test: int) -> None:
    solver = build_solver(name.split(",")[0], **SOLVERS[name])
    seen = problem_of(model, solver, range(search))
    unseen = problem_of(model, solver, range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + test))
    teacher = Trajectories(unseen.denoiser).ends(unseen.teacher, solver, unseen.noise, unseen.cond)
    first = OSS(average="pooled").search(replace(seen, solver=build_solver("euler")), steps)
    second = OSS(average="pooled").search(seen, steps)
    for n in steps:
        own = second.schedules[n]
        fixed = Schedule(own.times, own.process)
        ours, on_own, on_first = (errors(unseen, s, teacher) for s in (own, fixed, first.schedules[n]))
        cells = [f"{bootstrap(ours).value:.3g}"]
        for rival in (on_own, on_first):
            gap = paired_difference(ours, rival)
            cells += [f"{rival.mean().item():.3g}", f"{gap.value:+.2g} [{gap.low:+.2g}, {gap.high:+.2g}]"]
        orders = "".join(str(order) for order in own.orders or ())
        print(f"| {model.name} | {name} | {n} | {orders} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=int, default=32)
    parser.add_argument("--test", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 8, 10])
    args = parser.parse_args()
    cpu = torch.device("cpu")
    models = [
        grid_mixture("grid", EDM(), cpu, 8, 8, 1.0, 0.1, 80.0, 0.002),
        pretrained("mnist", "shipped:mnist", EDM(), cpu, (1, 28, 28), 80.0, 0.002),
    ]
    print(
        "| model | solver | steps | orders chosen | MSE | solver's own orders, same times | difference [95 %] "
        "| solver's own orders, Algorithm 1's times | difference [95 %] |"
    )
    print("| :-- | :-- | --: | :-- | --: | --: | --: | --: | --: |")
    for model in models:
        for name in SOLVERS:
            compare(model, name, args.steps, args.search, args.test)


if __name__ == "__main__":
    main()
