from pathlib import Path

import pytest
import torch
import torch_fidelity
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.metrics.features import HIGHER_IS_BETTER, FidelitySettings, fidelity_values
from optsteps.metrics.fidelity import FidelityJudge, fidelity_measurements

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


def test_agrees_with_calculate_metrics(extractor: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(hub))
    samples, reference = _images(110, 0, 0.5), _images(90, 1, 0.6)
    theirs, of_subsets = (
        torch_fidelity.calculate_metrics(
            input1=Bytes(samples),
            input2=Bytes(reference),
            feature_extractor=NAME,
            fid=True,
            kid=True,
            prc=True,
            isc=True,  # takes the logits
            kid_subsets=10,
            kid_subset_size=size,
            cuda=False,
            save_cpu_ram=True,
            verbose=False,
        )
        for size in (len(reference), SETTINGS.kid_subset_size)
    )
    save_file({"features": extract_features(extractor, reference)}, tmp_path / "features.safetensors")
    judge = FidelityJudge(
        str(tmp_path / "features.safetensors"), list(HIGHER_IS_BETTER), 4, extractor=NAME, kid_subsets=10
    )
    ours = {name: m.interval.value for name, m in judge.judge(samples, samples, None).items()}
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours["precision"] == theirs["precision"]
    assert ours["recall"] == theirs["recall"]
    assert 0 < ours["recall"] < ours["precision"] < 1
    assert theirs["inception_score_mean"] > 1
    features = (extract_features(extractor, images) for images in (samples, reference))
    drawn = fidelity_values(*features, SETTINGS)["kid"]
    assert drawn == pytest.approx(of_subsets["kernel_inception_distance_mean"], rel=1e-6)
    assert drawn != pytest.approx(ours["kid"], rel=1e-3)
    assert list(hub.iterdir()) == []  # nothing cached, nothing downloaded


def test_any_callable_is_an_extractor() -> None:
    def corners(images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images[:, 0, ::7, ::7].flatten(1).float()

    features = extract_features(corners, _images(20, 1, 0.5))
    measured = fidelity_measurements(features, features, 2, SETTINGS)
    assert measured["fid"].interval.value == pytest.approx(0.0, abs=1e-6)
    assert measured["precision"].interval.value == 1.0


def test_errors(extractor: nn.Module, tmp_path: Path) -> None:
    features = extract_features(extractor, _images(20, 0, 1.0))
    with pytest.raises(ValueError, match="reference features"):
        fidelity_measurements(features, torch.zeros(5), 2)
    save_file({"features": features}, tmp_path / "features.safetensors")
    judge = FidelityJudge(str(tmp_path / "features.safetensors"), ["fid"], 2, extractor=NAME)
    with pytest.raises(ValueError, match=r"compare images \[B, C, H, W\], not samples of shape \(2,\)"):
        judge.judge(torch.zeros(20, 2), torch.zeros(20, 2), None)
    with pytest.raises(ValueError, match="3 samples are too few for fid: take at least 8"):
        judge.check(3, (1, 8, 8))
    with pytest.raises(ValueError, match="either a classifier or the name of an extractor"):
        FidelityJudge(str(tmp_path / "features.safetensors"), ["fid"], 2)
