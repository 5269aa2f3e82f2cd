"""Accuracy: the share of samples in which a classifier sees the class of their condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement, sample_wise
from optsteps.models.checkpoint import load_network
from optsteps.models.classifier import FeatureClassifier


def class_correct(
    classifier: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int = 256
) -> Tensor:
    """1 where the classifier's likeliest class is the label, else 0.

    Args:
        classifier: images [B, C, H, W] -> logits [B, K]. A module is judged in evaluation mode and left as it was.
        images: [N, C, H, W] on the classifier's device, in the range the classifier works in.
        labels: integer classes [N].
        batch_size: images at a time.

    Returns:
        float32 [N] of 0 and 1 on the images' device.

    Raises:
        ValueError: there is not one label per image, or a logit is not finite.
    """
    if labels.shape != images.shape[:1]:
        raise ValueError(f"expected one label per image, got labels {tuple(labels.shape)} for {len(images)} images")
    training = isinstance(classifier, nn.Module) and classifier.training
    if isinstance(classifier, nn.Module):
        classifier.eval()
    try:
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in images.split(batch_size)])
    finally:
        if isinstance(classifier, nn.Module):
            classifier.train(training)
    # argmax takes NaN for the largest, so a broken sample would count as an arbitrary class
    broken = ~logits.isfinite().all(1)
    if broken.any():
        raise ValueError(f"the classifier's logits are not finite for {int(broken.sum())} of {len(images)} images")
    return (logits.argmax(1) == labels.to(logits.device)).float()


class ClassJudge(Judge):
    """The share of samples in which a classifier sees the class of their condition ("accuracy").

    Args:
        weights: of a `FeatureClassifier`, a path or `shipped:NAME`.
    """

    def __init__(self, weights: str) -> None:
        self.classifier, _ = load_network(weights, FeatureClassifier)

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"accuracy": True}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        super().check(samples, shape)
        if shape is not None:
            class_correct(self.classifier.cpu(), torch.zeros(1, *shape), torch.zeros(1))

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        if cond is None:
            return {}
        return {"accuracy": sample_wise(class_correct(self.classifier.to(x.device), x, cond), True)}
