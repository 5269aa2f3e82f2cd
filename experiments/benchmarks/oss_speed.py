"""The released OSS loops against `OSS`, in one process on the shipped MNIST network.

    python experiments/benchmarks/oss_speed.py --samples 8 --threads 2

Prints network evaluations and seconds per sample for the five step counts {5, 6, 8, 10, 20}, which the loops search one
after the other, a teacher each, and for the one count 10.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from published_loops import FlowView, published_search

from optsteps.denoisers import Denoiser, EDMDenoiser
from optsteps.methods import OSS, SearchProblem
from optsteps.models.checkpoint import load_network
from optsteps.models.unet import UNet
from optsteps.processes import EDM
from optsteps.schedules import build_schedule
from optsteps.solvers import build_solver

COUNTS = {"(a) five counts": [5, 6, 8, 10, 20], "(b) one count": [10]}


def loops(problem: SearchProblem, counts: Sequence[int], batch_nodes: bool) -> float:
    """The released search, image by image and count by count; evaluations per sample."""
    evaluations = 0
    for number in range(len(problem.noise)):
        cond = None if problem.cond is None else problem.cond[number : number + 1]
        for steps in counts:
            view = FlowView(problem.denoiser, problem.process, problem.teacher.times.flip(0).tolist())
            z = problem.noise[number : number + 1] * (problem.teacher.scale.item() / view.size[-1])
            published_search(view, z, cond, steps, batch_nodes)
            evaluations += view.evaluations
    return evaluations / len(problem.noise)


def searchers(max_batch: int) -> dict[str, Callable[[SearchProblem, Sequence[int]], float]]:
    """Every way of searching, as functions to evaluations per sample; the first is what the others are compared to."""
    return {
        "loops, batch 1": lambda problem, counts: loops(problem, counts, batch_nodes=False),
        "loops, nodes as a batch": lambda problem, counts: loops(problem, counts, batch_nodes=True),
        "OSS(mean)": lambda problem, counts: OSS(average="mean", max_batch=max_batch).search(problem, counts).nfe,
        "OSS(published, free)": lambda problem, counts: (
            OSS(published=True, start="free", max_batch=max_batch).search(problem, counts).nfe
        ),
    }


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
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--teacher-steps", type=int, default=100)
    parser.add_argument("--max-batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="shipped:mnist", help="a weights file of a U-Net, or shipped:NAME")
    parser.add_argument("--side", type=int, default=28, help="of the images")
    return parser.parse_args()


def main() -> None:
    args = parsed()
    torch.set_num_threads(args.threads)
    network, notes = load_network(args.weights, UNet)
    denoiser = EDMDenoiser(network, EDM(), notes["sigma_data"])
    generator = torch.Generator().manual_seed(args.seed)
    problem = SearchProblem(
        denoiser=denoiser,
        process=EDM(),
        solver=build_solver("euler"),
        noise=torch.randn(args.samples, 1, args.side, args.side, generator=generator),
        cond=torch.arange(args.samples) % 10,
        teacher=build_schedule("edm", EDM(), args.teacher_steps, t_max=80.0, t_min=0.002),
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"{args.samples} samples, N = {args.teacher_steps}, {parameters:,} parameters, {args.threads} threads")
    print(f"{'':18}{'search':26}{'evaluations':>12}{'seconds':>10}{'evaluations':>14}{'time':>9}")
    print(f"{'':44}{'per sample':>12}{'per sample':>12}{'of the loops':>13}{'':>4}faster")
    for name, counts in COUNTS.items():
        reference: tuple[float, float] | None = None
        for search, function in searchers(args.max_batch).items():
            start = time.perf_counter()
            evaluations = function(problem, counts)
            seconds = (time.perf_counter() - start) / args.samples
            reference = reference or (evaluations, seconds)
            print(
                f"{name:18}{search:26}{evaluations:12.0f}{seconds:12.2f}{evaluations / reference[0]:12.3f}x"
                f"{reference[1] / seconds:9.2f}x",
                flush=True,
            )
    one, many = (seconds_per_evaluation(denoiser, batch, args.side) for batch in (1, args.max_batch))
    print(
        f"bound: an evaluation takes {1e3 * one:.2f} ms alone and {1e3 * many:.2f} ms in a batch of {args.max_batch}, "
        f"{one / many:.2f}x less; times the ratio of evaluations that is all a search can gain on the network"
    )


if __name__ == "__main__":
    main()
