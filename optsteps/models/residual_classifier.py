"""A small residual image classifier, for colour images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from optsteps.models.classifier import FeatureClassifier


class ResidualClassifier(FeatureClassifier):
    """A convolution, stages that end in a residual pair, a mean over all places, a linear layer.

    It is a narrow relative of the ResNet of nine layers in D. Page's fast recipe for CIFAR-10 ("How to train your
    ResNet", 2018, for DAWNBench). The features are the means of the last stage's channels.

    Args:
        image_channels: channels of the image.
        resolution: height and width of the image.
        widths: channels of the first convolution, then of every stage, which halves the resolution. The last is the
            length of the feature vector.
        num_classes: number of classes.

    Raises:
        ValueError: there is no stage, or the resolution cannot be halved in every one.
    """

    def __init__(
        self,
        image_channels: int = 3,
        resolution: int = 32,
        widths: Sequence[int] = (24, 64, 192, 256),
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or resolution % 2 ** (len(widths) - 1):
            raise ValueError(
                f"widths = {list(widths)} must have at least 2 entries, and every one after the first halves the "
                f"resolution, which is {resolution}; give as many as it can be halved"
            )
        self.config = {
            "image_channels": image_channels,
            "resolution": resolution,
            "widths": list(widths),
            "num_classes": num_classes,
        }
        stages = [
            nn.Sequential(_convolution(width_in, width_out, nn.MaxPool2d(2)), _ResidualPair(width_out))
            for width_in, width_out in pairwise(widths)
        ]
        self.body = nn.Sequential(
            _convolution(image_channels, widths[0]), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(widths[-1], num_classes)


class _ResidualPair(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pair(x)


def _convolution(width_in: int, width_out: int, *pool: nn.Module) -> nn.Sequential:
    # pooled before the normalisation, which then costs a quarter
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), *pool, nn.BatchNorm2d(width_out), nn.SiLU()
    )
