import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from optsteps.metrics import spread, verdict
from optsteps.metrics.features import (
    HIGHER_IS_BETTER,
    FidelitySettings,
    fidelity_per_set,
    fidelity_values,
)
from optsteps.metrics.fidelity import fidelity_measurements

FAST = FidelitySettings(kid_subsets=5, kid_subset_size=50)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _standardised(n: int, mean: Tensor, root: Tensor, seed: int) -> Tensor:
    """n samples whose own mean is `mean` and whose own covariance is root root^T, exactly."""
    x = _normal(n, len(mean), seed=seed)
    x = x - x.mean(0)
    whitened = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return mean + whitened @ root.T


def test_fid_is_the_frechet_distance_of_gaussians() -> None:
    roots = _normal(4, 4, seed=1), _normal(4, 4, seed=2)
    means = _normal(4, seed=3), _normal(4, seed=4)
    samples, reference = (_standardised(50, m, r, seed) for m, r, seed in zip(means, roots, (5, 6), strict=True))
    a, b = (root.numpy() @ root.numpy().T for root in roots)
    shift = (means[0] - means[1]).square().sum().item()
    exact = shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert fidelity_values(samples, reference, FAST)["fid"] == pytest.approx(exact, rel=1e-7)


def test_kid_is_the_unbiased_squared_mmd() -> None:
    # with subsets as large as both sets there is one value, here summed pair by pair
    x, y = _normal(7, 3), 1 + _normal(7, 3, seed=1)

    def kernel(u: Tensor, v: Tensor) -> float:
        return (float(u @ v) / 3 + 1) ** 3

    within = sum(kernel(s[i], s[j]) for s in (x, y) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    between = sum(kernel(u, v) for u in x for v in y) / 49
    assert fidelity_values(x, y, FAST)["kid"] == pytest.approx(within - 2 * between, rel=1e-9)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_by_brute_force(neighbours: int) -> None:
    x, y = 0.6 * _normal(1200, 2), _normal(1100, 2, seed=1)  # more than one batch of torch-fidelity's each

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = np.sort(cdist(centres, centres), axis=1)[:, neighbours]
        return float((cdist(points, centres) <= radii).any(1).mean())

    values = fidelity_values(x, y, FidelitySettings(kid_subsets=1, kid_subset_size=10, neighbours=neighbours))
    assert values["precision"] == pytest.approx(covered(x, y), abs=1e-6)
    assert values["recall"] == pytest.approx(covered(y, x), abs=1e-6)
    assert values["precision"] > values["recall"]  # narrow samples are inside, but do not cover


def test_small_sets_shrink_the_subsets_of_kid() -> None:
    x, y = _normal(30, 3), _normal(20, 3, seed=1)
    assert fidelity_values(x, y) == fidelity_values(x, y, FidelitySettings(kid_subset_size=20))


@pytest.mark.parametrize("figures", [("fid",), ("kid", "recall"), ("precision",)])
def test_only_the_figures_asked_for(figures: tuple[str, ...]) -> None:
    x, y = _normal(30, 3), _normal(30, 3, seed=1)
    everything, some = fidelity_values(x, y, FAST), fidelity_values(x, y, replace(FAST, figures=figures))
    assert some == {name: everything[name] for name in figures}
    assert set(fidelity_measurements(x, y, 2, replace(FAST, figures=figures))) == set(figures)


def test_half_precision_references_are_taken_at_their_values() -> None:
    x, y = _normal(30, 3), _normal(20, 3, seed=1).half()
    assert fidelity_values(x, y, FAST) == fidelity_values(x, y.double(), FAST)


def test_interval_of_fid_covers_its_expectation() -> None:
    """The claim behind `center`: sets of N / k samples tell the noise, not the bias, of the FID of N samples."""
    # A reference that is far enough off for FID to have first-order noise; in its absence the intervals are too wide.
    reference = {"mu": np.array([1.0, 0.0]), "sigma": np.diag([1.0, 2.0])}

    def fid(samples: Tensor) -> float:
        value = fid_statistics_to_metric(fid_features_to_statistics(samples), reference, False)
        return float(value["frechet_inception_distance"])

    runs = [_normal(400, 2, seed=seed) for seed in range(300)]
    values = [fid(run) for run in runs]
    intervals = [
        spread(torch.tensor([fid(part) for part in run.split(40)]), center=value)
        for run, value in zip(runs, values, strict=True)
    ]
    hits = sum(float(np.mean(values)) in interval for interval in intervals)
    assert 270 <= hits <= 298  # 285 +- 15, four standard deviations


def test_intervals_lie_about_the_values_of_all_samples() -> None:
    x, y = _normal(203, 3), 0.3 + _normal(150, 3, seed=1)
    values = fidelity_values(x, y, FAST)
    intervals = {name: m.interval for name, m in fidelity_measurements(x, y, sets=5, settings=FAST).items()}
    assert {name: interval.value for name, interval in intervals.items()} == values
    for interval in intervals.values():
        assert interval.low < interval.value < interval.high
        assert interval.low + interval.high == pytest.approx(2 * interval.value)


@pytest.mark.parametrize("order", ["sorted", "cycled"])
def test_sets_mix_samples_whatever_their_order(order: str) -> None:
    label = torch.arange(200) // 100 if order == "sorted" else torch.arange(200) % 2
    x, y = _normal(200, 2), _normal(200, 2, seed=1)
    x[label == 1] += 20
    y[:100] += 20
    assert fidelity_values(x[label == 1], y, FAST)["fid"] > 100  # what a set of a single class would have
    assert fidelity_per_set(x, y, 2, FAST)["fid"].max() < 20


def test_pairing_finds_a_difference_that_the_intervals_hide() -> None:
    noise, reference = _normal(200, 3), _normal(200, 3, seed=1)
    candidate, rival = (fidelity_measurements(scale * noise, reference, 4, FAST) for scale in (1.08, 1.1))
    assert candidate["fid"].interval.high > rival["fid"].interval.low
    difference = candidate["fid"].difference(rival["fid"])
    assert difference is not None
    assert difference.value == pytest.approx(candidate["fid"].interval.value - rival["fid"].interval.value)
    assert verdict(difference, HIGHER_IS_BETTER["fid"]) == "better"
    for name, measurement in rival.items():
        same = measurement.difference(rival[name])
        assert same is not None
        assert verdict(same, HIGHER_IS_BETTER[name]) == "no better"


def test_errors() -> None:
    good = _normal(20, 3)
    with pytest.raises(ValueError, match=r"sample features .* \(3, 3\)"):
        fidelity_values(good[:3], good)
    with pytest.raises(ValueError, match=r"reference features .* \(20, 1\)"):
        fidelity_values(good, good[:, :1])
    with pytest.raises(ValueError, match="3 features but the reference has 2"):
        fidelity_values(good, good[:, :2])
    with pytest.raises(ValueError, match="not finite"):
        fidelity_values(good, good * math.inf)
    with pytest.raises(ValueError, match="20 samples make 6 sets of 3, too few"):
        fidelity_measurements(good, good, sets=6)
    with pytest.raises(ValueError, match="at least 2"):
        fidelity_measurements(good, good, sets=1)
    for figures in ((), ("fid", "isc")):
        with pytest.raises(ValueError, match="expected some figures, and known ones"):
            FidelitySettings(figures=figures)
