from pathlib import Path

import pytest
import torch
import torch_fidelity
from torch import Tensor, nn
from torch.utils.data import Dataset

from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.metrics.features import FidelitySettings, fidelity_values
from optsteps.metrics.fidelity import Fidelity

NAME = "optsteps-test-fidelity"
SETTINGS = FidelitySettings(kid_subsets=10, kid_subset_size=50)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 5))
        self.head = nn.Linear(5, 3)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Bytes(Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Tensor:
        return self.images[k]


def _images(n: int, seed: int, scale: float) -> Tensor:
    return scale * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def extractor() -> nn.Module:
    register_extractor(NAME, Tiny)
    return build_extractor(NAME)


@pytest.fixture
def metric(extractor: nn.Module) -> Fidelity:
    return Fidelity(extractor, extract_features(extractor, _images(90, 1, 0.6)), SETTINGS)


def test_agrees_with_calculate_metrics(metric: Fidelity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    samples, reference = _images(110, 0, 0.5), _images(90, 1, 0.6)
    theirs = torch_fidelity.calculate_metrics(
        input1=Bytes(samples),
        input2=Bytes(reference),
        feature_extractor=NAME,
        fid=True,
        kid=True,
        prc=True,
        isc=True,  # takes the logits
        kid_subsets=10,
        kid_subset_size=50,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
    )
    for part in samples.split(40):
        metric.update(part)
    ours = metric.compute()
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours["precision"] == theirs["precision"]
    assert ours["recall"] == theirs["recall"]
    assert 0 < ours["recall"] < ours["precision"] < 1
    assert theirs["inception_score_mean"] > 1
    assert list(tmp_path.iterdir()) == []  # nothing cached, nothing downloaded


def test_batches_do_not_matter_and_reset_forgets(metric: Fidelity) -> None:
    samples = _images(60, 0, 0.5)
    metric.update(samples)
    whole = metric.compute()
    metric.update(_images(30, 2, 0.1))
    assert metric.compute() != whole
    metric.reset()
    for part in samples.split(25):
        metric.update(part)
    assert metric.compute() == pytest.approx(whole, rel=1e-6)


def test_index_undoes_the_order_in_which_samples_come(metric: Fidelity) -> None:
    samples, order = _images(60, 0, 0.5), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    metric.update(samples)
    expected, features = metric.compute(), metric.gathered()
    metric.reset()
    for part in order.split(20):
        metric.update(samples[part], index=part)
    torch.testing.assert_close(metric.gathered(), features)
    assert metric.compute() == pytest.approx(expected, rel=1e-6)


def test_reduces_over_devices(extractor: nn.Module) -> None:
    """Two ranks with every other sample each, as seen from the first; the second's states are handed to its gather."""
    reference, samples = extract_features(extractor, _images(90, 1, 0.6)), _images(61, 0, 0.5)
    other = Fidelity(extractor, reference, SETTINGS)
    other.update(samples[1::2], index=torch.arange(1, 61, 2))

    def gather(state: Tensor, group: object) -> list[Tensor]:
        return [state, other.features[0] if state.is_floating_point() else other.index[0]]

    first = Fidelity(extractor, reference, SETTINGS, dist_sync_fn=gather, distributed_available_fn=lambda: True)
    first.update(samples[::2][:11], index=torch.arange(0, 61, 2)[:11])
    first.update(samples[::2][11:], index=torch.arange(0, 61, 2)[11:])
    whole = Fidelity(extractor, reference, SETTINGS)
    whole.update(samples)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-6)
    torch.testing.assert_close(first.gathered(), whole.gathered())
    assert len(first.features) == 2  # back to its own samples after the gathering
    whole_intervals, first_intervals = whole.intervals(sets=3), first.intervals(sets=3)
    for name, interval in whole_intervals.items():
        assert first_intervals[name].low == pytest.approx(interval.low, rel=1e-6, abs=1e-7)


def test_merges_and_clones(metric: Fidelity) -> None:
    samples = _images(60, 0, 0.5)
    metric.update(samples[:25])
    other = metric.clone()
    other.reset()
    other.update(samples[25:], index=torch.arange(25, 60))
    metric.merge_state(other)
    expected = fidelity_values(extract_features(metric.extractor, samples), metric.reference, SETTINGS)
    assert metric.compute() == pytest.approx(expected, rel=1e-6)


def test_any_callable_is_an_extractor() -> None:
    def corners(images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images[:, 0, ::7, ::7].flatten(1).float()

    metric = Fidelity(corners, extract_features(corners, _images(20, 1, 0.5)), SETTINGS)
    metric.update(_images(20, 1, 0.5))
    assert metric.compute()["fid"] == pytest.approx(0.0, abs=1e-6)
    assert metric.compute()["precision"] == 1.0


def test_errors(metric: Fidelity, extractor: nn.Module) -> None:
    with pytest.raises(ValueError, match="update first"), pytest.warns(UserWarning, match="before"):
        metric.compute()
    with pytest.raises(ValueError, match="one index per image"):
        metric.update(_images(4, 0, 1.0), index=torch.arange(3))
    metric.update(_images(3, 0, 1.0))
    with pytest.raises(ValueError, match=r"N above 3.*\(3, 5\)"):
        metric.compute()
    with pytest.raises(ValueError, match="reference features"):
        Fidelity(extractor, torch.zeros(5))
