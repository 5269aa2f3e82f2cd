import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from optsteps.metrics import Interval, bootstrap, paired_difference, spread, verdict
from optsteps.metrics.statistics import _kept_draws, percentile_interval


def _skewed(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).exponential(size=n))


def test_bootstrap_agrees_with_scipy() -> None:
    values = _skewed(60)
    ours = bootstrap(values, level=0.9, resamples=40_000)
    theirs = stats.bootstrap(
        (values.numpy(),), np.mean, confidence_level=0.9, n_resamples=40_000, method="percentile", rng=1
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean().item())
    # both are Monte Carlo: a percentile of 40,000 resamples is known to some 2 % of the interval's width
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


def test_bootstrap_covers_the_mean_as_often_as_it_says() -> None:
    covered = sum(1.0 in bootstrap(_skewed(60, seed), level=0.9, resamples=200) for seed in range(200))
    # binomial: 200 * 0.9 +- 4 * 4.2, and a few misses more for the skewness at 60 samples
    assert 158 <= covered <= 195


def test_bootstrap_depends_on_its_seed_alone() -> None:
    values = _skewed(50)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = bootstrap(values, seed=3, resamples=200)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert bootstrap(values, seed=3, resamples=200) == first
    assert bootstrap(values, seed=4, resamples=200) != first


@pytest.mark.parametrize("kept", [0, 10**9])
def test_bootstrap_is_the_same_in_chunks_of_any_size(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = _skewed(50)
    generator = torch.Generator().manual_seed(0)
    means = values[torch.randint(50, (2000, 50), generator=generator)].mean(1)
    monkeypatch.setattr("optsteps.metrics.statistics._DRAWS_KEPT", kept)
    for at_once in (10**9, 50 * 300, 7):
        monkeypatch.setattr("optsteps.metrics.statistics._DRAWS_AT_ONCE", at_once)
        _kept_draws.cache_clear()
        assert bootstrap(values, resamples=2000) == percentile_interval(values.mean().item(), means)


def test_figures_of_equally_many_samples_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap(_skewed(51), resamples=100)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: pytest.fail("drawn again"))
    bootstrap(_skewed(51, seed=1), resamples=100)


def test_pairing_removes_what_the_samples_share() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = 100 * torch.randn(200, generator=generator, dtype=torch.float64)
    a = shared + 0.1 + 0.01 * torch.randn(200, generator=generator, dtype=torch.float64)
    difference = paired_difference(a, shared)
    assert 0.1 in difference
    assert difference.high - difference.low < 0.01
    assert verdict(difference, higher_is_better=True) == "better"
    assert verdict(paired_difference(shared, a), higher_is_better=True) == "worse"
    assert paired_difference(shared, shared) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 10, 31, 201, 202, 5000])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_spread_is_students_interval(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(3.0, 2.0, size=n)
    low, high = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    interval = spread(torch.from_numpy(values), level)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(high - low, rel=1e-9)
    assert interval.high + interval.low == pytest.approx(high + low)
    moved = spread(torch.from_numpy(values), level, center=7.0)
    assert moved.value == 7.0
    assert (moved.low, moved.high) == pytest.approx((7 - (high - low) / 2, 7 + (high - low) / 2), rel=1e-9)


@given(st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5))
def test_verdict(value: float, below: float, above: float) -> None:
    interval = Interval(value, value - below, value + above)
    higher, lower = verdict(interval, True), verdict(interval, False)
    if interval.low > 0:
        assert (higher, lower) == ("better", "worse")
    elif interval.high < 0:
        assert (higher, lower) == ("worse", "better")
    else:
        assert (higher, lower) == ("no better", "no better")


@pytest.mark.parametrize("interval_of", [bootstrap, spread, lambda values: paired_difference(values, values)])
def test_values_without_an_interval_are_refused(interval_of) -> None:  # type: ignore[no-untyped-def]
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="1 of 3 values are not finite; the first, number 1"):
            interval_of(torch.tensor([0.0, bad, 1.0]))
    for values in (torch.zeros(1), torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="at least two values"):
            interval_of(values)


def test_bad_arguments_are_named() -> None:
    for level in (0.0, 1.0, 95.0, math.nan):
        with pytest.raises(ValueError, match="level"):
            bootstrap(torch.zeros(3), level=level)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap(torch.zeros(3), resamples=0)
    with pytest.raises(ValueError, match=r"\(3,\) and \(1,\)"):
        paired_difference(torch.zeros(3), torch.zeros(1))
