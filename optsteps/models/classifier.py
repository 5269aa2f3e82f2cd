"""Small image classifiers, which judge whether an image shows its class and extract features for FID."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn


class FeatureClassifier(nn.Module):
    """A classifier in two parts: images -> features -> logits.

    Attributes:
        config: arguments of the constructor, among them `image_channels` and `resolution`.
        body: images [B, C, H, W] -> features [B, F].
        head: features [B, F] -> logits [B, K].
    """

    config: dict[str, Any]
    body: nn.Module
    head: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> features [B, F].

        Raises:
            ValueError: images of another size.
        """
        expected = (self.config["image_channels"], self.config["resolution"], self.config["resolution"])
        if images.shape[1:] != expected:
            raise ValueError(
                f"this classifier looks at images of shape {expected}, not {tuple(images.shape[1:])}; choose a metric "
                "that needs none (metric=teacher), or a classifier of these images"
            )
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> logits [B, num_classes]."""
        return self.head(self.features(images))


class Classifier(FeatureClassifier):
    """Stages of convolutions, a vector of features, a linear layer.

    Args:
        image_channels: channels of the image.
        resolution: height and width of the image, divisible by 2 as often as there are stages.
        width: channels of the first stage; every further one has twice as many, at half the resolution.
        features: length of the feature vector.
        num_classes: number of classes.
        stages: their number.
    """

    def __init__(
        self,
        image_channels: int = 1,
        resolution: int = 28,
        width: int = 32,
        features: int = 64,
        num_classes: int = 10,
        stages: int = 2,
    ) -> None:
        super().__init__()
        self.config = {
            "image_channels": image_channels,
            "resolution": resolution,
            "width": width,
            "features": features,
            "num_classes": num_classes,
            "stages": stages,
        }
        widths = [image_channels, *(width * 2**stage for stage in range(stages))]
        self.body = nn.Sequential(
            *(layer for pair in pairwise(widths) for layer in _stage(*pair)),
            nn.Flatten(),
            nn.Linear(widths[-1] * (resolution // 2**stages) ** 2, features),
            nn.BatchNorm1d(features),
            nn.SiLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(features, num_classes))


def _stage(width_in: int, width_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(width_in, width_out, 3, padding=1),
        nn.BatchNorm2d(width_out),
        nn.SiLU(),
        nn.Conv2d(width_out, width_out, 3, padding=1),
        nn.BatchNorm2d(width_out),
        nn.SiLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.1),
    ]
