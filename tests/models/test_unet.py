import pytest
import torch
from torch import Tensor, nn

from optsteps.models.classifier import Classifier
from optsteps.models.unet import UNet


def _randomised(network: nn.Module) -> nn.Module:
    """In evaluation mode with every weight drawn: fresh networks end in zeros, which would hide everything."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval().requires_grad_(False)


def _images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("channels", "widths", "blocks", "patch", "size"),
    [
        (1, [8], 1, 1, (5, 7)),
        (1, [8, 16], 1, 1, (8, 8)),
        (3, [8, 16, 24], 2, 1, (8, 12)),
        (1, [8, 16], 1, 2, (28, 28)),
        (3, [16], 1, 4, (8, 16)),
        (1, [7, 33], 1, 1, (6, 6)),
        (1, [5, 9, 11], 1, 2, (8, 8)),
        (1, [8, 65], 1, 1, (4, 4)),
        (2, [12, 112], 1, 1, (4, 4)),
    ],
    ids=str,
)
def test_output_has_the_shape_of_the_image(
    channels: int, widths: list[int], blocks: int, patch: int, size: tuple[int, int]
) -> None:
    network = _randomised(UNet(channels, widths, blocks, embedding=16, num_classes=4, patch=patch))
    x, c_noise, labels = _images(3, channels, *size), torch.linspace(-1, 1, 3), torch.tensor([0, 3, 4])
    out = network(x, c_noise, labels)
    assert out.shape == x.shape
    # every sample by itself, and every input has a say
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(network(x[one], c_noise[one], labels[one]), out[one], rtol=1e-4, atol=1e-4)
    changed = [(x.flip(0), c_noise, labels), (x, c_noise + 0.3, labels), (x, c_noise, labels.flip(0))]
    assert all((network(*inputs) - out).abs().max() > 1e-3 for inputs in changed)


@pytest.mark.parametrize("num_classes", [0, 4])
def test_no_label_is_the_null_label(num_classes: int) -> None:
    network = _randomised(UNet(1, [8], embedding=16, num_classes=num_classes))
    x, c_noise = _images(2, 1, 4, 4), torch.tensor([-0.5, 0.5])
    assert torch.equal(network(x, c_noise), network(x, c_noise, torch.full((2,), num_classes)))
    with pytest.raises(IndexError):
        network(x, c_noise, torch.full((2,), num_classes + 1))


def test_a_fresh_unet_returns_zero_and_can_learn_from_everything() -> None:
    network = UNet(1, [8, 16], embedding=16, num_classes=4, patch=2)
    x, c_noise = _images(2, 1, 8, 8), torch.tensor([-0.5, 0.5])
    assert torch.equal(network(x, c_noise), torch.zeros_like(x))
    network = _randomised(network).requires_grad_()
    network(x, c_noise, torch.tensor([0, 1])).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())


def test_augmentation_labels() -> None:
    network = _randomised(UNet(1, [8], embedding=16, num_classes=4, augmentations=2))
    x, c_noise, labels = _images(3, 1, 4, 4), torch.linspace(-1, 1, 3), torch.tensor([0, 3, 4])
    plain = network(x, c_noise, labels)
    assert torch.equal(network(x, c_noise, labels, augmentation=torch.zeros(3, 2)), plain)
    told = network(x, c_noise, labels, augmentation=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(told[0], plain[0])
    assert ((told - plain).abs().amax((1, 2, 3))[1:] > 1e-3).all()


@pytest.mark.parametrize(
    "network", [UNet(3, (8, 12), 2, 24, 5, 0.1, 2, 1, 0, 1), Classifier(3, 8, 4, 6, 5)], ids=["unet", "cls"]
)
def test_config_rebuilds_the_network(network: UNet | Classifier) -> None:
    again = type(network)(**network.config)
    assert again.config == network.config
    assert str(again) == str(network)


@pytest.mark.parametrize(("channels", "resolution"), [(1, 28), (3, 8)])
def test_classifier(channels: int, resolution: int) -> None:
    network = _randomised(Classifier(channels, resolution, width=4, features=6, num_classes=5))
    assert isinstance(network, Classifier)
    x = _images(3, channels, resolution, resolution)
    features = network.features(x)
    assert (features.shape, network(x).shape) == ((3, 6), (3, 5))
    assert torch.equal(network(x), network.head(features))
