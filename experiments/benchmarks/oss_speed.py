"""The released OSS searches against `OSS`, in one process on the shipped MNIST network.

    python experiments/benchmarks/oss_speed.py --samples 8 --threads 2

For the one step count 8 and for the five step counts 5, 6, 8, 10 and 20, which the released searches take one after the
other, a teacher each: network evaluations and seconds of all samples together, by how much less time that is than the
released batched search takes, whether the samples' paths are the released ones, and how good the schedule for all
samples is: its mean PSNR to the teacher on noise that no search saw.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from published_loops import FlowView, batched_search, published_search
from torch import Tensor

from optsteps.denoisers import Denoiser, EDMDenoiser
from optsteps.methods import OSS, SearchProblem, SearchResult
from optsteps.metrics import psnr
from optsteps.models.checkpoint import load_network
from optsteps.models.unet import UNet
from optsteps.processes import EDM
from optsteps.schedules import Schedule, build_schedule
from optsteps.solvers import build_solver
from optsteps.trajectories import Trajectories

COUNTS = {"one count": [8], "five counts": [5, 6, 8, 10, 20]}
BATCHED = "released, nodes as a batch"

# by step count the path [n+1] of every sample, as `SearchResult.per_sample` has them
Paths = Mapping[int, Tensor]


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        evaluations: of all samples together.
        paths: the samples' own, None where there are none that the released search should have, too.
        schedules: for all samples, by step count; None where the search makes none by itself.
    """

    evaluations: float
    paths: Paths | None = None
    schedules: Mapping[int, Schedule] | None = None


def released(
    problem: SearchProblem, counts: Sequence[int], search: Callable[[FlowView, Tensor, Any, int], list[int]]
) -> Found:
    """The released search, image by image and count by count."""
    evaluations = 0
    paths: dict[int, list[list[int]]] = {steps: [] for steps in counts}
    for number in range(len(problem.noise)):
        cond = None if problem.cond is None else problem.cond[number : number + 1]
        for steps in counts:
            view = FlowView(problem.denoiser, problem.process, problem.teacher.times.flip(0).tolist())
            z = problem.noise[number : number + 1] * (problem.teacher.scale.item() / view.size[-1])
            paths[steps].append([view.last - node for node in reversed(search(view, z, cond, steps))])
            evaluations += view.evaluations
    return Found(evaluations, {steps: torch.tensor(of) for steps, of in paths.items()})


def node_by_node(view: FlowView, z: Tensor, cond: Any, steps: int) -> list[int]:
    return published_search(view, z, cond, steps).path


def ours(problem: SearchProblem, counts: Sequence[int], **settings: Any) -> Found:
    result: SearchResult = OSS(**settings).search(problem, counts)
    paths = result.per_sample if settings.get("published") else None
    return Found(result.nfe * len(problem.noise), paths, result.schedules)


def searches(max_batch: int, teacher_steps: int) -> dict[str, Callable[[SearchProblem, Sequence[int]], Found]]:
    """Every way of searching."""
    settings: dict[str, dict[str, Any]] = {
        "OSS(published, free)": {"published": True, "start": "free"},
        "OSS(mean)": {"average": "mean"},
        "OSS(pooled), full grid": {"average": "pooled", "grid_steps": teacher_steps},
        "OSS(grid_steps='auto')": {"grid_steps": "auto"},
    }

    def searcher(chosen: dict[str, Any]) -> Callable[[SearchProblem, Sequence[int]], Found]:
        return lambda problem, counts: ours(problem, counts, max_batch=max_batch, **chosen)

    return {
        BATCHED: lambda problem, counts: released(problem, counts, batched_search),
        "released, node by node": lambda problem, counts: released(problem, counts, node_by_node),
        **{name: searcher(chosen) for name, chosen in settings.items()},
    }


