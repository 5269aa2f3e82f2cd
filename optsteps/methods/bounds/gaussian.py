"""The solver's own error on a Gaussian with the data's covariance, minimised over the times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.denoisers import Denoiser, call_nfe
from optsteps.methods.base import Evaluations, SearchProblem, SearchResult, ShardedMethod
from optsteps.methods.bounds.minimise import least
from optsteps.methods.bounds.starts import checked_starts
from optsteps.processes import Process
from optsteps.sampling import sample
from optsteps.schedules import FAMILIES, Schedule
from optsteps.trajectories import Trajectories

# samples whose covariance is taken where samples and entries are both more
_MOST = 4096
# cosine starts from these multiples of the data's standard deviation
_SCALES = (0.5, 1.0, 2.0, 4.0)


class Gaussian(ShardedMethod):
    """The schedule on which the problem's solver errs least where data are Gaussian with the covariance of ours.

    Along an eigenvector of the covariance with the eigenvalue m, such data have D = alpha m x / (alpha^2 m + sigma^2).
    The walk and the exact ODE both multiply the initial noise by a number there, and the expected squared distance of
    their ends is the sum over eigenvectors of the squared difference of the two numbers. The walk is that of the real
    solver with its orders, on one scalar for each eigenvalue. Gradients go through the walk to the times, from several
    starts, because there are many local minima.

    The model is asked nothing where there are clean samples; otherwise the covariance is that of the teacher's samples.
    A few samples show the largest eigenvalues alone, and these too large, so the covariance is shrunk towards a
    multiple of the identity, see `covariance_spectrum`.

    The schedule has the teacher's ends. Where the teacher starts at an infinite noise level or ends at level 0, the
    inner times lie between the largest finite one (`Process.t_finite`) and its last positive time.

    Args:
        source: of the covariance: "data", the problem's clean samples, or "teacher". None: the data where there are
            any.
        starts: families of `optsteps.schedules`; "cosine" is tried with several multiples of the data's standard
            deviation.
        iterations: of the optimiser from every start, at most.
        least_gap: the least gap in log-SNR as a share of the mean gap.
        max_batch: most samples in one call of the denoiser.
        shard_size: samples that one shard of the teacher's walks holds.

    `SearchResult.evidence`: "spectrum", the eigenvalues and how often each occurs [2, K], and "errors", by step count
    the root of the expected squared distance over that of the exact end.

    Raises:
        ValueError: an unknown source or start, no start, or `least_gap` outside [0, 1); in `check`, a stochastic
            solver, fewer than 2 samples, or a problem without data where the source is "data".
    """

    name = "gaussian"

    def __init__(
        self,
        source: Literal["data", "teacher"] | None = None,
        starts: Sequence[str] = ("logsnr", "edm", "cosine"),
        iterations: int = 100,
        least_gap: float = 0.01,
        max_batch: int = 512,
        shard_size: int = 64,
    ) -> None:
        if source not in ("data", "teacher", None):
            raise ValueError(f"source must be 'data', 'teacher' or None, got {source!r}")
        if not 0 <= least_gap < 1:
            raise ValueError(f"least_gap must be at least 0 and below 1, got {least_gap}")
        self.source, self.starts = source, checked_starts(starts)
        self.iterations, self.least_gap = iterations, least_gap
        self.max_batch, self.shard_size = max_batch, shard_size

    def check(self, problem: SearchProblem, steps: Sequence[int]) -> None:
        super().check(problem, steps)
        if problem.solver.stochastic:
            raise ValueError(
                "gaussian compares the solver's walk with the exact ODE, which the stochastic solver "
                f"{problem.solver.name!r} does not follow; choose a deterministic solver"
            )
        if self.source == "data" and problem.data is None:
            raise ValueError(
                "gaussian with source='data' needs clean samples and the problem has none; give it a data set, or let "
                "the source be the teacher"
            )
        if not self._from_teacher(problem) and problem.data is not None and len(problem.data) < 2:
            raise ValueError("gaussian needs at least 2 clean samples for a covariance, and the problem has 1")
        if self._from_teacher(problem) and len(problem.noise) < 2:
            raise ValueError(
                "gaussian needs at least 2 of the teacher's samples for a covariance, and the search has 1"
            )

    def evaluations(self, problem: SearchProblem, steps: Sequence[int]) -> Evaluations:
        """The teacher's walk, or nothing where the covariance is that of data."""
        if not self._from_teacher(problem):
            return Evaluations(0)
        return Evaluations(problem.walker.nfe(problem.teacher) * len(problem.noise) * call_nfe(problem.denoiser))

    def partial(
        self, problem: SearchProblem, steps: Sequence[int], index: Tensor, previous: Any = None, decision: Any = None
    ) -> Tensor | None:
        """The teacher's samples [b, D]; None where the data serve."""
        if not self._from_teacher(problem):
            return None
        trajectories = Trajectories(problem.denoiser, self.max_batch, problem.cache)
        noise, cond = problem.samples(index)
        return trajectories.ends(problem.teacher, problem.walker, noise, cond, index=index).flatten(1).cpu()

    def combine(
        self, problem: SearchProblem, steps: Sequence[int], partials: Sequence[Tensor | None], decision: Any = None
    ) -> SearchResult:
        walked = [part for part in partials if part is not None]
        clean = torch.cat(walked) if walked or problem.data is None else problem.data
        error = GaussianError(problem, *covariance_spectrum(clean.flatten(1)))
        found = {n: self._least(error, n) for n in steps}
        described = {
            "method": self.name,
            **problem.solver.described,
            "source": "teacher" if self._from_teacher(problem) else "data",
            "samples": len(clean),
        }
        scale = problem.teacher.initial_scale
        schedules = {
            n: Schedule(times, problem.process, initial_scale=scale, metadata=described)
            for n, (times, _) in found.items()
        }
        return SearchResult(
            schedules,
            evidence={
                "spectrum": torch.stack([error.variances, error.counts]),
                "errors": {n: value for n, (_, value) in found.items()},
            },
        )

    def _from_teacher(self, problem: SearchProblem) -> bool:
        return self.source == "teacher" or (self.source is None and problem.data is None)

    def _least(self, error: GaussianError, steps: int) -> tuple[Tensor, float]:
        """The times [n+1] of the least error that is found, and this."""
        first, last = error.inner_ends
        ends = error.process.time_of_log_snr([first, last])
        ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:-1]
        deviation = float((error.variances * error.counts).sum() / error.counts.sum()) ** 0.5
        starts = []
        for name in self.starts:
            for parameters in [{"scale": deviation * s} for s in _SCALES] if name == "cosine" else [{}]:
                inner = FAMILIES[name](error.process, ramp, ends, **parameters)
                starts.append(torch.cat([ends[:1], inner, ends[1:]]))
        if steps == 1:
            return error.times(error.process.log_snr(ends)), float(error(error.process.log_snr(ends)))
        places, value = least(
            lambda log_snr: error(log_snr).log(),
            [error.process.log_snr(times) for times in starts],
            self.least_gap,
            self.iterations,
        )
        return error.times(places), float(torch.tensor(value).exp())


