from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from optsteps.datasets import to_unit_range
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor, to_uint8

NAME = "optsteps-test"


class Tiny(nn.Module):
    """A random classifier with dropout, which must be off when features are taken."""

    def __init__(self, seed: int = 0, channels: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(channels, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(54, 5))
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3))

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    before = dict(FEATURE_EXTRACTORS_REGISTRY)
    yield
    FEATURE_EXTRACTORS_REGISTRY.clear()
    FEATURE_EXTRACTORS_REGISTRY.update(before)


def test_bytes_survive_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit_range(levels)), levels)
    assert torch.equal(to_uint8(to_unit_range(levels).double()), levels)
    assert torch.equal(to_uint8(levels), levels)


def test_quantisation_rounds_and_clips() -> None:
    step = 2 / 255
    x = torch.tensor([-7.0, -1.0, -1 + 0.49 * step, -1 + 0.51 * step, 0.0, 1 - 0.49 * step, 1.0, 7.0])
    assert to_uint8(x).tolist()[:4] == [0, 0, 0, 1]
    assert to_uint8(x).tolist()[5:] == [255, 255, 255]
    coarse = torch.linspace(-1, 1, 101).bfloat16()
    assert torch.equal(to_uint8(coarse), to_uint8(coarse.double()))


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        to_uint8(torch.tensor([0.0, torch.nan]))
    with pytest.raises(ValueError, match="int64"):
        to_uint8(torch.tensor([1]))


def test_features_are_those_of_the_quantised_images() -> None:
    network = Tiny().eval()
    register_extractor(NAME, lambda: network)
    images = 1.2 * torch.randn(11, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = to_unit_range(to_uint8(images))
    features = extract_features(build_extractor(NAME), images, batch_size=4)
    torch.testing.assert_close(features, network.features(seen).double(), rtol=1e-5, atol=1e-6)
    assert features.dtype == torch.float64
    assert not features.requires_grad


def test_the_callers_network_stays_as_it_was() -> None:
    network = Tiny().train()
    register_extractor(NAME, lambda: network)
    extractor = build_extractor(NAME)
    assert network.training
    assert all(weight.requires_grad for weight in network.parameters())
    assert not any(weight.requires_grad for weight in extractor.parameters())
    nn.ModuleList([extractor]).train()
    assert not any(module.training for module in extractor.modules())


def test_registering_again_replaces_the_network() -> None:
    images = torch.zeros(1, 1, 8, 8)
    register_extractor(NAME, lambda: Tiny(0))
    first = extract_features(build_extractor(NAME), images)
    register_extractor(NAME, lambda: Tiny(1))
    assert not torch.allclose(extract_features(build_extractor(NAME), images), first)


def test_names_of_torch_fidelity_are_kept() -> None:
    with pytest.raises(ValueError, match="already registered"):
        register_extractor("inception-v3-compat", Tiny)
    assert FEATURE_EXTRACTORS_REGISTRY["inception-v3-compat"] is inception.FeatureExtractorInceptionV3


def test_errors_of_build_extractor(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'"no-such".*inception-v3-compat'):
        build_extractor("no-such")
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        build_extractor("inception-v3-compat", weights_path=tmp_path / "missing.pth")
    register_extractor(NAME, Tiny)
    with pytest.raises(ValueError, match="brings its own weights"):
        build_extractor(NAME, weights_path=__file__)


def test_an_extractor_must_return_one_vector_per_image() -> None:
    for wrong in (lambda x: x, lambda x: x.flatten(1)[:1]):
        with pytest.raises(ValueError, match=r"features \[4, F\]"):
            extract_features(wrong, torch.zeros(4, 1, 2, 2))


def test_inception_from_a_file_sees_grey_as_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = inception.FeatureExtractorInceptionV3
    monkeypatch.setattr(cls, "INPUT_IMAGE_SIZE", 75)  # the least it can take, for speed
    with monkeypatch.context() as patch:  # a network of random weights, for the shipped ones are a download
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(cls, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        weights = {name: value.half() for name, value in cls("x", ["2048"]).state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("download"))

    extractor = build_extractor("inception-v3-compat", weights_path=tmp_path / "weights.pth")
    torch.testing.assert_close(extractor.network.fc.weight, weights["fc.weight"].float())
    grey = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = extract_features(extractor, grey)
    assert features.shape == (2, 2048)
    assert not torch.allclose(features[0], features[1], rtol=1e-6, atol=0)
    assert torch.equal(features, extract_features(extractor, grey.repeat(1, 3, 1, 1)))
