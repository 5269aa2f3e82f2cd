import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist
from torch import Tensor

from optsteps.metrics import spread, verdict
from optsteps.metrics.features import (
    HIGHER_IS_BETTER,
    FidelitySettings,
    fidelity_pseudo_values,
    fidelity_values,
    kid_of_sets,
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


def test_pseudo_values_leave_out_one_group_at_a_time() -> None:
    x, y = _normal(43, 3), 0.3 + _normal(50, 3, seed=1)
    of_all, found = fidelity_values(x, y, FAST), fidelity_pseudo_values(x, y, FAST)
    for name, count in {"fid": 20, "precision": 10, "recall": 10}.items():
        groups = torch.randperm(43, generator=torch.Generator().manual_seed(FAST.seed)).tensor_split(count)
        left = [torch.tensor(sorted(set(range(43)) - set(group.tolist()))) for group in groups]
        expected = [count * of_all[name] - (count - 1) * fidelity_values(x[kept], y, FAST)[name] for kept in left]
        torch.testing.assert_close(found[name], torch.tensor(expected, dtype=torch.float64))
    assert list(found) == ["fid", "precision", "recall"]
    assert len(fidelity_pseudo_values(x[:7], y, FAST)["fid"]) == 7


def test_interval_of_fid_covers_its_expectation() -> None:
    # A reference that is far enough off for FID to have first-order noise; in its absence the intervals are too wide.
    reference = _normal(4000, 2, seed=1000) * torch.tensor([1.0, 2**0.5]) + torch.tensor([1.0, 0.0])
    measured = [
        fidelity_measurements(_normal(400, 2, seed=seed), reference, 2, replace(FAST, figures=("fid",)))["fid"].interval
        for seed in range(300)
    ]
    expectation = float(np.mean([interval.value for interval in measured]))
    hits = sum(expectation in interval for interval in measured)
    assert 270 <= hits <= 298  # 285 +- 15, four standard deviations


def test_interval_of_a_difference_covers_its_expectation_and_is_narrower_than_that_of_sets() -> None:
    """With hardly more samples than features, where the FIDs of sets are of covariances of low rank."""
    deviations, only_fid = 0.8 ** torch.arange(24.0), replace(FAST, figures=("fid",))
    reference, found, by_sets = _normal(2000, 24, seed=1000) * deviations, [], []
    for seed in range(150):
        noise = _normal(40, 24, seed=seed) * deviations
        pair = (noise, 1.1 * noise + 0.05)
        one, two = (fidelity_measurements(x, reference, 4, only_fid)["fid"] for x in pair)
        found.append(one.difference(two))
        sets = [[fidelity_values(part, reference, only_fid)["fid"] for part in x.split(10)] for x in pair]
        by_sets.append(spread(torch.tensor(sets[0], dtype=torch.float64) - torch.tensor(sets[1])))
    expectation = float(np.mean([difference.value for difference in found]))
    hits = sum(expectation in difference for difference in found)
    assert 132 <= hits <= 149  # 142.5 +- 10.7, four standard deviations
    widths = [np.mean([interval.high - interval.low for interval in intervals]) for intervals in (found, by_sets)]
    assert widths[0] < 0.75 * widths[1]


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
    only_kid = replace(FAST, figures=("kid",))
    assert kid_of_sets(x, y, 2, FAST).max() < fidelity_values(x[label == 1], y, only_kid)["kid"] / 4


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