@dataclass(frozen=True)
class GaussianError:
    """The error of the problem's solver on a Gaussian.

    Args:
        problem: its process, its solver and the ends of its teacher count.
        variances: eigenvalues of the covariance [K], float64.
        counts: how often each occurs [K].
    """

    problem: SearchProblem
    variances: Tensor
    counts: Tensor

    @property
    def process(self) -> Process:
        return self.problem.process

    @property
    def inner_ends(self) -> tuple[float, float]:
        """Log-SNRs that the inner times lie between."""
        times, process = self.problem.teacher.times, self.process
        last = times[-2] if self.problem.teacher.ends_clean else times[-1]
        first = min(float(times[0]), process.t_finite)
        return float(process.log_snr(first)), float(process.log_snr(last))

    def times(self, log_snr: Tensor) -> Tensor:
        """The times [n+1] of the teacher's ends with the log-SNRs [n+1] between."""
        ends = self.problem.teacher.times
        return torch.cat([ends[:1], self.process.time_of_log_snr(log_snr[1:-1]), ends[-1:]])

    def __call__(self, log_snr: Tensor) -> Tensor:
        """Root of the expected squared distance between the walk's end and the exact ODE's over that of the exact end;
        a scalar, with a graph where the log-SNRs [n+1] have one."""
        teacher, unit = self.problem.teacher, torch.ones(len(self.variances), 1, dtype=torch.float64)
        schedule = Schedule(self.times(log_snr), self.process, initial_scale=teacher.initial_scale)
        walked = sample(gaussian_denoiser(self.process, self.variances), schedule, self.problem.solver, unit)[:, 0]
        alpha, sigma = self.process.alpha(teacher.times[[0, -1]]), self.process.sigma(teacher.times[[0, -1]])
        start, end = (alpha**2 * self.variances[:, None] + sigma**2).unbind(1)
        exact = schedule.scale.detach() * (end / start).sqrt()
        return ((self.counts * (walked - exact).square()).sum() / (self.counts * exact.square()).sum()).sqrt()


def gaussian_denoiser(process: Process, variances: Tensor) -> Denoiser:
    """The exact denoiser of scalars [K, 1] that are Gaussian about 0 with the variances [K]."""

    def denoiser(x: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        return (alpha * variances / (alpha**2 * variances + sigma**2))[:, None] * x

    return denoiser


def covariance_spectrum(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [K] of the covariance of samples [S, D], descending, and how often each occurs [K], float64.

    The sample covariance is shrunk towards the identity times its mean eigenvalue by the share that has the least
    expected squared error for Gaussian data (OAS, Chen et al., arXiv:0907.4698, Eq. 23).
    """
    samples = samples.double()
    if min(samples.shape) > _MOST:
        samples = samples[:_MOST]
    size, entries = samples.shape
    centred = samples - samples.mean(0)
    products = centred @ centred.T if size < entries else centred.T @ centred
    values = torch.linalg.eigvalsh(products).flip(0).clamp(min=0).cpu() / (size - 1)
    counts = torch.ones_like(values)
    if entries > len(values):
        values, counts = torch.cat([values, values.new_zeros(1)]), torch.cat([counts, counts.new_ones(1)])
        counts[-1] = entries - size
    total, squares = (counts * values).sum(), (counts * values**2).sum()
    if total == 0:
        raise ValueError("the samples of the covariance are all the same")
    spread = (size + 1 - 2 / entries) * (squares - total**2 / entries)
    share = float(((1 - 2 / entries) * squares + total**2) / spread) if spread > 0 else 1.0
    share = min(1.0, share)
    return (1 - share) * values + share * total / entries, counts
