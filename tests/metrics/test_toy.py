import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from optsteps.metrics import entropy, negative_log_likelihood, sliced_wasserstein
from optsteps.metrics.judges import DistributionJudge
from optsteps.metrics.statistics import jackknife
from optsteps.metrics.toy import TrueSamples


class _Gaussian:
    """An isotropic Gaussian, whose entropy and likelihood have closed forms."""

    def __init__(self, std: float, dimension: int) -> None:
        self.std, self.dimension = std, dimension

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.std * torch.randn(n, self.dimension, generator=generator, dtype=torch.float64)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.from_numpy(stats.norm(scale=self.std).logpdf(x.numpy())).sum(1)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_entropy_covers_the_closed_form() -> None:
    exact = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    hits = sum(exact in entropy(_Gaussian(0.3, 2), 500, torch.Generator().manual_seed(seed)) for seed in range(200))
    assert 178 <= hits <= 199  # 190 +- 3.9 standard deviations
    assert entropy(_Gaussian(0.3, 2), 20_000, torch.Generator().manual_seed(0)).value == pytest.approx(exact, abs=0.03)


def test_likelihood_of_samples_of_another_width() -> None:
    # E[-log N(x; 0, s)] for x ~ N(0, t) is log(2 pi s^2) + t^2 / s^2 in two dimensions
    nll = negative_log_likelihood(0.5 * _normal(40_000, 2), _Gaussian(2.0, 2).log_prob)
    assert nll.shape == (40_000,)
    assert nll.mean().item() == pytest.approx(math.log(2 * math.pi * 4) + 1 / 16, abs=0.005)
    with pytest.raises(ValueError, match="one each"):
        negative_log_likelihood(_normal(5, 2), lambda x: x)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**16))
def test_one_dimension_is_scipys_distance(n: int, m: int, seed: int) -> None:
    a, b = _normal(n, 1, seed=seed), 1 + 2 * _normal(m, 1, seed=seed + 1)
    ours = sliced_wasserstein(a, b, projections=2, p=1)
    assert ours == pytest.approx(stats.wasserstein_distance(a[:, 0].numpy(), b[:, 0].numpy()), rel=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 3.5]), st.integers(0, 2**16))
def test_unequal_counts_are_copies_of_equal_ones(n: int, m: int, p: float, seed: int) -> None:
    # n samples each m times and m samples each n times are the same distributions, of n m samples each
    a, b = _normal(n, 2, seed=seed), _normal(m, 2, seed=seed + 1)
    copies = sliced_wasserstein(a.repeat(m, 1), b.repeat(n, 1), p=p)
    assert sliced_wasserstein(a, b, p=p) == pytest.approx(copies, rel=1e-9)


@pytest.mark.parametrize("dimension", [2, 5])
def test_a_shift_is_its_length_seen_from_random_directions(dimension: int) -> None:
    # W_2 along theta is |theta . shift|, and the mean of its square over the sphere is |shift|^2 / d
    a, shift = _normal(50, dimension), torch.full((dimension,), 3.0, dtype=torch.float64)
    distance = sliced_wasserstein(a, a + shift, projections=20_000)
    assert distance == pytest.approx(shift.norm().item() / math.sqrt(dimension), rel=0.02)


def test_gaussians_of_two_widths() -> None:
    # W_2(N(0, 1), N(0, 3^2)) = 2 along every direction
    assert sliced_wasserstein(_normal(40_000, 2), 3 * _normal(30_000, 2, seed=1), projections=32) == pytest.approx(
        2.0, abs=0.04
    )


def test_same_samples_have_no_distance_and_seeds_name_directions() -> None:
    a, b = _normal(20, 2), _normal(20, 2, seed=1)
    assert sliced_wasserstein(a, a[torch.randperm(20)]) == pytest.approx(0.0, abs=1e-12)
    assert sliced_wasserstein(a, b, projections=4, seed=1) == sliced_wasserstein(b, a, projections=4, seed=1)
    assert sliced_wasserstein(a, b, projections=4, seed=1) != sliced_wasserstein(a, b, projections=4, seed=2)


def test_a_judge_sorts_the_truth_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussian, x = _Gaussian(1.0, 2), _normal(40, 2, seed=1)
    judge = DistributionJudge(gaussian, 300)
    truth = gaussian.sample(300, torch.Generator().manual_seed(0))
    expected = jackknife(
        lambda index: torch.tensor(sliced_wasserstein(x[index], truth), dtype=torch.float64), len(x), groups=10
    )
    sizes, sort = list[int](), np.sort
    monkeypatch.setattr(np, "sort", lambda x, **options: (sizes.append(x.shape[1]), sort(x, **options))[1])
    measured = judge.judge(x, x, None)["sliced_wasserstein"]
    assert measured.interval.value == pytest.approx(sliced_wasserstein(x, truth), rel=1e-12)
    assert measured.sets is not None
    assert measured.sets.tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert sizes[:12] == [40, *[36] * 10, 40]


def test_the_interval_of_a_difference_of_distances_covers_its_expectation() -> None:
    """With disjoint sets, whose distances are those of few samples, it would cover some five times in six."""
    truth = TrueSamples(_normal(150, 2, seed=1000))
    found = []
    for seed in range(60):
        noise = _normal(96, 2, seed=seed)
        difference = truth.distance(1.3 * noise + 0.02).difference(truth.distance(noise))
        assert difference is not None
        found.append(difference)
    expectation = float(np.mean([one.value for one in found]))
    assert sum(expectation in one for one in found) >= 50  # 57 - 6.8, four standard deviations


def test_errors() -> None:
    good = torch.zeros(3, 2)
    for bad in (torch.zeros(3), torch.zeros(3, 1), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="expected samples"):
            sliced_wasserstein(good, bad)
    with pytest.raises(ValueError, match="not finite"):
        sliced_wasserstein(good, good + np.nan)
    with pytest.raises(ValueError, match=r"p=0\.5"):
        sliced_wasserstein(good, good, p=0.5)
    with pytest.raises(ValueError, match="projections=0"):
        sliced_wasserstein(good, good, projections=0)
    with pytest.raises(ValueError, match="at least two"):
        entropy(_Gaussian(1.0, 2), 1)
