"""Uncertainty of a reported number, and what may be claimed from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

Verdict = Literal["better", "worse", "no better"]

# bounds the memory of a bootstrap to some 70 MB whatever the number of samples
_DRAWS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval [low, high]; `0 in interval` asks whether it covers a number."""

    value: float
    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high


def bootstrap(values: Tensor, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over samples with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Args:
        values: one number per sample [B], B at least 2.
        level: confidence level between 0 and 1.
        resamples: number of bootstrap samples.
        seed: of a generator of its own; the same seed gives the same interval and leaves global generators alone.

    Raises:
        ValueError: fewer than two values, a value that is not finite, a level outside (0, 1), no resamples.
    """
    values = _checked(values, level)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(values))
    means = torch.cat(
        [
            values[torch.randint(len(values), (min(rows, resamples - done), len(values)), generator=generator)].mean(1)
            for done in range(0, resamples, rows)
        ]
    )
    return percentile_interval(values.mean().item(), means, level)


def stratified_sums(values: Tensor, strata: Tensor, resamples: int = 10_000, seed: int = 0) -> Tensor:
    """Sums over bootstrap samples that draw as many units of each stratum as it has, for statistics that are more than
    one mean (Efron & Tibshirani 1993, chapter 8).

    Args:
        values: K numbers per unit [U, K], which stay together.
        strata: the stratum of each unit [U], integers.
        resamples: number of bootstrap samples.
        seed: as in `bootstrap`.

    Returns:
        float64 [resamples, S, K], the strata in increasing order.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = []
    for stratum in strata.unique():
        units = values[strata == stratum].to("cpu", torch.float64)
        rows = max(1, _DRAWS_AT_ONCE // units.numel())
        drawn = [
            units[torch.randint(len(units), (min(rows, resamples - done), len(units)), generator=generator)].sum(1)
            for done in range(0, resamples, rows)
        ]
        sums.append(torch.cat(drawn))
    return torch.stack(sums, 1)


def percentile_interval(value: float, replicates: Tensor, level: float = 0.95) -> Interval:
    """An estimate with the interval that its bootstrap replicates [R] give."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(replicates, ends).tolist()
    return Interval(value, low, high)


def paired_difference(a: Tensor, b: Tensor, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean of a - b over the same samples, with its bootstrap interval; a is the candidate, b its rival.

    Args:
        a, b: one number per sample [B]; entry k of both belongs to the same sample (same noise, same condition).
        level, resamples, seed: as in `bootstrap`.

    Raises:
        ValueError: the lengths differ, or as in `bootstrap`.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return bootstrap(_checked(a, level) - _checked(b, level), level, resamples, seed)


def spread(values: Tensor, level: float = 0.95, center: float | None = None) -> Interval:
    """Mean of independent repetitions, and Student's t interval: mean +- t * std / sqrt(n).

    The way to an interval for a statistic that is biased under resampling, such as FID: compute it on n disjoint sets
    of samples.

    Args:
        values: one number per repetition [n], n at least 2.
        level: confidence level between 0 and 1.
        center: a number to lay the interval about instead of the mean: the same statistic of all the samples together.
            To first order it has the noise of the mean of the sets but less bias, so the width holds for it.

    Raises:
        ValueError: fewer than two values, a value that is not finite, a level outside (0, 1).
    """
    values = _checked(values, level)
    value = values.mean().item() if center is None else center
    half_width = _student_t(level, len(values) - 1) * values.std().item() / math.sqrt(len(values))
    return Interval(value, value - half_width, value + half_width)


def verdict(difference: Interval, higher_is_better: bool) -> Verdict:
    """What the interval of a difference (candidate minus rival) allows to be said of the candidate.

    "no better" when the interval covers 0: a draw, not a proof of equality. "better" and "worse" when all of it lies on
    one side.
    """
    if 0 in difference:
        return "no better"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def _checked(values: Tensor, level: float) -> Tensor:
    """`values` as float64 on the CPU, refused where no interval can be had from them."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"expected at least two values in one dimension, got shape {tuple(values.shape)}")
    values = values.detach().to("cpu", torch.float64)
    bad = (~values.isfinite()).nonzero()[:, 0]
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"{len(bad)} of {len(values)} values are not finite; the first, number {first}, is {values[first]}"
        )
    return values


def _student_t(level: float, degrees: int) -> float:
    """The t with P(|T| < t) = level, T of Student's distribution; relative error below 1e-3 at levels up to 0.999."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    if degrees > 200:  # the sums below grow long where the first Cornish-Fisher term is already enough
        return z + (z**3 + z) / (4 * degrees)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        theta = (low + high) / 2
        if _central_probability(theta, degrees) < level:
            low = theta
        else:
            high = theta
    return math.sqrt(degrees) * math.tan(low)


def _central_probability(theta: float, degrees: int) -> float:
    """P(|T| < sqrt(degrees) tan(theta)), Abramowitz & Stegun 26.7.3 (odd degrees) and 26.7.4 (even)."""
    odd = degrees % 2 == 1
    term, total = (math.cos(theta) if odd else 1.0), 0.0
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(theta) ** 2
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
