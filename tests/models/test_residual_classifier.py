"""The residual classifier: its parts, what it refuses, and that a judge may load it or the plain one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from optsteps.metrics.accuracy import ClassJudge
from optsteps.models.checkpoint import load_network, save_network
from optsteps.models.classifier import Classifier, FeatureClassifier
from optsteps.models.residual_classifier import ResidualClassifier
from optsteps.models.unet import UNet


@pytest.mark.parametrize(
    ("channels", "resolution", "widths"), [(3, 32, [4, 8, 6]), (1, 8, [4, 6]), (3, 8, (4, 8, 8, 6))]
)
def test_shapes(channels: int, resolution: int, widths: list[int]) -> None:
    network = ResidualClassifier(channels, resolution, widths, num_classes=5).eval()
    images = torch.rand(3, channels, resolution, resolution) * 2 - 1
    features = network.features(images)
    assert (features.shape, network(images).shape) == ((3, 6), (3, 5))
    assert torch.equal(network(images), network.head(features))


def test_every_stage_halves_the_resolution() -> None:
    network = ResidualClassifier(3, 32, [4, 6, 8, 10]).eval()
    sides: list[tuple[int, ...]] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, given, made: sides.append((*made.shape[1:3], given[0].shape[1])))
    network(torch.zeros(1, 3, 32, 32))
    # channels and height of what each convolution makes, and channels of what it is given: the first, then three a
    # stage, the first of which comes before the maximum
    assert sides == [
        (4, 32, 3),
        *[(6, 32, 4), (6, 16, 6), (6, 16, 6)],
        *[(8, 16, 6), (8, 8, 8), (8, 8, 8)],
        *[(10, 8, 8), (10, 4, 10), (10, 4, 10)],
    ]


def test_a_pair_is_added_to_what_it_is_given() -> None:
    """With the scale of the pairs' last normalisations at 0, the features are those of the network without pairs."""
    torch.manual_seed(0)
    network = ResidualClassifier(3, 8, [4, 6]).eval()
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    with_pair = network.features(images)
    first, stage = network.body[0], network.body[1]
    nn.init.zeros_(stage[1].pair[1][1].weight)
    without = stage[0](first(images)).mean((2, 3))
    torch.testing.assert_close(network.features(images), without)
    assert not torch.allclose(with_pair, without)


def test_images_of_another_size_are_refused() -> None:
    network = ResidualClassifier(3, 16, [4, 6])
    for shape in [(2, 3, 32, 32), (2, 1, 16, 16), (2, 3, 16, 8)]:
        with pytest.raises(ValueError, match=r"images of shape \(3, 16, 16\), not"):
            network(torch.zeros(shape))


@pytest.mark.parametrize(("resolution", "widths"), [(32, [4]), (28, [4, 4, 4, 4]), (8, [])])
def test_widths_that_do_not_fit_are_refused(resolution: int, widths: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"(?s)widths = .*resolution, which is {resolution}"):
        ResidualClassifier(3, resolution, widths)


def test_a_judge_loads_either_classifier_and_no_other_network(tmp_path: Path) -> None:
    for network in (ResidualClassifier(3, 8, [4, 6]), Classifier(3, 8, 4, 6)):
        save_network(network, path := tmp_path / "network.safetensors", {})
        again, _ = load_network(path, FeatureClassifier)
        assert type(again) is type(network)
        images = torch.rand(4, 3, 8, 8) * 2 - 1
        # as it was saved, but for the order in which the convolutions add
        assert torch.equal(again(images), network.to(memory_format=torch.channels_last).eval()(images))
        said = network(images).argmax(1)
        assert ClassJudge(str(path)).judge(images, images, said)["accuracy"].interval.value == 1
    with pytest.raises(ValueError, match="holds a Classifier, but a ResidualClassifier is needed"):
        load_network(path, ResidualClassifier)
    save_network(UNet(1, [4], embedding=4), path, {})
    with pytest.raises(ValueError, match="holds a UNet, but a FeatureClassifier is needed"):
        load_network(path, FeatureClassifier)


def test_a_class_of_the_callers_own_is_loaded(tmp_path: Path) -> None:
    class Own(ResidualClassifier):
        """Not among the package's networks."""

    save_network(Own(3, 8, [4, 6]), path := tmp_path / "network.safetensors", {})
    assert type(load_network(path, Own)[0]) is Own
    with pytest.raises(ValueError, match="holds a Own, but a FeatureClassifier is needed"):
        load_network(path, FeatureClassifier)
