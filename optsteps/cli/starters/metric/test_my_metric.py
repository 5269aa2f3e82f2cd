"""The judge measures what it says, in the direction that it says."""

from __future__ import annotations

import pytest
import torch
from my_metric import MyMetric


def test_a_shift_is_measured() -> None:
    teacher = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    measured = MyMetric().judge(teacher - 0.25, teacher, None)
    assert {name: figure.higher_is_better for name, figure in measured.items()} == MyMetric().figures
    assert measured["absolute_difference"].interval.value == pytest.approx(0.25)
