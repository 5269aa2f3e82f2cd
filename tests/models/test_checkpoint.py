import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optsteps.datasets import ImageSet, cifar10, to_unit_range
from optsteps.denoisers import EDMDenoiser
from optsteps.metrics.extractors import build_extractor, extract_features, register_extractor
from optsteps.models.checkpoint import SHIPPED, load_network, resolve_weights, save_network
from optsteps.models.classifier import Classifier, FeatureClassifier
from optsteps.models.residual_classifier import ResidualClassifier
from optsteps.models.text_unet import TextUNet
from optsteps.models.unet import UNet
from optsteps.processes import EDM

Network = UNet | FeatureClassifier


def _unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(1, [4, 8], embedding=8, num_classes=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


def _classifier() -> Classifier:
    torch.manual_seed(0)
    network = Classifier(1, 8, width=4, features=6, num_classes=3)
    network(torch.randn(5, 1, 8, 8))  # batch norm's statistics move away from their defaults
    return network


def _residual_classifier() -> ResidualClassifier:
    torch.manual_seed(0)
    network = ResidualClassifier(3, 8, [4, 6], num_classes=3)
    network(torch.randn(5, 3, 8, 8))
    return network


@pytest.mark.parametrize("build", [_unet, _classifier, _residual_classifier])
def test_round_trip_is_bitwise(tmp_path: Path, build: Callable[[], Network]) -> None:
    network, notes = build(), {"sigma_data": 0.1 + 0.2, "nested": {"list": [1, None, "ä"]}}
    path = tmp_path / "new" / "network.safetensors"
    save_network(network, path, notes)
    again, read = load_network(path, type(network))
    assert read == notes
    assert again.config == network.config
    state, state_again = network.state_dict(), again.state_dict()
    assert list(state) == list(state_again)
    assert all(torch.equal(state[key], state_again[key]) for key in state)
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())
    assert [p.name for p in path.parent.iterdir()] == ["network.safetensors"]


@pytest.mark.parametrize("name", sorted(f.stem for f in SHIPPED.glob("*.safetensors") if "features" not in f.stem))
def test_shipped_weights_load(name: str) -> None:
    file = SHIPPED / f"{name}.safetensors"
    assert resolve_weights(f"shipped:{name}") == file
    assert file.stat().st_size <= (25e6 if name in ("scenes", "cifar10") else 10e6)
    expected: Any = FeatureClassifier if "classifier" in name else {"scenes": TextUNet}.get(name, UNet)
    network, _ = load_network(f"shipped:{name}", expected)
    assert all(bool(torch.isfinite(p).all()) for p in network.parameters())


@pytest.mark.parametrize("build", [_unet, _classifier, _residual_classifier])
def test_weights_in_bfloat16_are_loaded_as_float32(tmp_path: Path, build: Callable[[], Network]) -> None:
    network = build()
    for dtype in (torch.float32, torch.bfloat16):
        save_network(network, tmp_path / f"{dtype}.safetensors", {}, dtype)
    whole, rounded = (
        load_network(tmp_path / f"{dtype}.safetensors", type(network))[0] for dtype in (torch.float32, torch.bfloat16)
    )
    for (name, value), again in zip(whole.state_dict().items(), rounded.state_dict().values(), strict=True):
        assert again.dtype == value.dtype, name
        torch.testing.assert_close(again, value.bfloat16().to(value.dtype), rtol=0, atol=0)


def _cifar10_test_images() -> ImageSet:
    data = Path(os.environ.get("OPTSTEPS_DATA", "nowhere"))
    if not (data / "cifar10-jpeg-test.zip").is_file():
        pytest.skip(f"no cifar10-jpeg-test.zip in the folder that OPTSTEPS_DATA names ({data})")
    return cifar10(str(data), train=False)


