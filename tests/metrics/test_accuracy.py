import pytest
import torch
from torch import Tensor, nn

from optsteps.metrics.accuracy import class_correct


def _brightest_row(images: Tensor) -> Tensor:
    return images.mean(3)[:, 0]


def test_one_answer_per_sample_in_order() -> None:
    rows = torch.tensor([2, 0, 1, 1, 3])
    images = nn.functional.one_hot(rows, 4)[:, None, :, None].float().expand(-1, 1, 4, 4)
    labels = torch.tensor([2, 1, 1, 0, 3])
    for batch_size in (1, 2, 256):
        assert class_correct(_brightest_row, images, labels, batch_size).tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_a_module_is_judged_in_evaluation_mode_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 4))
    images = torch.randn(64, 1, 4, 4)
    labels = network.eval()(images).argmax(1)
    assert class_correct(network.train(), images, labels).mean() == 1
    assert network.training
    correct = class_correct(network.eval(), images.requires_grad_(), labels)
    assert not network.training
    assert not correct.requires_grad


def test_errors() -> None:
    with pytest.raises(ValueError, match="one label per image"):
        class_correct(_brightest_row, torch.zeros(3, 1, 4, 4), torch.zeros(2))
    images = torch.zeros(3, 1, 4, 4)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 of 3"):
        class_correct(_brightest_row, images, torch.zeros(3))
