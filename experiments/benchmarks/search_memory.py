"""Memory of a search on latents of FLUX's size: what OSS keeps beside the network.

python experiments/benchmarks/search_memory.py --shape 4096 64 --steps 100 --student-steps 10 --samples 1

A stand-in for the network (its prediction costs nothing and keeps nothing) is searched with; the peak of this process's
memory above that before the search is what the search itself holds. With --scratch FOLDER states lie in files there, as
with runner.states=disk: pages of files, which the system drops when it needs the room, do not count.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from optsteps import SearchProblem, build_schedule
from optsteps.methods import OSS
from optsteps.noise import unit_noise
from optsteps.processes import Flow
from optsteps.solvers import build_solver
from optsteps.trajectories import Cache


def shrunk(x: Tensor, t: Tensor, cond: object = None) -> Tensor:
    """The denoiser of data that are unit Gaussians, under a flow: (1 - t) x / ((1 - t)^2 + t^2)."""
    t = t.to(x).reshape(-1, *(1,) * (x.ndim - 1))
    return x * ((1 - t) / ((1 - t) ** 2 + t**2))


class Peak(threading.Thread):
    """Watches this process's memory that is no file's, GiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.most = self.now()
        self.start()

    def now(self) -> float:
        kibibytes = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
        assert kibibytes is not None
        return int(kibibytes[1]) / 2**20

    def run(self) -> None:
        while True:
            self.most = max(self.most, self.now())
            time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs="+", default=[4096, 64])
    parser.add_argument("--steps", type=int, default=100, help="of the teacher")
    parser.add_argument("--student-steps", type=int, default=10)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--solver", default="euler")
    parser.add_argument("--average", default="mean")
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--scratch", type=Path, help="a folder for the states")
    options = parser.parse_args()
    noise = unit_noise(0, range(options.samples), tuple(options.shape))
    teacher = build_schedule("flow_shift", Flow(), options.steps, t_max=0.999, t_min=0.001, shift=3.0)
    solver, cache = build_solver(options.solver), Cache(scratch=options.scratch)
    problem = SearchProblem(shrunk, Flow(), solver, noise, teacher, cache=cache)
    peak, begun = Peak(), time.perf_counter()
    method = OSS(average=options.average, max_batch=4, shard_size=options.shard_size)
    found = method.search(problem, [options.student_steps])
    held = peak.most - peak.before
    one = noise[0].numel() * 4 / 2**20
    print(
        f"{options.samples} samples of {options.shape} ({one:.2f} MiB each in float32), {options.solver}, "
        f"{options.average}, {options.shard_size} at a time, states {'on disk' if options.scratch else 'in memory'}, "
        f"N = {options.steps}, M = {options.student_steps}: {held:.2f} GiB above {peak.before:.2f} GiB, "
        f"{held * 1024 / options.samples / one / (options.steps + 1):.1f} times the teacher's states; "
        f"{found.nfe:.0f} evaluations a sample, {time.perf_counter() - begun:.0f} s beside the network"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
