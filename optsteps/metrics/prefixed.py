"""Another judge's measurements under names of their own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement


class PrefixedJudge(Judge):
    """Another judge's measurements, each named `prefix` and the other judge's name.

    Args:
        judge: the other judge.
    """

    prefix: str

    def __init__(self, judge: Judge) -> None:
        self.judge_of_samples, self.needs_many = judge, judge.needs_many

    @property
    def figures(self) -> dict[str, bool | None] | None:
        of_samples = self.judge_of_samples.figures
        return None if of_samples is None else {self.prefix + name: higher for name, higher in of_samples.items()}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        self.judge_of_samples.check(samples, shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        measurements = self.judge_of_samples.judge(x, teacher, cond)
        return {self.prefix + name: measurement for name, measurement in measurements.items()}
