"""Likelihood and distance of low-dimensional samples to a distribution whose density is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement, sample_wise, set_wise
from optsteps.metrics.statistics import Interval, jackknife, spread


class Distribution(Protocol):
    """A distribution that can be drawn from and has a density, such as `GaussianMixture`."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples [n, d]."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of x [B, d] -> [B], nats."""
        ...


def negative_log_likelihood(samples: Tensor, log_prob: Callable[[Tensor], Tensor]) -> Tensor:
    """-log p of each sample under the true distribution.

    Its mean is the cross-entropy of samples and distribution. For perfect samples this is the distribution's `entropy`,
    and for samples that crowd its modes it is lower still. So compare it with the entropy; the least is not the best.

    Args:
        samples: [B, d].
        log_prob: log-density [B, d] -> [B], nats.

    Returns:
        float64 [B], nats.

    Raises:
        ValueError: log_prob did not return one number per sample.
    """
    log_density = log_prob(samples)
    if log_density.shape != samples.shape[:1]:
        raise ValueError(f"log_prob returned {tuple(log_density.shape)} for {len(samples)} samples; expected one each")
    return -log_density.to(torch.float64)


def entropy(distribution: Distribution, n: int, generator: torch.Generator | None = None) -> Interval:
    """Differential entropy in nats by Monte Carlo over n samples, with its 95 % interval.

    Raises:
        ValueError: n is below 2.
    """
    return spread(negative_log_likelihood(distribution.sample(n, generator), distribution.log_prob))


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0, p: float = 2) -> float:
    """Sliced Wasserstein distance of order p: (mean over directions of W_p^p)^(1/p) of the projected samples.

    Each one-dimensional distance is exact, the directions are random (Bonneel et al. 2015, "Sliced and Radon
    Wasserstein Barycenters of Measures").

    Args:
        a, b: samples [n, d] and [m, d]; n and m may differ.
        projections: number of directions, uniform on the sphere. In one dimension the result is W_p itself.
        seed: of the directions; the same seed compares two methods along the same directions.
        p: order, at least 1.

    Returns:
        The distance, in the unit of the samples.

    Raises:
        ValueError: the shapes do not fit, a sample is not finite, p is below 1, or there is nothing to average.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or a.numel() == 0 or b.numel() == 0:
        raise ValueError(f"expected samples [n, d] and [m, d], got {tuple(a.shape)} and {tuple(b.shape)}")
    if p < 1 or projections < 1:
        raise ValueError(f"p and projections must be at least 1, got p={p} and projections={projections}")
    directions = _directions(a.shape[1], projections, seed)
    return _distance(_projected(a, directions), _projected(b, directions), p)


class DistributionJudge(Judge):
    """Negative log-likelihood (nats) under a known density, and sliced Wasserstein distance to true samples.

    Samples less spread than the truth have a *lower* NLL than true samples, so read it beside the entropy.

    Args:
        distribution: the known density.
        samples: number of true samples to compare with.
    """

    def __init__(self, distribution: Distribution, samples: int) -> None:
        self.distribution = distribution
        self._truth = TrueSamples(distribution.sample(samples, torch.Generator().manual_seed(0)))

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"nll": None, "sliced_wasserstein": False}

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        x = x.cpu().double()
        return {
            "nll": sample_wise(negative_log_likelihood(x, self.distribution.log_prob), None),
            "sliced_wasserstein": self._truth.distance(x),
        }


class TrueSamples:
    """What the sliced Wasserstein distance of other samples is measured to, with an interval from a jackknife of these.

    Args:
        samples: [m, d].
    """

    def __init__(self, samples: Tensor) -> None:
        self._directions = _directions(samples.shape[1])
        self._projected = _projected(samples, self._directions)

    def distance(self, x: Tensor) -> Measurement:
        def measured(index: Tensor) -> Tensor:
            distance = _distance(_projected(x[index], self._directions), self._projected)
            return torch.tensor(distance, dtype=torch.float64)

        return set_wise(float(measured(torch.arange(len(x)))), jackknife(measured, len(x), groups=10), False)


def _directions(dimensions: int, number: int = 256, seed: int = 0) -> Tensor:
    """Random directions, uniform on the sphere [d, k], float64."""
    directions = torch.randn(dimensions, number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return directions / directions.norm(dim=0)


def _projected(x: Tensor, directions: Tensor) -> Tensor:
    """The coordinates of x [n, d] along each direction [d, k] in increasing order -> [k, n], float64.

    Raises:
        ValueError: a sample is not finite.
    """
    x = x.detach().to("cpu", torch.float64)
    if not x.isfinite().all():
        raise ValueError("samples contain values that are not finite; the sampler that made them diverged")
    # numpy sorts several times faster than torch
    return torch.from_numpy(np.sort((x @ directions).T.contiguous().numpy(), axis=1))


def _distance(a: Tensor, b: Tensor, p: float = 2) -> float:
    """(mean of W_p^p)^(1/p) over the directions of projected samples [k, n] and [k, m]."""
    return float(_wasserstein_power(a, b, p).mean().item() ** (1 / p))


def _wasserstein_power(a: Tensor, b: Tensor, p: float) -> Tensor:
    """W_p^p between the sorted rows of a [k, n] and b [k, m] -> [k]: the integral of |F_a^-1 - F_b^-1|^p over
    (0, 1]."""
    n, m = a.shape[1], b.shape[1]
    # Both quantile functions are constant between neighbouring multiples of 1/n and 1/m. Counted in units of 1/(n m)
    # these are integers, so that equal levels are equal without rounding.
    levels = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    widths = levels.diff(prepend=levels.new_zeros(1)).to(torch.float64) / (n * m)
    gaps = a.index_select(1, (levels - 1) // m) - b.index_select(1, (levels - 1) // n)
    return gaps.abs() ** p @ widths
