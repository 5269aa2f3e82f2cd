"""Memory of a search on latents of FLUX's size: what OSS keeps beside the network.

python experiments/benchmarks/search_memory.py --shape 4096 64 --steps 100 --student-steps 10 --samples 1

A stand-in for the network (its prediction costs nothing and keeps nothing) is searched with; the peak of this process's
memory above that before the search is what the search itself holds.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import Tensor

from optsteps import SearchProblem, build_schedule
from optsteps.methods import OSS
from optsteps.noise import unit_noise
from optsteps.processes import Flow
from optsteps.solvers import build_solver


def shrunk(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
    """The denoiser of data that are unit Gaussians, under a flow: (1 - t) x / ((1 - t)^2 + t^2)."""
    t = t.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    return x * ((1 - t) / ((1 - t) ** 2 + t**2))


def peak() -> float:
    """Of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs="+", default=[4096, 64])
    parser.add_argument("--steps", type=int, default=100, help="of the teacher")
    parser.add_argument("--student-steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--solver", default="euler")
    options = parser.parse_args()
    noise = unit_noise(0, range(options.samples), tuple(options.shape))
    teacher = build_schedule("flow_shift", Flow(), options.steps, t_max=0.999, t_min=0.001, shift=3.0)
    problem = SearchProblem(shrunk, Flow(), build_solver(options.solver), noise, teacher)
    before, begun = peak(), time.perf_counter()
    found = OSS(max_batch=4).search(problem, [options.student_steps])
    one = noise[0].numel() * 4 / 2**20
    print(
        f"{options.samples} samples of {options.shape} ({one:.2f} MiB each in float32), {options.solver}, "
        f"N = {options.steps}, M = {options.student_steps}: {peak() - before:.2f} GiB above {before:.2f} GiB, "
        f"{(peak() - before) * 1024 / options.samples / one / (options.steps + 1):.1f} times the teacher's states; "
        f"{found.nfe:.0f} evaluations a sample, {time.perf_counter() - begun:.0f} s beside the network"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
