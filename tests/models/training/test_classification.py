"""The classifier's augmentation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from optsteps.models.classifier import Classifier
from optsteps.models.training import ClassifierTraining


def _classifier_task(
    max_shift: float, max_degrees: float, max_scale: float, mirrored: float = 0.0, cutout: float = 0.0
) -> ClassifierTraining:
    network = Classifier(1, 8, 4, 6)
    return ClassifierTraining(
        network, max_shift, max_degrees, max_scale, 0.0, 1e-3, 0.0, 10, [0.9], 0, mirrored, cutout
    )


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


def test_half_of_the_images_are_mirrored_and_the_others_are_as_they_were() -> None:
    images = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(1)
    augmented = _classifier_task(0, 0, 0, mirrored=0.5)._augment(images)
    same, mirrored = ((augmented - other).abs().amax((1, 2, 3)) < 1e-5 for other in (images, images.flip(-1)))
    assert bool((same ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_an_image_that_is_only_shifted_stays_sharp() -> None:
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(1)
    padded = F.pad(images, (2, 2, 2, 2), value=-1)
    crops = torch.stack([padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)])
    distances = (_classifier_task(0.25, 0, 0)._augment(images) - crops).abs().amax((2, 3, 4))
    assert distances.amin(0).max() < 1e-5
    assert len(distances.argmin(0).unique()) > 10


@pytest.mark.parametrize(("cutout", "erased"), [(0.25, 2), (0.5, 4), (0.875, 7)])
def test_cutout_erases_one_square_of_each_image_and_nothing_else(cutout: float, erased: int) -> None:
    images = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.manual_seed(1)
    augmented = _classifier_task(0, 0, 0, cutout=cutout)._cut_out(images)
    gone = augmented == 0
    assert torch.equal(augmented[~gone], images[~gone])
    assert torch.equal(gone.any(1), gone.all(1))
    rows, columns = gone[:, 0].any(2), gone[:, 0].any(1)
    assert torch.equal(gone[:, 0], rows[:, :, None] & columns[:, None])
    for touched in (rows, columns):
        first = touched.int().argmax(1)
        place = torch.arange(8)
        assert torch.equal(touched, (place >= first[:, None]) & (place < first[:, None] + erased))
        assert set(first.tolist()) == set(range(8 - erased + 1))


def test_augmentation_cuts_out_only_where_it_is_told_to() -> None:
    images = torch.rand(8, 1, 8, 8) + 0.1
    assert ((_classifier_task(0, 0, 0, cutout=0.5)._augment(images) == 0).sum((1, 2, 3)) == 16).all()
    assert (_classifier_task(0, 0, 0)._augment(images) > 0).all()
    for cutout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"cutout = {cutout:g} must be a fraction"):
            _classifier_task(0, 0, 0, cutout=cutout)


def test_every_stage_halves_the_resolution_and_doubles_the_channels() -> None:
    network = Classifier(3, 16, 4, 6, stages=3).eval()
    channels = [layer.out_channels for layer in network.body if isinstance(layer, torch.nn.Conv2d)]
    assert channels == [4, 4, 8, 8, 16, 16]
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 10)
    again = Classifier(**network.config)
    again.load_state_dict(network.state_dict())
