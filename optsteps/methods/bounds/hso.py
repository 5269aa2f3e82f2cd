"""HSO: the times of the least sum of mid-point errors (arXiv:2511.11688), found exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from optsteps.methods.base import SearchProblem
from optsteps.methods.between_ends import BetweenEnds, Levels, with_range
from optsteps.methods.bounds.error_bound import prediction_error
from optsteps.methods.handmade import HandMade
from optsteps.methods.paths.shortest_path import shortest_path
from optsteps.processes import Process
from optsteps.schedules import Final, Schedule, build_schedule
from optsteps.schedules.families import finite_levels

# the authors' range search: the first and the last time as shares of the clock, and the least spacing in that clock,
# falling linearly between two step counts
_FIRST, _LAST = (0.96, 1.0), (0.01, 0.03)
_SPACING = ((4, 0.15), (20, 0.01))
_TRIED = 5


class HSO(BetweenEnds):
    """The schedule of least sum_i w(lambda_{i+1/2}) (e^lambda_{i+1} - e^lambda_i), with w the assumed error of D at the
    middle of a step in log-SNR, sigma^p / alpha (see `error_bound`).

    The sum is additive over steps, so its minimum on a fine grid of log-SNR is a shortest path. The authors approach it
    by a local optimiser from EDM schedules whose exponent they vary by evolution; an exact minimum needs neither. The
    method asks the network nothing and knows no solver. The ends are as of `DM`.

    Their evolution also varies the range, which here is an option: the first time between 0.96 and 1 and the last
    between 0.01 and 0.03 of the process's clock, on a grid, by the same sum with a penalty. A shorter range nearly
    always has the lesser sum, so compare schedules of one range.

    Args:
        p: of the assumed error: 2 for latents. For pixels the authors of the assumption take 1, and with it the sum is
            least, exactly, for uniform log-SNR.
        penalty: weight of the penalty sum_i max(0, d - |t_{i+1} - t_i|)^2 on times that crowd, t a share of the
            process's clock and d between 0.15 for 4 steps and 0.01 for 20. Their weight is not known to us; without a
            penalty the exact minimum does not crowd.
        search_range: whether the range is searched; `noise_max` and `noise_min` must then be None.
        nodes: of the grid, uniform in log-SNR.
        final, noise_max, noise_min, max_batch, shard_size: see `BetweenEnds`.

    Raises:
        ValueError: negative p or penalty, fewer than 2 nodes, both a range and its search; in `check`, more steps than
            the grid has, or a penalty or search of the range for EDM, whose clock has no end.
    """

    def __init__(
        self,
        p: float = 2.0,
        penalty: float = 0.0,
        search_range: bool = False,
        nodes: int = 400,
        final: Final | None = None,
        noise_max: Levels = None,
        noise_min: Levels = None,
        max_batch: int = 512,
        shard_size: int = 64,
    ) -> None:
        super().__init__(final, noise_max, noise_min, max_batch, shard_size)
        for name, value in (("p", p), ("penalty", penalty)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, got {value}")
        if nodes < 2:
            raise ValueError(f"nodes must be at least 2, got {nodes}")
        if search_range and (noise_max, noise_min) != (None, None):
            raise ValueError("search_range chooses the range; leave out search_range, or noise_max and noise_min")
        self.p, self.penalty, self.search_range, self.nodes = p, penalty, search_range, nodes

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        if (self.penalty or self.search_range) and not math.isfinite(problem.process.t_limit):
            raise ValueError(
                "hso's penalty and its search of the range are stated in shares of the process's clock, which has no "
                f"end under {problem.process!r}; leave both out"
            )
        if max(steps) >= self.nodes:
            raise ValueError(f"{max(steps)} steps were asked for, but hso's grid has {self.nodes} nodes; raise nodes")
        super().check(problem, steps)

    def between(self, process: Process, steps: int, t_max: float, t_min: float, final: Final) -> Schedule:
        def hso(process: Process, ramp: Tensor, ends: Tensor) -> Tensor:
            first, last = (-finite_levels(process, ends, "hso", positive=True).log()).tolist()
            return _least(process, first, last, len(ramp) + 1, self.p, self.penalty, self.nodes)[0][1:-1]

        schedule = build_schedule(hso, process, steps, t_max, t_min, final)
        return replace(schedule, metadata={**schedule.metadata, "p": self.p, "penalty": self.penalty})

    def outlines(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        found = HandMade("logsnr", self.final, self.noise_max, self.noise_min).schedules(problem, steps)
        return found[:1] if self.search_range else found

    def schedules(self, problem: SearchProblem, steps: int) -> list[Schedule]:
        if not self.search_range:
            return super().schedules(problem, steps)
        process, ends_clean = problem.process, problem.teacher.ends_clean
        final: Final = self.final or ("zero" if ends_clean else "t_min")
        tried = []
        for first, last in product(_shares(*_FIRST), _shares(*_LAST)):
            t_max, t_min = min(first * process.t_limit, process.t_finite), last * process.t_limit
            ends = process.log_snr([t_max, t_min]).tolist()
            inner = steps - (final == "zero")
            tried.append((_least(process, *ends, inner, self.p, self.penalty, self.nodes)[1], t_max, t_min))
        _, t_max, t_min = min(tried)
        return [with_range(self.between(process, steps, t_max, t_min, final), "its method's")]


@lru_cache(maxsize=1024)
def _least(
    process: Process, first: float, last: float, steps: int, p: float, penalty: float, nodes: int
) -> tuple[Tensor, float]:
    """Times [n+1] from log-SNR `first` to `last` of the least sum on the grid, and the sum."""
    log_snr = torch.linspace(first, last, nodes, dtype=torch.float64)
    times = process.time_of_log_snr(log_snr)
    costs = midpoint_errors(log_snr, p)
    if penalty:
        crowded = least_spacing(steps) - (times[:, None] - times).abs() / process.t_limit
        costs = costs + penalty * crowded.clamp(min=0).square()
    path = shortest_path(costs, [steps])[steps]
    return times[path], float(costs[path[:-1], path[1:]].sum())


def midpoint_errors(log_snr: Tensor, p: float) -> Tensor:
    """Costs [n, n] of the steps between the log-SNRs [n]."""
    middle = (log_snr[:, None] + log_snr) / 2
    return prediction_error(middle, p) * (log_snr.exp() - log_snr.exp()[:, None])


def least_spacing(steps: int) -> float:
    """The spacing of times, as a share of the clock, below which the penalty begins."""
    (few, wide), (many, narrow) = _SPACING
    share = min(max((steps - few) / (many - few), 0.0), 1.0)
    return wide + share * (narrow - wide)


def _shares(low: float, high: float) -> list[float]:
    shares: list[float] = torch.linspace(low, high, _TRIED, dtype=torch.float64).tolist()
    return shares