def quality(problem: SearchProblem, schedules: Mapping[int, Schedule]) -> float:
    """Mean PSNR in dB over samples and step counts to the teacher's samples of the problem's noise."""
    trajectories = Trajectories(problem.denoiser)
    teacher = trajectories.ends(problem.teacher, problem.solver, problem.noise, problem.cond)
    ends = [trajectories.ends(schedule, problem.solver, problem.noise, problem.cond) for schedule in schedules.values()]
    return torch.stack([psnr(end, teacher, data_range=2.0).double().mean() for end in ends]).mean().item()


def same(paths: Paths, others: Paths) -> str:
    """How many of the samples' paths are the same."""
    alike = [(paths[steps] == others[steps]).all(1) for steps in paths]
    return f"{sum(int(one.sum()) for one in alike)} of {sum(len(one) for one in alike)}"


def seconds_per_evaluation(denoiser: Denoiser, batch: int, side: int, evaluations: int = 512) -> float:
    x, t, cond = torch.randn(batch, 1, side, side), torch.full((batch,), 1.0).double(), torch.arange(batch) % 10
    with torch.no_grad():
        denoiser(x, t, cond)
        start = time.perf_counter()
        calls = max(1, evaluations // batch)
        for _ in range(calls):
            denoiser(x, t, cond)
    return (time.perf_counter() - start) / (calls * batch)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8, help="that the searches see")
    parser.add_argument("--test", type=int, default=64, help="samples that the schedules are judged on")
    parser.add_argument("--teacher-steps", type=int, default=100)
    parser.add_argument("--max-batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="shipped:mnist", help="a weights file of a U-Net, or shipped:NAME")
    parser.add_argument("--side", type=int, default=28, help="of the images")
    return parser.parse_args()


def problem_of(denoiser: Denoiser, args: argparse.Namespace, samples: int, seed: int) -> SearchProblem:
    return SearchProblem(
        denoiser=denoiser,
        process=EDM(),
        solver=build_solver("euler"),
        noise=torch.randn(samples, 1, args.side, args.side, generator=torch.Generator().manual_seed(seed)),
        cond=torch.arange(samples) % 10,
        teacher=build_schedule("edm", EDM(), args.teacher_steps, t_max=80.0, t_min=0.002),
    )


def main() -> None:
    args = parsed()
    torch.set_num_threads(args.threads)
    network, notes = load_network(args.weights, UNet)
    denoiser = EDMDenoiser(network, EDM(), notes["sigma_data"])
    problem, unseen = (
        problem_of(denoiser, args, samples, seed)
        for samples, seed in ((args.samples, args.seed), (args.test, ~args.seed))
    )
    one, many = (seconds_per_evaluation(denoiser, batch, args.side) for batch in (1, args.max_batch))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{args.samples} samples, N = {args.teacher_steps}, {parameters:,} parameters, {args.threads} threads")
    print(
        f"{'':12}{'search':28}{'evaluations':>12}{'seconds':>9}{'times less time':>17}{'released paths':>16}{'PSNR':>8}"
    )
    for name, counts in COUNTS.items():
        reference: tuple[float, Found] | None = None
        for search, function in searches(args.max_batch, args.teacher_steps).items():
            start = time.perf_counter()
            found = function(problem, counts)
            seconds = time.perf_counter() - start
            reference = reference or (seconds, found)
            batched_seconds, batched = reference
            alike = same(found.paths, batched.paths) if found.paths and batched.paths else "-"
            good = f"{quality(unseen, found.schedules):.2f}" if found.schedules else "-"
            print(
                f"{name:12}{search:28}{found.evaluations:12,.0f}{seconds:9.1f}{batched_seconds / seconds:16.2f}x"
                f"{alike:>16}{good:>8}",
                flush=True,
            )
    print(
        f"bound: an evaluation takes {1e3 * one:.2f} ms alone and {1e3 * many:.2f} ms in a batch of {args.max_batch}, "
        f"{one / many:.2f}x less; times the ratio of evaluations that is all a search can gain on the network"
    )


if __name__ == "__main__":
    main()
