"""A judge for optsteps: it measures the samples of every schedule."""

from __future__ import annotations

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.judges import Judge, Measurement, sample_wise


class MyMetric(Judge):
    """Mean absolute difference of each sample from the teacher's sample of the same noise."""

    @property
    def figures(self) -> dict[str, bool | None]:
        """Names of what is measured, with whether higher is better (None: neither is)."""
        return {"absolute_difference": False}

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        difference = (x - teacher).abs().flatten(1).double().mean(1)  # a number for every sample
        return {"absolute_difference": sample_wise(difference, higher_is_better=False, compares_with_teacher=True)}
