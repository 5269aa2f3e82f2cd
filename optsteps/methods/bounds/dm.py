"""DM-NonUniform: the times of the least error bound (Xue et al., arXiv:2402.17376)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.between_ends import BetweenEnds, Levels
from optsteps.methods.bounds.error_bound import error_bound, prediction_error
from optsteps.methods.bounds.minimise import least
from optsteps.methods.bounds.starts import checked_starts
from optsteps.methods.handmade import HandMade
from optsteps.processes import Process
from optsteps.schedules import FAMILIES, Final, Schedule, build_schedule
from optsteps.schedules.families import finite_levels


class DM(BetweenEnds):
    """The schedule whose predictions' assumed errors, sigma^p / alpha each, add up to the least in the last sample.

    The sum is that of a multistep exponential integrator of the orders 1, 2, 3, ..., 3, 2, 1, whatever solver samples,
    see `error_bound`. The method asks the network nothing, so all models of one process and range get one schedule. It
    is not the dynamic programming of Watson et al. (arXiv:2106.03802), which is called DM as well.

    Errors that are added with their signs cancel, and the minimum is where they do, which no model's errors will. The
    authors therefore let the first 3 steps count by themselves up to 7 steps, and from 8 on rely on the optimiser: the
    bound is not smooth and has many minima there, and theirs stays near its start, uniform log-SNR for pixels and
    uniform time for latents. Minimised from several starts, that bound gives worse schedules than uniform log-SNR.
    Here all steps but the last two count by themselves, which is the authors' rule for 4 and 5 steps.

    The log-SNRs lie between finite ends. Where the teacher starts at an infinite noise level (a flow's t = 1), so does
    the schedule, and the bound is that of a walk from the largest finite level (`Process.t_finite`). Where the teacher
    ends at level 0, the bound is that of the steps to its last positive time, and a last step goes to 0.

    Args:
        p: of the assumed error. The authors advise 1 for pixels and 2 for latents.
        truncated: number of first steps whose errors count by themselves. None: all but two, and at least 3. The
            authors' is 3 up to 7 steps and 0 beyond.
        starts: families of `optsteps.schedules` without further parameters.
        least_gap: the least gap in log-SNR as a share of the mean gap; the authors' is 0.
        final, noise_max, noise_min, max_batch, shard_size: see `BetweenEnds`. Only a choice among ranges, as under a
            flow by default, takes evaluations.

    Raises:
        ValueError: p that is negative, no start or an unknown one, `truncated` below 0, or `least_gap` outside [0, 1).
    """

    def __init__(
        self,
        p: float = 1.0,
        truncated: int | None = None,
        starts: Sequence[str] = ("logsnr", "time_uniform", "edm", "time_quadratic"),
        least_gap: float = 0.01,
        final: Final | None = None,
        noise_max: Levels = None,
        noise_min: Levels = None,
        max_batch: int = 512,
        shard_size: int = 64,
    ) -> None:
        super().__init__(final, noise_max, noise_min, max_batch, shard_size)
        if not 0 <= p < float("inf"):
            raise ValueError(f"p must be a number of at least 0, got {p}")
        if truncated is not None and truncated < 0:
            raise ValueError(f"truncated must be at least 0, got {truncated}")
        if not 0 <= least_gap < 1:
            raise ValueError(f"least_gap must be at least 0 and below 1, got {least_gap}")
        self.p, self.truncated, self.starts, self.least_gap = p, truncated, checked_starts(starts), least_gap

    def between(self, process: Process, steps: int, t_max: float, t_min: float, final: Final) -> Schedule:
        def dm(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
            first, last = (-finite_levels(process, ends, "dm", positive=True).log()).tolist()
            found = least_bound(
                process, first, last, len(ramp) + 1, self.p, self.truncated, self.starts, self.least_gap
            )
            return process.time_of_log_snr(found[1:-1])

        schedule = build_schedule(dm, process, steps, t_max, t_min, final)
        return replace(schedule, metadata={**schedule.metadata, "p": self.p})

    def outlines(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        return HandMade("logsnr", self.final, self.noise_max, self.noise_min).schedules(problem, steps)


@lru_cache(maxsize=1024)
def least_bound(
    process: Process,
    first: float,
    last: float,
    steps: int,
    p: float = 1.0,
    truncated: int | None = None,
    starts: Sequence[str] = ("logsnr",),
    least_gap: float = 0.0,
) -> Tensor:
    """Log-SNRs [n+1] from `first` to `last` of the least bound that is found."""
    ends = torch.tensor([first, last], dtype=torch.float64)
    if steps == 1:
        return ends
    alone = max(3, steps - 2) if truncated is None else truncated
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:-1]
    inner = [process.log_snr(FAMILIES[name](process, ramp, process.time_of_log_snr(ends))) for name in starts]

    def bound(log_snr: Tensor) -> Tensor:
        return error_bound(log_snr, prediction_error(log_snr[:-1], p), alone)

    return least(bound, [torch.cat([ends[:1], places, ends[1:]]) for places in inner], least_gap)[0]
