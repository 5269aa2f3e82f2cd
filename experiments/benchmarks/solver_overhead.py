"""What the loop around the network costs: microseconds per step on a tiny tensor, `sample` against k-diffusion's loops.

    python experiments/benchmarks/solver_overhead.py

Needs the k-diffusion package. Both walk the same schedule with the same trivial denoiser in one process on one thread,
in turns, and the least of the repetitions counts; the denoiser's own time is taken off both.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from optsteps import build_schedule, sample
from optsteps.conditions import Cond
from optsteps.processes import EDM
from optsteps.solvers import build_solver

PAIRS = {
    "euler": ("sample_euler", {}),
    "heun": ("sample_heun", {}),
    "dpm2": ("sample_dpm_2", {}),
    "dpmpp_2s": ("sample_dpmpp_2s_ancestral", {"eta": 0.0}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}),
    "sde_dpmpp_2s": ("sample_dpmpp_sde", {}),
    "sde_dpmpp_2m": ("sample_dpmpp_2m_sde", {}),
    "sde_dpmpp_3m": ("sample_dpmpp_3m_sde", {}),
}


def shrink(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
    return 0.5 * x


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=50)
    args = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, at import
        from k_diffusion import sampling as theirs
    warnings.filterwarnings("ignore", module="torchsde")  # of rounding at an interval's end

    torch.set_num_threads(1)
    schedule = build_schedule("edm", EDM(), args.steps, t_max=80.0, t_min=0.002)
    sigmas, noise = schedule.times.float(), torch.randn(1, 4)
    print(f"microseconds per step, {args.steps} steps of a 1 x 4 tensor")
    print(f"{'solver':14} {'k-diffusion':>12} {'optsteps':>12}")
    for name, (other, options) in PAIRS.items():
        solver, loop = build_solver(name), getattr(theirs, other)
        calls = solver.nfe(schedule)

        def ours(solver: object = solver) -> Tensor:
            return sample(shrink, schedule, solver, noise)  # type: ignore[arg-type]

        def their(loop: Callable[..., Tensor] = loop, options: dict[str, float] = options) -> Tensor:
            return loop(shrink, noise * 80, sigmas, disable=True, **options)

        def network(calls: int = calls) -> None:
            for _ in range(calls):
                shrink(noise, sigmas[:1])

        for run in (ours, their, network):
            run()
        times = [[seconds(run) for run in (their, ours, network)] for _ in range(args.repeat)]
        them, us, own = (min(column) / args.steps * 1e6 for column in zip(*times, strict=True))
        print(f"{name:14} {them - own:12.1f} {us - own:12.1f}")


if __name__ == "__main__":
    main()