@pytest.mark.parametrize(("name", "share"), [("cifar10", 0.9), ("cifar10_second", 0.83)])
def test_the_shipped_classifiers_of_cifar10(name: str, share: float) -> None:
    chosen = _cifar10_test_images()
    part = slice(None, None, 10)
    network, _ = load_network(f"shipped:{name}_classifier", FeatureClassifier)
    right = network(to_unit_range(chosen.images[part])).argmax(1) == chosen.labels[part]
    # so many of all are right; three standard deviations of a thousand
    assert right.double().mean() > share - 3 * (share * (1 - share) / len(right)) ** 0.5
    register_extractor(name, lambda: network)
    features = extract_features(build_extractor(name), chosen.images[part])
    shipped = load_file(SHIPPED / f"{name}_features.safetensors")["features"][part]
    torch.testing.assert_close(shipped.double(), features, rtol=1e-3, atol=1e-3)


def test_the_shipped_model_of_cifar10_denoises_and_knows_its_classes() -> None:
    chosen = _cifar10_test_images()
    network, notes = load_network("shipped:cifar10", UNet)
    part = slice(None, None, 100)  # ten of each class
    clean, labels = to_unit_range(chosen.images[part]), chosen.labels[part]
    denoiser = EDMDenoiser(network, EDM(), notes["sigma_data"])
    generator = torch.Generator().manual_seed(0)

    def error(level: float, told: torch.Tensor) -> float:
        eps = torch.randn(clean.shape, generator=generator.manual_seed(0))
        denoised = denoiser(clean + level * eps, torch.full((len(clean),), level), told)
        return (denoised - clean).square().mean().item()

    # the mean squared error of a denoiser that knows no more than mean and variance is 0.2 ** 2 at level 0.2
    assert error(0.05, labels) < 0.05**2 / 2
    assert error(0.2, labels) < 0.2**2 / 3
    right, wrong, none = (error(2.0, told) for told in (labels, labels.roll(10), torch.full_like(labels, 10)))
    assert right < none < wrong


def test_there_is_a_shipped_network() -> None:
    assert SHIPPED.joinpath("mnist_classifier.safetensors").is_file()


@pytest.mark.parametrize("path", ["nowhere/network.safetensors", "shipped:imagenet"])
def test_missing_file(path: str) -> None:
    named = path.removeprefix("shipped:")
    with pytest.raises(FileNotFoundError, match=rf"no weights file at .*{named}.*shipped:mnist_classifier"):
        load_network(path, UNet)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        load_network(tmp_path, UNet)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.999])
def test_truncated_file(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "network.safetensors"
    save_network(_unet(), path, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"network\.safetensors is truncated or not a safetensors file"):
        load_network(path, UNet)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"state": Trap()}, path := tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match=r"network\.safetensors is truncated or not"):
        load_network(path, UNet)
    assert not (tmp_path / "sprung").exists()


def test_another_class(tmp_path: Path) -> None:
    save_network(_classifier(), path := tmp_path / "network.safetensors", {})
    with pytest.raises(ValueError, match=r"network\.safetensors holds a Classifier, but a UNet is needed"):
        load_network(path, UNet)


UNET_HEADER = {"class": "UNet", "config": json.dumps(_unet().config), "notes": "{}"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "does not say which network"),
        ({"format": "pt"}, "does not say which network"),
        ({**UNET_HEADER, "config": json.dumps({**_unet().config, "embedding": 16})}, "does not fit the UNet"),
        ({**UNET_HEADER, "config": json.dumps({**_unet().config, "widths": [4]})}, "does not fit the UNet"),
        ({**UNET_HEADER, "config": json.dumps({**_unet().config, "depth": 3})}, ""),
        ({**UNET_HEADER, "config": "{"}, ""),
        ({"class": "UNet", "notes": "{}"}, ""),
        ({"class": "UNet", "config": UNET_HEADER["config"]}, ""),
    ],
    ids=["none", "foreign", "other sizes", "other layers", "unknown argument", "no json", "no config", "no notes"],
)
def test_headers_that_do_not_fit(tmp_path: Path, header: dict[str, str] | None, message: str) -> None:
    path = tmp_path / "network.safetensors"
    save_file(_unet().state_dict(), path, header)
    with pytest.raises(ValueError, match=rf"network\.safetensors {message}"):
        load_network(path, UNet)


def test_interrupted_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(_unet(), path := tmp_path / "network.safetensors", {"run": 1})

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        save_network(_unet(), path, {"run": 2})
    assert load_network(path, UNet)[1] == {"run": 1}
    assert len(list(tmp_path.iterdir())) == 1
