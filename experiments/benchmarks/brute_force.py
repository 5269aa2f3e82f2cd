"""How near OSS comes to the best of all subsets, on exact Gaussian mixtures.

For a teacher of N = 12 steps every choice of M = 3 and M = 4 of them is sampled, and the best for each noise compared
with the one that OSS finds for it.

    python experiments/benchmarks/brute_force.py
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from optsteps.methods import OSS, SearchProblem
from optsteps.models.analytic import GaussianMixture
from optsteps.processes import EDM, VP, Flow, Process
from optsteps.sampling import sample
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver


@dataclass(frozen=True)
class Row:
    """One comparison: excess is the searched path's error over the least error of all subsets, minus 1.

    Attributes:
        hit_rate: fraction of samples whose searched path is the best subset (error equal to 1e-9, relative).
        mean_excess: of the mean error over samples, which the hardest samples decide.
        median_excess: of the samples' own.
        least_excess: of the samples' own; below 0 only by rounding.
        searched_mse, best_mse: the mean errors themselves.
    """

    steps: int
    subsets: int
    samples: int
    hit_rate: float
    mean_excess: float
    median_excess: float
    least_excess: float
    searched_mse: float
    best_mse: float

    def __str__(self) -> str:
        return (
            f"M={self.steps}: {self.hit_rate:6.1%} of {self.samples} hit the best of {self.subsets:3} subsets; mean "
            f"MSE {self.searched_mse:.2e} against {self.best_mse:.2e} (excess {self.mean_excess:.1%}; median of the "
            f"samples' {self.median_excess:.1%})"
        )


def against_brute_force(problem: SearchProblem, counts: Sequence[int], start: str = "teacher") -> list[Row]:
    """OSS per sample against every subset, for every step count."""
    found = OSS(start=start, average="mean").search(problem, counts)
    teacher = sample(problem.denoiser, problem.teacher, problem.solver, problem.noise, problem.cond)
    rows = []
    for n in counts:
        subsets = every_path(problem.teacher.steps, n, start)
        errors = torch.stack([path_error(problem, path, teacher) for path in subsets])
        best = errors.min(0).values
        searched = found.evidence["final_mse"][n]
        excess = searched / best - 1
        rows.append(
            Row(
                n,
                len(subsets),
                len(best),
                (excess <= 1e-9).double().mean().item(),
                (searched.mean() / best.mean() - 1).item(),
                excess.median().item(),
                excess.min().item(),
                searched.mean().item(),
                best.mean().item(),
            )
        )
    return rows


def every_path(last: int, steps: int, start: str) -> list[tuple[int, ...]]:
    """All paths of `steps` steps to node `last`, from node 0 or (free start) from any."""
    if start == "free":
        return [(*nodes, last) for nodes in combinations(range(last), steps)]
    return [(0, *inner, last) for inner in combinations(range(1, last), steps - 1)]


def path_error(problem: SearchProblem, path: tuple[int, ...], teacher: Tensor) -> Tensor:
    """Mean squared difference [B] at the clean end; a path that starts late takes the noise unscaled in flow
    coordinates, x / (alpha + sigma)."""
    times, process = problem.teacher.times[list(path)], problem.process
    size = process.alpha(problem.teacher.times) + process.sigma(problem.teacher.times)
    scale = problem.teacher.scale.item() * (size[path[0]] / size[0]).item()
    schedule = Schedule(times, process, initial_scale=scale)
    end = sample(problem.denoiser, schedule, problem.solver, problem.noise, problem.cond)
    return (end - teacher).square().flatten(1).mean(1)


def mixtures() -> dict[str, GaussianMixture]:
    generator = torch.Generator().manual_seed(0)
    ring = torch.arange(8) * (torch.pi / 4)
    return {
        "ring of 8 in 2D": GaussianMixture(torch.stack([ring.cos(), ring.sin()], 1), torch.full((8,), 0.1)),
        "10 in 16D": GaussianMixture(
            torch.randn(10, 16, generator=generator, dtype=torch.float64) * 0.5, torch.full((10,), 0.2)
        ),
    }


def teachers(steps: int) -> dict[str, tuple[Process, Schedule]]:
    vp = VP.linear()
    return {
        "EDM": (EDM(), build_schedule("edm", EDM(), steps, t_max=80.0, t_min=0.002)),
        "VP": (vp, build_schedule("time_uniform", vp, steps, t_max=vp.t_limit, t_min=0.0)),
        "Flow": (Flow(), build_schedule("time_uniform", Flow(), steps, t_max=1.0, t_min=0.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--teacher-steps", type=int, default=12)
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(args.seed)
    for name, mixture in mixtures().items():
        noise = torch.randn(args.samples, mixture.dimension, generator=generator, dtype=torch.float64)
        for clock, (process, teacher) in teachers(args.teacher_steps).items():
            problem = SearchProblem(mixture.denoiser(process), process, build_solver("euler"), noise, teacher)
            for start in ("teacher", "free"):
                for row in against_brute_force(problem, args.steps, start):
                    print(f"{name:16} {clock:5} start={start:8} {row}")


if __name__ == "__main__":
    main()
