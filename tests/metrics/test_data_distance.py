"""The distance of images to a data set."""

import pytest
import torch

from optsteps.datasets import ImageSet, to_unit_range
from optsteps.metrics import sliced_wasserstein
from optsteps.metrics.judges import DataJudge


def test_images_are_compared_by_their_pixels() -> None:
    images = torch.randint(256, (50, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data, shift = to_unit_range(images), 0.25
    judge = DataJudge(ImageSet(images, torch.zeros(50), "noise"))
    assert judge.figures == {"sliced_wasserstein": False}
    assert judge.judge(data, data, None)["sliced_wasserstein"].interval.value == pytest.approx(0, abs=1e-9)
    moved = judge.judge(data + shift, data, None)["sliced_wasserstein"]
    assert moved.interval.value == pytest.approx(sliced_wasserstein((data + shift).flatten(1), data.flatten(1)))
    # what is nearer in every pixel is nearer
    assert judge.judge(data + shift / 2, data, None)["sliced_wasserstein"].interval.value < moved.interval.value / 1.9
    judge.check(16, (3, 4, 4))
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) cannot be compared with images of shape \(3, 4, 4\)"):
        judge.check(16, (1, 4, 4))
    with pytest.raises(ValueError, match="take at least 16"):
        judge.check(15, (3, 4, 4))
