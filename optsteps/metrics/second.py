"""A second opinion on figures that a search may have aimed at."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from optsteps.conditions import Cond
from optsteps.metrics.base import Judge, Measurement

SECOND = "second_"


class SecondJudge(Judge):
    """Another judge's measurements, each named `second_` and the other judge's name.

    A search for the best figure of one judge may find what pleases that judge alone. A second judge of the same kind
    that the search never asks, such as an FID of another network's features, says how much of a gain is not its own.

    Args:
        judge: the other judge.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge_of_samples, self.needs_many = judge, judge.needs_many

    @property
    def figures(self) -> dict[str, bool | None] | None:
        of_samples = self.judge_of_samples.figures
        return None if of_samples is None else {SECOND + name: higher for name, higher in of_samples.items()}

    def check(self, samples: int, shape: Sequence[int] | None) -> None:
        self.judge_of_samples.check(samples, shape)

    def judge(self, x: Tensor, teacher: Tensor, cond: Cond) -> dict[str, Measurement]:
        measurements = self.judge_of_samples.judge(x, teacher, cond)
        return {SECOND + name: measurement for name, measurement in measurements.items()}
