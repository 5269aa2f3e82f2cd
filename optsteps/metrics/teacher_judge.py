"""Judge of the distance of samples to the teacher's samples from the same noise."""

from __future__ import annotations

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement, sample_wise
from optsteps.metrics.teacher import mse, psnr


class TeacherJudge(Judge):
    """PSNR (dB) and MSE to the teacher's samples from the same noise.

    Args:
        data_range: largest minus smallest possible value of the data, e.g. 2 for images in [-1, 1]. None, for data
            without a range, leaves PSNR out.
    """

    def __init__(self, data_range: float | None) -> None:
        self.data_range = data_range

    @property
    def figures(self) -> dict[str, bool | None]:
        return {"mse": False} if self.data_range is None else {"mse": False, "psnr": True}

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        errors = mse(x, teacher)
        measurements = {"mse": sample_wise(errors, False, compares_with_teacher=True)}
        # PSNR is infinite where the two agree exactly, and has no mean then
        if self.data_range is not None and bool((errors > 0).all()):
            measurements["psnr"] = sample_wise(psnr(x, teacher, self.data_range), True, compares_with_teacher=True)
        return measurements
