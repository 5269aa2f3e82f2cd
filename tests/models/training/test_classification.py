"""The classifier's augmentation."""

from __future__ import annotations

import torch

from optsteps.models.classifier import Classifier
from optsteps.models.training import ClassifierTraining


def _classifier_task(max_shift: float, max_degrees: float, max_scale: float) -> ClassifierTraining:
    return ClassifierTraining(Classifier(1, 8, 4, 6), max_shift, max_degrees, max_scale, 0.0, 1e-3, 0.0, 10, [0.9], 0)


def test_augmentation_moves_a_little_and_fills_with_darkness() -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(_classifier_task(0, 0, 0)._augment(images), images, rtol=0, atol=1e-5)
    dark = torch.full_like(images, -1)
    torch.testing.assert_close(_classifier_task(0.5, 45, 0.3)._augment(dark), dark)
    moved = _classifier_task(0.08, 10, 0.1)._augment(images)
    assert 0.01 < (moved - images).abs().mean() < 1
    # a bright spot in the middle moves by less than the shift, here at most 2 of 8 pixels
    spot = dark.clone()
    spot[:, :, 3:5, 3:5] = 1
    weight = _classifier_task(0.25, 0, 0)._augment(spot) + 1
    place = (weight * torch.arange(8)).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    assert 0.5 < (place - 3.5).abs().max() <= 2 + 1e-5
