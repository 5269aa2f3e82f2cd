"""Intervals of reported numbers, and the verdicts that they allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from optsteps.storage.shards import storable

Verdict = Literal["better", "worse", "no better"]

# draws at once, so few that what they select lies in a processor's cache; and the most that are kept, some 130 MB
_DRAWS_AT_ONCE, _DRAWS_KEPT = 2**18, 2**25


@storable
@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval [low, high]; `0 in interval` asks whether it covers a number, and
    `-interval` is that of the number with the other sign."""

    value: float
    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)


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
    draws = (_kept_draws if resamples * len(values) <= _DRAWS_KEPT else _draws)(len(values), resamples, seed)
    means = torch.cat([values.index_select(0, drawn.flatten()).reshape(drawn.shape).mean(1) for drawn in draws])
    return percentile_interval(values.mean().item(), means, level)


def stratified_sums(values: Tensor, strata: Tensor, resamples: int = 10_000, seed: int = 0) -> Tensor:
    """Sums over bootstrap samples, for statistics that are more than one mean (Efron & Tibshirani 1993, chapter 8).

    Each bootstrap sample draws as many units of each stratum as the stratum has.

    Args:
        values: K numbers per unit [U, K]; those of a unit are drawn together.
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
    """The interval of an estimate between quantiles of its bootstrap replicates [R]."""
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

    A statistic that is biased under resampling gets its interval so. The repetitions are its values on n disjoint sets
    of samples, if few samples bias it little, as KID, or else a `jackknife`'s pseudo-values.

    Args:
        values: one number per repetition [n], n at least 2.
        level: confidence level between 0 and 1.
        center: the middle of the interval, None for the mean. The statistic of all samples together is a good one: to
            first order it has the noise of the mean over the sets but less bias, so the width holds for it.

    Raises:
        ValueError: fewer than two values, a value that is not finite, a level outside (0, 1).
    """
    from scipy.special import stdtrit  # the quantile of Student's t; slow to import for those who need no interval

    values = _checked(values, level)
    value = values.mean().item() if center is None else center
    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half_width = quantile * values.std().item() / math.sqrt(len(values))
    return Interval(value, value - half_width, value + half_width)


def jackknife(figure: Callable[[Tensor], Tensor], samples: int, groups: int = 20, seed: int = 0) -> Tensor:
    """The pseudo-values of a figure of a whole set of samples, of which one group is left out at a time.

    They are G F - (G - 1) F_g, with F of all samples and F_g of all but group g. Their `spread` is that of F where F
    is a smooth function of means (Efron & Tibshirani 1993, chapter 11; Shao & Wu 1989 for groups). Every F_g is nearly
    of all samples, so it has nearly the bias of F. Disjoint sets have the bias of few samples: where it is large, as
    of FID and of Wasserstein distances, they vary otherwise than F does, and their interval is too wide or too narrow.

    Args:
        figure: of the samples with these numbers [k], one number or several [...].
        samples: their number, at least 2.
        groups: G, at most; equal up to one sample, dealt at random.
        seed: of the dealing. Rows of paired samples are dealt alike.

    Returns:
        float64 [G, ...].

    Raises:
        ValueError: fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"a jackknife leaves out some samples and keeps others: it needs at least 2, got {samples}")
    dealt = torch.randperm(samples, generator=torch.Generator().manual_seed(seed)).tensor_split(min(groups, samples))
    everything = torch.ones(samples, dtype=torch.bool)
    without = [figure(everything.index_fill(0, group, False).nonzero()[:, 0]) for group in dealt]
    of_all = figure(torch.arange(samples)).double()
    return len(dealt) * of_all - (len(dealt) - 1) * torch.stack(without).double()


def verdict(difference: Interval, higher_is_better: bool) -> Verdict:
    """The verdict on a candidate that the interval of its difference to a rival (candidate minus rival) allows.

    It is "no better" where the interval covers 0, which is a draw and no proof of equality, and "better" or "worse"
    where all of it lies on one side.
    """
    if 0 in difference:
        return "no better"
    return "better" if (difference.low > 0) == higher_is_better else "worse"


def _draws(units: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """The numbers of the units in every bootstrap sample [resamples, units], int32, some rows at a time."""
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, _DRAWS_AT_ONCE // units)
    for done in range(0, resamples, rows):
        yield torch.randint(units, (min(rows, resamples - done), units), generator=generator, dtype=torch.int32)


@lru_cache(maxsize=1)
def _kept_draws(units: int, resamples: int, seed: int) -> tuple[Tensor, ...]:
    """The same, which every figure of a run draws again."""
    return tuple(_draws(units, resamples, seed))


def _checked(values: Tensor, level: float) -> Tensor:
    """`values` as float64 on the CPU. Raises ValueError where they have no interval."""
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
