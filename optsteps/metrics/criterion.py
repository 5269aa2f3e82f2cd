"""Criterion of a search that is a judge's measurement."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from optsteps.metrics.base import Judge


class MeasurementCriterion:
    """A judge's measurement as a number that a search makes small (`AYS(criterion=...)`).

    It is the negative of the measured number where higher is better.

    Args:
        judge: a judge that needs no condition. It compares with its own reference, or with the search's.
        figure: the name of one of its measurements.
    """

    def __init__(self, judge: Judge, figure: str) -> None:
        self.judge, self.figure = judge, figure

    def check(self, samples: int, shape: Sequence[int]) -> None:
        """Refuse, before a search begins, what `Judge.check` refuses and a measurement that the judge does not have."""
        self.judge.check(samples, shape)
        if self.judge.figures is not None:
            self._check_figure(self.judge.figures)

    def __call__(self, samples: Tensor, reference: Tensor) -> float:
        """The number for samples [B, ...]. Raises ValueError where the judge has no such measurement."""
        measurements = self.judge.judge(samples, reference, None)
        self._check_figure(measurements)
        measurement = measurements[self.figure]
        return -measurement.interval.value if measurement.higher_is_better else measurement.interval.value

    def _check_figure(self, names: Collection[str]) -> None:
        if self.figure not in names:
            raise ValueError(f"{type(self.judge).__name__} has no figure {self.figure!r}; it has {', '.join(names)}")
